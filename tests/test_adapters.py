"""Adapters: attached, saved, read in every layout, stacked and switched by step."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ZImagePipeline
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from safetensors import safe_open
from safetensors.torch import save_file

from zit_app.core.errors import ZitError
from zit_app.flow.schedule import nodes, unshifted
from zit_app.flow.solvers import euler
from zit_app.model.adapter_files import read_adapter, save_adapter
from zit_app.model.adapter_merging import only
from zit_app.model.adapter_stack import apply_adapters, misfits
from zit_app.model.adapters import adapter_disabled, attach_lora, load_lora_state, lora_state, target_modules
from zit_app.model.draw import draw_latents, noise_for
from zit_app.model.forward import predict_velocity

Tensors = dict[str, torch.Tensor]
DIM, RANK, ALPHA = 64, 4, 2.0


@pytest.fixture
def transformer(tiny_pipeline: ZImagePipeline) -> ZImageTransformer2DModel:
    return copy.deepcopy(tiny_pipeline.transformer)


def random_lora(transformer: ZImageTransformer2DModel, seed: int = 0, rank: int = RANK) -> Tensors:
    """``lora_state`` of an adapter that was trained for a while, values that bf16 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name in target_modules(transformer):
        out_dim, in_dim = transformer.get_submodule(name).weight.shape
        for half, shape in (("A", (rank, in_dim)), ("B", (out_dim, rank))):
            values = 0.3 * torch.randn(shape, generator=generator)
            state[f"{name}.lora_{half}.weight"] = values.bfloat16().float()
    return state


def merged(transformer: ZImageTransformer2DModel, *shares: tuple[Tensors, float]) -> ZImageTransformer2DModel:
    """A copy with the low-rank products added to its weights by hand."""
    result = copy.deepcopy(transformer)
    for state, factor in shares:
        for name in target_modules(transformer):
            weight = result.get_submodule(name).weight
            weight.data += factor * state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
    return result


def some_input(count: int = 2) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    caps = [torch.randn(20, 32, generator=generator) for _ in range(count)]
    return torch.randn(count, 16, 8, 8, generator=generator), torch.full((count,), 0.75), caps


def test_the_real_model_takes_exactly_210_modules() -> None:
    with torch.device("meta"):
        real = ZImageTransformer2DModel()
    assert sum(p.numel() for p in real.parameters()) == 6_154_908_736
    attached = attach_lora(real, 16, 16.0)
    assert len(attached) == 210 and all(name.startswith("layers.") for name in attached)
    trainable = [p for p in real.parameters() if p.requires_grad]
    assert len(trainable) == 420 and all(p.dtype == torch.float32 for p in trainable)


def test_attaching_starts_from_the_frozen_model_and_the_seed_alone(transformer: ZImageTransformer2DModel) -> None:
    inputs = some_input()
    with torch.no_grad():
        before = predict_velocity(transformer, *inputs)
    other = copy.deepcopy(transformer)
    assert attach_lora(transformer, RANK, ALPHA, "attention", seed=3) == target_modules(other, "attention")
    torch.rand(1)
    attach_lora(other, RANK, ALPHA, "attention", seed=3)
    first, second = lora_state(transformer), lora_state(other)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(tensor.abs().max() > 0 for name, tensor in first.items() if "lora_A" in name)
    with torch.no_grad():
        torch.testing.assert_close(predict_velocity(transformer, *inputs), before)


def test_lora_state_round_trip_and_switch(transformer: ZImageTransformer2DModel) -> None:
    plain, state, inputs = copy.deepcopy(transformer), random_lora(transformer), some_input()
    attach_lora(transformer, RANK, ALPHA)
    load_lora_state(transformer, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in lora_state(transformer).items())
    with torch.no_grad():
        expected = predict_velocity(merged(plain, (state, ALPHA / RANK)), *inputs)
        torch.testing.assert_close(predict_velocity(transformer, *inputs), expected, atol=1e-4, rtol=1e-4)
        with adapter_disabled(transformer):
            frozen = predict_velocity(transformer, *inputs)
    torch.testing.assert_close(frozen, predict_velocity(plain, *inputs))
    assert (frozen - expected).abs().max() > 0.1
    with pytest.raises(ZitError, match="do not fit"):
        load_lora_state(transformer, random_lora(plain, rank=8))


def test_our_file_is_in_comfyui_layout_with_metadata(transformer: ZImageTransformer2DModel, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, random_lora(transformer), RANK, ALPHA, {"ss_steps": "300"})
    with safe_open(path, "pt") as file:
        keys, metadata = set(file.keys()), file.metadata()
        assert file.get_tensor("diffusion_model.layers.0.attention.to_out.0.lora_A.weight").dtype == torch.bfloat16
        assert file.get_tensor("diffusion_model.layers.1.feed_forward.w2.alpha").item() == ALPHA
    names = target_modules(transformer)
    assert keys == {f"diffusion_model.{n}.{k}" for n in names for k in ("lora_A.weight", "lora_B.weight", "alpha")}
    assert metadata["ss_network_dim"] == "4" and metadata["ss_network_alpha"] == "2" and metadata["ss_steps"] == "300"


def test_our_file_does_the_same_in_plain_diffusers(tiny_model: Path, tmp_path: Path) -> None:
    pipeline = ZImagePipeline.from_pretrained(tiny_model)
    pipeline.set_progress_bar_config(disable=True)
    transformer = copy.deepcopy(pipeline.transformer)
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, random_lora(transformer), RANK, ALPHA, {})
    caps = [torch.randn(12, 32, generator=torch.Generator().manual_seed(4))]

    def by_diffusers() -> torch.Tensor:
        return pipeline(
            prompt_embeds=caps,
            height=64,
            width=64,
            sigmas=unshifted(4).tolist(),
            num_inference_steps=4,
            guidance_scale=0.0,
            generator=torch.Generator().manual_seed(9),
            output_type="latent",
        ).images

    without = by_diffusers()
    pipeline.load_lora_weights(path)
    theirs = by_diffusers()
    stack = apply_adapters(transformer, [(read_adapter(path), 1.0, 1, 0)])
    ours = draw_latents(transformer, caps, [], [9], (64, 64), nodes(4), adapters=stack)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    assert (theirs - without).abs().max() > 0.3
    stack.remove()
    bare = draw_latents(transformer, caps, [], [9], (64, 64), nodes(4))
    torch.testing.assert_close(bare, without, atol=1e-4, rtol=1e-4)


def rename(state: Tensors, prefix: str, down: str, up: str, alpha: bool, flat: bool = False) -> Tensors:
    """The same adapter in another layout."""
    out = {}
    for key, tensor in state.items():
        name, half = key.split(".lora_")
        stem = prefix + (name.replace(".", "_") if flat else name)
        out[f"{stem}.{down if half.startswith('A') else up}.weight"] = tensor
        if alpha:
            out[f"{stem}.alpha"] = torch.tensor(ALPHA)
    return out


LAYOUTS: dict[str, Callable[[Tensors], Tensors]] = {
    "comfyui": lambda s: rename(s, "diffusion_model.", "lora_A", "lora_B", True),
    "diffusers with alpha": lambda s: rename(s, "transformer.", "lora_A", "lora_B", True),
    "peft": lambda s: rename(s, "base_model.model.", "lora_A", "lora_B", True),
    "bare": lambda s: rename(s, "", "lora_A", "lora_B", True),
    "ac-rf": lambda s: rename(s, "diffusion_model.", "lora_down", "lora_up", True),
    "kohya": lambda s: rename(s, "lora_unet_", "lora_down", "lora_up", True, flat=True),
    "diffsynth": lambda s: rename(s, "", "lora_A.default", "lora_B.default", True),
    "all-in-one": lambda s: rename(s, "model.diffusion_model.", "lora_down", "lora_up", True),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_change(transformer: ZImageTransformer2DModel, tmp_path: Path, layout: str) -> None:
    state = random_lora(transformer)
    save_file(LAYOUTS[layout](state), tmp_path / "lora.safetensors")
    adapter = read_adapter(tmp_path / "lora.safetensors")
    assert adapter.unmatched == () and sorted(adapter.modules) == sorted(target_modules(transformer))
    for name, share in adapter.modules.items():
        expected = ALPHA / RANK * state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
        torch.testing.assert_close(share.delta(), expected)


@pytest.mark.parametrize(
    ("noted", "scale"),
    [
        (None, 1.0),
        ({"transformer.r": RANK, "transformer.lora_alpha": 8}, 2.0),
        ({"transformer.lora_alpha": 8, "transformer.use_rslora": True}, 4.0),
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"layers.0.attention.to_q": 4}}, 1.0),
    ],
)
def test_scale_without_alpha_keys(
    transformer: ZImageTransformer2DModel, tmp_path: Path, noted: dict | None, scale: float
) -> None:
    state = rename(random_lora(transformer), "transformer.", "lora_A", "lora_B", False)
    metadata = {"format": "pt"} | ({"lora_adapter_metadata": json.dumps(noted)} if noted else {})
    save_file(state, tmp_path / "lora.safetensors", metadata=metadata)
    assert read_adapter(tmp_path / "lora.safetensors").modules["layers.0.attention.to_q"].scale == scale


@pytest.mark.parametrize("prefix", ["diffusion_model.layers.0.attention.", "lora_unet_layers_0_attention_"])
def test_fused_projections_are_cut_apart(tmp_path: Path, prefix: str) -> None:
    down, up = torch.randn(RANK, DIM), torch.randn(3 * DIM, RANK)
    tensors = {f"{prefix}qkv.lora_down.weight": down, f"{prefix}qkv.lora_up.weight": up}
    tensors |= {f"{prefix}out.lora_down.weight": down.clone(), f"{prefix}out.lora_up.weight": up[:DIM].clone()}
    save_file(tensors, tmp_path / "lora.safetensors")
    modules = read_adapter(tmp_path / "lora.safetensors").modules
    stem = "layers.0.attention."
    fused = torch.cat([modules[f"{stem}to_{letter}"].delta() for letter in "qkv"])
    torch.testing.assert_close(fused, up @ down)
    torch.testing.assert_close(modules[f"{stem}to_out.0"].delta(), up[:DIM] @ down)


def test_a_stack_is_the_sum_of_its_members(transformer: ZImageTransformer2DModel, tmp_path: Path) -> None:
    first, second = random_lora(transformer, 0), random_lora(transformer, 1, rank=2)
    save_adapter(tmp_path / "first.safetensors", first, RANK, ALPHA, {})
    save_adapter(tmp_path / "second.safetensors", second, 2, 2.0, {})
    adapters = [read_adapter(tmp_path / f"{name}.safetensors") for name in ("first", "second")]
    expected = merged(transformer, (first, 0.7 * ALPHA / RANK), (second, -0.4))
    apply_adapters(transformer, [(adapters[0], 0.7, 1, 0), (adapters[1], -0.4, 1, 0)])
    with torch.no_grad():
        ours, theirs = (predict_velocity(model, *some_input()) for model in (transformer, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_adapters_act_in_their_steps_only(transformer: ZImageTransformer2DModel, tmp_path: Path) -> None:
    first, second = random_lora(transformer, 0), random_lora(transformer, 1)
    save_adapter(tmp_path / "first.safetensors", first, RANK, ALPHA, {})
    save_adapter(tmp_path / "second.safetensors", second, RANK, ALPHA, {})
    scale = ALPHA / RANK
    by_step = [
        merged(transformer, (first, scale)),
        merged(transformer, (first, scale), (second, scale)),
        merged(transformer, (second, scale)),
        transformer,
    ]
    caps = some_input(1)[2]

    def velocity(x: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
        return predict_velocity(by_step[step], x, sigma[None], caps)

    with torch.no_grad():
        expected = euler(velocity, noise_for([3], 16, (64, 64)), nodes(4))
    uses = [(read_adapter(tmp_path / "first.safetensors"), 1.0, 1, 2)]
    uses += [(read_adapter(tmp_path / "second.safetensors"), 1.0, 2, 3)]
    hooked = copy.deepcopy(transformer)
    stack = apply_adapters(hooked, uses)
    for _ in range(2):  # the second picture begins with the first step's adapters again
        got = draw_latents(hooked, caps, [], [3], (64, 64), nodes(4), adapters=stack)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_named_and_nothing_is_applied_partly(
    transformer: ZImageTransformer2DModel, tmp_path: Path
) -> None:
    state = LAYOUTS["comfyui"](random_lora(transformer))
    state["diffusion_model.layers.7.attention.to_q.lora_A.weight"] = torch.zeros(RANK, DIM)
    state["diffusion_model.layers.7.attention.to_q.lora_B.weight"] = torch.zeros(DIM, RANK)
    state["text_encoder.something.lora_A.weight"] = torch.zeros(2, 2)
    state["diffusion_model.layers.0.attention.to_q.something"] = torch.zeros(2, 2)
    file = tmp_path / "lora.safetensors"
    save_file(state, file)
    with pytest.raises(ZitError, match="1 keys besides 44") as caught:
        read_adapter(file)
    assert "zit lora convert" in caught.value.remedy
    adapter = read_adapter(file, partly=True)
    assert adapter.unmatched == ("diffusion_model.layers.0.attention.to_q.something",)
    assert adapter.text_encoder == ("text_encoder.something.lora_A.weight",)
    assert misfits(transformer, adapter) == ["layers.7.attention.to_q"]
    with pytest.raises(ZitError, match="1 of the 15 modules"):
        apply_adapters(transformer, [(adapter, 1.0, 1, 0)])
    apply_adapters(transformer, [(only(adapter, set(adapter.names) - {"layers.7.attention.to_q"}), 1.0, 1, 0)])


def test_a_lora_of_another_size_is_refused(transformer: ZImageTransformer2DModel, tmp_path: Path) -> None:
    state = {k: torch.cat([t, t], 1 if "lora_A" in k else 0) for k, t in random_lora(transformer).items()}
    save_adapter(tmp_path / "big.safetensors", state, RANK, ALPHA, {})
    with pytest.raises(ZitError, match="another one"):
        apply_adapters(transformer, [(read_adapter(tmp_path / "big.safetensors"), 1.0, 1, 0)])
