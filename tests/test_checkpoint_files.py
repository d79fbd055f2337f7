"""Single-file checkpoints: what they are is told, their weights are the folder's, and what does not fit is said."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from zit_app.cli import main
from zit_app.core.checkpoints import describe_file
from zit_app.core.errors import ZitError
from zit_app.core.files import read_json
from zit_app.core.generate_settings import GenerateSettings
from zit_app.core.models import BASE, find_model, list_models, read_flavour, weight_files
from zit_app.engine.generate import generate
from zit_app.model.checkpoints import diffusers_names, transformer_state, unrotated
from zit_app.model.loading import load_transformer

CPU = torch.device("cpu")
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def weights(tiny_model: Path) -> State:
    return load_file(tiny_model / "transformer" / "diffusion_pytorch_model.safetensors")


@pytest.fixture
def models(tiny_model: Path, home: Path) -> Path:
    """A home with one whole model in it, which lends its other parts."""
    shutil.copytree(tiny_model, home / "models" / "mini")
    return home / "models"


def comfyui(state: State) -> State:
    """Diffusers' weights under the names of the original checkpoint."""
    out: State = {"norm_final.weight": torch.ones(64)}
    for name, tensor in state.items():
        name = name.replace("all_x_embedder.2-1.", "x_embedder.").replace("all_final_layer.2-1.", "final_layer.")
        name = name.replace(".norm_q.", ".q_norm.").replace(".norm_k.", ".k_norm.").replace(".to_out.0.", ".out.")
        if ".attention.to_q." in name:
            others = [state[name.replace(".to_q.", f".to_{one}.")] for one in "kv"]
            out[name.replace(".to_q.", ".qkv.")] = torch.cat([tensor, *others])
        elif ".to_k." not in name and ".to_v." not in name:
            out[name] = tensor
    return out


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def is_block(name: str, tensor: torch.Tensor) -> bool:
    return tensor.ndim == 2 and (".attention." in name or ".feed_forward." in name)


def fp8_old(state: State, prefix: str = "") -> State:
    """ComfyUI's scaled fp8 until 2025."""
    out: State = {prefix + "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in state.items():
        if is_block(name, tensor):
            scale = tensor.abs().max() / 448
            out[prefix + name] = (tensor / scale).to(torch.float8_e4m3fn)
            out[prefix + name.replace(".weight", ".scale_weight")] = scale.reshape(1)
            out[prefix + name.replace(".weight", ".scale_input")] = torch.ones(1)
        else:
            out[prefix + name] = tensor
    return out


def described(config: dict[str, Any]) -> torch.Tensor:
    return torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)


def eight_bits(state: State, config: dict[str, Any], scale_of: Callable[[torch.Tensor], torch.Tensor]) -> State:
    """ComfyUI's form since: `weight_scale` and `comfy_quant`."""
    largest, kind = (127, torch.int8) if "int8" in config["format"] else (448, torch.float8_e4m3fn)
    out: State = {}
    for name, tensor in state.items():
        if is_block(name, tensor) and tensor.shape[1] % config.get("convrot_groupsize", 1) == 0:
            if config.get("convrot"):
                tensor = unrotated(tensor, config["convrot_groupsize"])
            scale = scale_of(tensor.abs()) / largest
            stored = tensor / scale
            out[name] = (stored.round() if kind == torch.int8 else stored).to(kind)
            out[name.replace(".weight", ".weight_scale")] = scale
            out[name.replace(".weight", ".comfy_quant")] = described(config)
        else:
            out[name] = tensor
    return out


def a_row(w: torch.Tensor) -> torch.Tensor:
    return w.amax(1, keepdim=True)


VARIANTS: dict[str, tuple[Callable[[State], State], str, float]] = {
    "diffusers": (lambda s: s, "layout of diffusers, fp32", 0),
    "diffusers with a prefix": (lambda s: prefixed(s, "transformer."), "layout of diffusers, fp32", 0),
    "comfyui": (comfyui, "layout of ComfyUI, fp32", 0),
    "comfyui with a prefix": (lambda s: prefixed(comfyui(s), "diffusion_model."), "layout of ComfyUI, fp32", 0),
    "all in one": (
        lambda s: {**prefixed(comfyui(s), "model.diffusion_model."), "vae.decoder.conv_in.weight": torch.ones(2)},
        "holds other parts, too",
        0,
    ),
    "plain fp8": (lambda s: {k: v.to(torch.float8_e4m3fn) for k, v in comfyui(s).items()}, "fp8", 0.07),
    "scaled fp8, old": (lambda s: fp8_old(comfyui(s)), "fp8 with scales", 0.04),
    "scaled fp8, old, all in one": (
        lambda s: fp8_old(comfyui(s), "model.diffusion_model."), "fp8 with scales", 0.04,
    ),
    "scaled fp8": (
        lambda s: eight_bits(comfyui(s), {"format": "float8_e4m3fn"}, lambda w: w.max()), "fp8 with scales", 0.04,
    ),
    "fp8, a scale a row": (
        lambda s: eight_bits(comfyui(s), {"format": "float8_e4m3fn"}, a_row), "fp8 with scales", 0.04,
    ),
    "int8": (
        lambda s: eight_bits(comfyui(s), {"format": "int8_tensorwise"}, lambda w: w.max()), "int8 with scales", 0.02,
    ),
    "int8, rotated": (
        lambda s: eight_bits(
            comfyui(s), {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 4}, a_row
        ), "int8 with scales", 0.02,
    ),
    "int8 under diffusers' names": (
        lambda s: eight_bits(s, {"format": "int8_tensorwise"}, a_row), "int8 with scales", 0.02,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_every_form_gives_the_weights_of_the_folder(name: str, weights: State, tmp_path: Path) -> None:
    make, words, rounding = VARIANTS[name]
    file = tmp_path / "model.safetensors"
    save_file({key: value.contiguous() for key, value in make(weights).items()}, file)
    found = describe_file(file)
    assert words in found.words and found.config["n_layers"] == 2 and found.config["n_heads"] == 2
    state = transformer_state(found, torch.float32)
    assert state.keys() == weights.keys()
    for key, value in weights.items():
        error = (state[key] - value).norm() / value.norm().clamp_min(1e-9)
        assert error <= rounding, key
        if rounding and ".attention.to_" in key and "plain" not in name:
            assert error > 0, f"{key} was not quantized: the test tests nothing"


def test_scales_are_multiplied_out_exactly(weights: State, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    stored = fp8_old(comfyui(weights))
    save_file(stored, file)
    state = transformer_state(describe_file(file), torch.float32)
    key = "layers.0.attention.qkv"
    by_hand = stored[f"{key}.weight"].float() * stored[f"{key}.scale_weight"]
    assert torch.equal(torch.cat([state[f"layers.0.attention.to_{one}.weight"] for one in "qkv"]), by_hand)


def test_names_are_those_of_diffusers_own_conversion(weights: State) -> None:
    from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers

    original = comfyui(weights)
    expected = convert_z_image_transformer_checkpoint_to_diffusers(dict(original))
    names = {new for old in original if old != "norm_final.weight" for new in diffusers_names(old)}
    assert names == expected.keys() == weights.keys()


@pytest.mark.parametrize("kind, rounding", [("F16", 1e-3), ("Q8_0", 0.01), ("Q4_0", 0.12), ("BF16", 4e-3)])
def test_gguf_files_are_read(kind: str, rounding: float, weights: State, tmp_path: Path) -> None:
    import gguf

    file = tmp_path / "model.gguf"
    write_gguf(file, comfyui(weights), gguf.GGMLQuantizationType[kind])
    found = describe_file(file)
    assert f"GGUF {kind}" in found.words
    state = transformer_state(found, torch.float32)
    assert state.keys() == weights.keys()
    errors = [((state[k] - v).norm() / v.norm()).item() for k, v in weights.items() if ".to_q." in k]
    assert 0 < max(errors) <= rounding
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ZitError, match="cut short"):
        transformer_state(found, torch.float32)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ZitError, match="cut short"):
        describe_file(file)


def test_k_quants_of_gguf_are_read(tmp_path: Path) -> None:
    """Q4_K is a format of blocks of 256 weights; ggml's Python package reads it and does not write it."""
    import gguf

    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (4, 144), dtype=np.uint8)
    blocks[:, :4] = np.array([0.01, 0.02], np.float16).view(np.uint8)
    read = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_K)
    assert read.shape == (4, 256) and np.isfinite(read).all()


def write_gguf(file: Path, state: State, kind: Any) -> None:
    import gguf

    writer = gguf.GGUFWriter(file, "lumina2")
    for name, tensor in state.items():
        data = tensor.float().numpy()
        if is_block(name, tensor) and tensor.shape[1] % 32 == 0:
            packed = data.astype(np.float16) if kind.name == "F16" else gguf.quants.quantize(data, kind)
            writer.add_tensor(name, packed, raw_dtype=None if kind.name == "F16" else kind)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_the_picture_of_a_single_file_is_that_of_the_folder(
    models: Path, weights: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = tmp_path / "my-turbo.safetensors"
    save_file(prefixed(comfyui(weights), "model.diffusion_model."), file)
    settings = GenerateSettings(prompts=("a cat",), width=64, height=64, steps=4, seed=3)
    expected = pixels(generate(settings, models / "mini", tmp_path / "a.png")[0])
    assert np.array_equal(pixels(generate(settings, str(file), tmp_path / "b.png")[0]), expected)
    assert np.array_equal(pixels(generate(settings, "my-turbo", tmp_path / "c.png")[0]), expected)
    folder = find_model(file)
    assert folder == models / "my-turbo" and read_flavour(folder).steps == 8
    assert [model.name for model in list_models() if model.path == folder] == ["my-turbo"]
    assert weight_files(folder / "transformer") == [file]
    ours, theirs = (root / "text_encoder" / "model.safetensors" for root in (folder, models / "mini"))
    assert ours.samefile(theirs)  # no second copy of gigabytes


def test_a_file_that_changed_or_went_is_said(models: Path, weights: State, tmp_path: Path) -> None:
    file = tmp_path / "base-model.safetensors"
    save_file(comfyui(weights), file)
    folder = find_model(file)
    assert (read_flavour(folder).name, read_flavour(folder).shift) == ("base", BASE.shift)
    assert read_json(folder / "scheduler" / "scheduler_config.json")["shift"] == BASE.shift  # for diffusers, too
    time.sleep(0.01)
    save_file(comfyui({**weights, "x_pad_token": weights["x_pad_token"] + 1}), file)
    with pytest.raises(ZitError, match="has changed"):
        load_transformer(folder, CPU, torch.float32)
    assert find_model(file) == folder
    changed = load_transformer(folder, CPU, torch.float32).x_pad_token
    assert torch.equal(changed, weights["x_pad_token"] + 1)
    file.unlink()
    with pytest.raises(ZitError, match="is gone"):
        load_transformer(folder, CPU, torch.float32)


def test_two_files_of_one_name_are_two_models(models: Path, weights: State, tmp_path: Path) -> None:
    for place, shift in (("a", 0.0), ("b", 1.0)):
        (tmp_path / place).mkdir()
        save_file({**weights, "x_pad_token": weights["x_pad_token"] + shift}, tmp_path / place / "z.safetensors")
    first, second = (find_model(tmp_path / place / "z.safetensors") for place in "ab")
    assert first.name == "z" and second.name.startswith("z-")
    assert find_model(tmp_path / "a" / "z.safetensors") == first


def test_without_other_parts_the_way_to_get_them_is_named(home: Path, weights: State, tmp_path: Path) -> None:
    file = tmp_path / "z.safetensors"
    save_file(weights, file)
    with pytest.raises(ZitError, match="zit models download turbo --without transformer"):
        find_model(file)


FOREIGN: dict[str, tuple[State, str]] = {
    "flux": ({"double_blocks.0.img_attn.qkv.weight": torch.ones(2, 2)}, "looks like FLUX"),
    "sdxl": ({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2, 2)}, "XL"),
    "lora": ({"diffusion_model.layers.0.attention.to_q.lora_A.weight": torch.ones(2, 2)}, "is an adapter"),
    "text encoder": ({"model.layers.0.self_attn.q_proj.weight": torch.ones(2, 2)}, "text encoder"),
    "nothing": ({"a": torch.ones(2)}, "its weights are unknown"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_files_are_named_for_what_they_are(name: str, tmp_path: Path) -> None:
    state, words = FOREIGN[name]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ZitError, match=words) as caught:
        describe_file(tmp_path / "x.safetensors")
    assert caught.value.remedy


def damage(state: State, name: str) -> State:
    block = "layers.0.feed_forward.w1.weight"
    if name == "missing":
        return {key: value for key, value in state.items() if key != block}
    if name == "left over":
        return {**state, "layers.0.attention.mystery.weight": torch.ones(3)}
    if name == "shape":
        return {**state, block: torch.ones(4, 4)}
    if name == "nan":
        return {**state, block: torch.full_like(state[block], float("nan"))}
    if name == "scale":
        return {**state, block.replace(".weight", ".weight_scale"): torch.ones(7)}
    if name == "int8 without scale":
        return {**state, block: torch.ones_like(state[block], dtype=torch.int8)}
    return {**state, block.replace(".weight", ".comfy_quant"): described({"format": "nvfp4"})}


@pytest.mark.parametrize(
    "name, words",
    [
        ("missing", "lacks layers.0.feed_forward.w1.weight"),
        ("left over", "unknown layers.0.attention.mystery.weight"),
        ("shape", "another shape of layers.0.feed_forward.w1.weight"),
        ("nan", "no numbers"),
        ("scale", "scale of shape"),
        ("int8 without scale", "without its scale"),
        ("nvfp4", "stored as nvfp4"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    name: str, words: str, models: Path, weights: State, tmp_path: Path
) -> None:
    file = tmp_path / "z.safetensors"
    save_file(damage(comfyui(weights), name), file)
    with pytest.raises(ZitError, match=words):
        load_transformer(find_model(file), CPU, torch.float32)


def test_models_inspect_says_what_a_file_is(
    weights: State, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "z.safetensors"
    save_file(fp8_old(comfyui(weights)), file)
    assert main(["models", "inspect", str(file)]) == 0
    assert "layout of ComfyUI, fp8 with scales" in capsys.readouterr().out
