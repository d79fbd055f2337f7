"""All-in-one files and ComfyUI's folders: text encoder and VAE are found, fit, and draw what the folder draws."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.test_checkpoint_files import comfyui, fp8_old, prefixed
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import GenerateSettings
from zit_app.core.models import find_model
from zit_app.engine.generate import generate

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with what cannot be read from shapes as in the real one: rotary base, 32 groups, attention."""
    folder = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("whole") / "whole"))
    config = folder / "text_encoder" / "config.json"
    rope = {"rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}, "rms_norm_eps": 1e-6}
    config.write_text(json.dumps({**json.loads(config.read_text()), **rope}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32, 32, 64, 64),
            layers_per_block=1,
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.3611,
            shift_factor=0.1159,
        ).save_pretrained(folder / "vae")
    return folder


def original_vae(state: State) -> State:
    """Diffusers' weights of an autoencoder of four levels under the names of the original layout."""
    out: State = {}
    for name, tensor in state.items():
        for i in range(4):
            name = name.replace(f"decoder.up_blocks.{i}.", f"decoder.up.{3 - i}.")
            name = name.replace(f"encoder.down_blocks.{i}.", f"encoder.down.{i}.")
        for k in range(2):
            name = name.replace(f"mid_block.resnets.{k}.", f"mid.block_{k + 1}.")
        if "mid_block.attentions.0." in name:
            name = name.replace("mid_block.attentions.0.", "mid.attn_1.").replace("to_out.0.", "proj_out.")
            name = name.replace("group_norm.", "norm.")
            for one in "qkv":
                name = name.replace(f"to_{one}.", f"{one}.")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        name = name.replace("resnets.", "block.").replace("samplers.0.", "sample.").replace("conv_norm_out", "norm_out")
        out[name.replace("conv_shortcut", "nin_shortcut")] = tensor.contiguous()
    return out


def parts(whole: Path) -> tuple[State, State, State]:
    transformer = load_file(whole / "transformer" / "diffusion_pytorch_model.safetensors")
    encoder = load_file(whole / "text_encoder" / "model.safetensors")
    vae = load_file(whole / "vae" / "diffusion_pytorch_model.safetensors")
    return comfyui(transformer), encoder, original_vae(vae)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


SETTINGS = GenerateSettings(prompts=("a cat",), width=64, height=64, steps=4, guidance=0.0, seed=3)


def test_an_all_in_one_file_needs_only_a_tokenizer(whole: Path, home: Path, tmp_path: Path) -> None:
    transformer, encoder, vae = parts(whole)
    file = tmp_path / "everything.safetensors"
    heads = {"text_encoders.qwen3_4b.transformer.lm_head.weight": torch.ones(3)}
    inside = prefixed(encoder, "text_encoders.qwen3_4b.transformer.model.")
    save_file({**prefixed(transformer, "model.diffusion_model."), **inside, **heads, **prefixed(vae, "vae.")}, file)
    with pytest.raises(ZitError, match=r"tokenizer .*11 MB"):
        find_model(file)
    shutil.copytree(whole / "tokenizer", home / "models" / "Z-Image-Turbo" / "tokenizer")
    expected = pixels(generate(SETTINGS, whole, tmp_path / "a.png")[0])
    assert np.array_equal(pixels(generate(SETTINGS, str(file), tmp_path / "b.png")[0]), expected)
    assert not list((home / "models" / "everything").rglob("*.safetensors"))


def test_parts_lie_in_comfyuis_folders(whole: Path, home: Path, tmp_path: Path) -> None:
    transformer, encoder, vae = parts(whole)
    comfy = tmp_path / "ComfyUI" / "models"
    for folder in ("diffusion_models", "text_encoders", "vae"):
        (comfy / folder).mkdir(parents=True)
    save_file(transformer, comfy / "diffusion_models" / "z_image_turbo_bf16.safetensors")
    save_file({"decoder.up.weight": torch.ones(2)}, comfy / "text_encoders" / "clip_l.safetensors")
    (comfy / "text_encoders" / "broken.safetensors").write_bytes(b"no")
    narrow = {name: w[:, :16].contiguous() if name == "embed_tokens.weight" else w for name, w in encoder.items()}
    save_file(prefixed(narrow, "model."), comfy / "text_encoders" / "qwen_another.safetensors")
    save_file(prefixed(encoder, "model."), comfy / "text_encoders" / "qwen_z.safetensors")
    save_file(vae, comfy / "vae" / "ae.safetensors")
    shutil.copytree(whole / "tokenizer", home / "models" / "Z-Image-Turbo" / "tokenizer")
    expected = pixels(generate(SETTINGS, whole, tmp_path / "a.png")[0])
    file = comfy / "diffusion_models" / "z_image_turbo_bf16.safetensors"
    assert np.array_equal(pixels(generate(SETTINGS, str(file), tmp_path / "b.png")[0]), expected)
    moved = (comfy / "vae" / "ae.safetensors").rename(comfy / "vae" / "other.safetensors")
    with pytest.raises(ZitError, match="ae.safetensors is gone"):
        generate(SETTINGS, "z_image_turbo_bf16", tmp_path / "c.png")
    assert np.array_equal(pixels(generate(SETTINGS, str(file), tmp_path / "d.png")[0]), expected)
    moved.unlink()
    with pytest.raises(ZitError, match="no VAE, and none that fits"):
        find_model(file)


def test_a_scaled_text_encoder_is_multiplied_out(whole: Path, home: Path, tmp_path: Path) -> None:
    transformer, encoder, vae = parts(whole)
    for folder, state in (("diffusion_models", transformer), ("vae", vae)):
        (tmp_path / folder).mkdir()
        save_file(state, tmp_path / folder / "x.safetensors")
    (tmp_path / "text_encoders").mkdir()
    named = {name.replace("self_attn.", "attention."): tensor for name, tensor in encoder.items()}  # what it scales
    scaled = {name.replace("attention.", "self_attn."): tensor for name, tensor in fp8_old(named).items()}
    save_file(prefixed(scaled, "model."), tmp_path / "text_encoders" / "qwen.safetensors")
    shutil.copytree(whole / "tokenizer", home / "models" / "Z-Image-Turbo" / "tokenizer")
    expected = pixels(generate(SETTINGS, whole, tmp_path / "a.png")[0])
    found = pixels(generate(SETTINGS, str(tmp_path / "diffusion_models" / "x.safetensors"), tmp_path / "b.png")[0])
    assert 0 < np.abs(found - expected).mean() < 6
