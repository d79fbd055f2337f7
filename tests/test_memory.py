"""The memory plan: weights to the byte, activations as they are measured, and the fastest layout that fits."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from tests.live_bytes import LiveBytes
from tests.tiny import TRANSFORMER
from zit_app.cli import main
from zit_app.core import full_model, memory, sizes
from zit_app.core.memory import Model, Numbers, Request, plan_layout
from zit_app.model.adapters import attach_lora
from zit_app.model.forward import predict_velocity
from zit_app.model.loading import load_transformer
from zit_app.model.precision import STORED, StoredLinear, block_linears

FULL = Model(full_model.TRANSFORMER, full_model.TEXT_ENCODER, full_model.VAE)
OMNI = {**full_model.TRANSFORMER, "siglip_feat_dim": 1152}
FEW = {"n_layers": 4}  # of the full model's blocks, in whose peak there is one after the other; two cases take all
ODD = {**TRANSFORMER, "dim": 240, "n_layers": 3, "n_heads": 4, "n_kv_heads": 4, "axes_dims": [12, 24, 24]}
WIDE = {**ODD, "n_layers": 6, "cap_feat_dim": 64}  # wide enough for activations to be more than odds and ends
MARGIN = 0.10
GIB = 2**30
CPU = torch.device("cpu")


def parameters(model: torch.nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def in_bytes(model: torch.nn.Module) -> int:
    """All that is saved: parameters, packed weights, scales."""
    return sum(one.numel() * one.element_size() for one in model.state_dict().values())


@pytest.mark.parametrize("config", [full_model.TRANSFORMER, OMNI, TRANSFORMER, ODD])
def test_weights_of_transformers_are_counted_to_the_last(config: dict[str, object]) -> None:
    with torch.device("meta"):
        model = ZImageTransformer2DModel(**config)
    assert sizes.transformer_numbers(config) == parameters(model)
    if config is full_model.TRANSFORMER:
        assert parameters(model) == 6_154_908_736


def test_weights_of_encoder_and_vae_are_counted_to_the_last() -> None:
    odd = {**full_model.VAE, "block_out_channels": [8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4}
    with torch.device("meta"):
        assert sizes.text_encoder_numbers(full_model.TEXT_ENCODER) == parameters(encoder_of(full_model.TEXT_ENCODER))
        for config in (full_model.VAE, {**odd, "mid_block_add_attention": False, "use_quant_conv": True}):
            assert sizes.vae_numbers(config) == parameters(vae_of(config))


@pytest.mark.parametrize("kind", ("", *STORED))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_every_format_are_those_that_are_saved(
    kind: str, dtype: torch.dtype, tiny_model: Path, home: Path
) -> None:
    model = load_transformer(tiny_model, CPU, dtype, kind)
    counted = sizes.transformer_weights(TRANSFORMER).size(kind, dtype.itemsize)
    assert counted == in_bytes(model)



def encoder_of(config: dict[str, object]) -> Qwen3Model:
    return Qwen3Model(Qwen3Config(**config, max_position_embeddings=1024))  # type: ignore[arg-type]


def vae_of(config: dict[str, object]) -> AutoencoderKL:
    levels = len(config["block_out_channels"])  # type: ignore[arg-type]
    types = {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
    return AutoencoderKL(**{**types, "sample_size": 64, **config})


def made(build: object, dtype: torch.dtype) -> torch.nn.Module:
    """A model born in ``dtype``: fake ones cannot be cast."""
    torch.set_default_dtype(dtype)
    try:
        return build().requires_grad_(False)  # type: ignore[operator]
    finally:
        torch.set_default_dtype(torch.float32)


def pack(model: torch.nn.Module, kind: str) -> None:
    """Packed layers without anything in them."""
    for name, layer in block_linears(model).items():
        new = StoredLinear(layer, kind)
        new.packed, new.scale = (torch.empty(one.shape, dtype=one.dtype) for one in (new.packed, new.scale))
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, new)


def drawing_peak(config: dict[str, object], request: Request, dtype: torch.dtype, kind: str) -> int:
    """Of one call."""
    model = made(lambda: ZImageTransformer2DModel(**config), dtype)
    pack(model, kind) if kind else None
    count = request.pictures * (2 if request.guided else 1)
    x = torch.randn(count, 16, request.height // 8, request.width // 8)
    caps = [torch.randn(request.caption_tokens, int(config["cap_feat_dim"]), dtype=dtype)] * count  # type: ignore[call-overload]
    with torch.no_grad(), LiveBytes() as live:
        predict_velocity(model, x, torch.full((count,), 0.7), caps)  # type: ignore[arg-type]
    return live.peak


FULL_REQUESTS = [
    (Request(1024, 1024, caption_tokens=100), "", {}),
    (Request(2048, 2048), "", FEW),
    (Request(1024, 1024, guided=True), "int8", {}),
    (Request(512, 512, caption_tokens=60), "int8", FEW),
    (Request(512, 512, caption_tokens=60), "nf4", FEW),
    (Request(1024, 1024, caption_tokens=100), "int8-fast", FEW),
    (Request(512, 512, caption_tokens=60), "fp8-fast", FEW),
]


@pytest.mark.parametrize(("request_", "kind", "blocks"), FULL_REQUESTS)
def test_drawing_with_the_full_model_takes_what_is_counted(
    request_: Request, kind: str, blocks: dict[str, int]
) -> None:
    with FakeTensorMode():
        peak = drawing_peak({**full_model.TRANSFORMER, **blocks}, request_, torch.bfloat16, kind)
    counted = memory.drawing_activations(full_model.TRANSFORMER, Numbers(2, kind, 2, ""), request_)
    assert counted == pytest.approx(peak, rel=MARGIN)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["", "int8", "nf4"])
def test_drawing_takes_what_is_counted(kind: str, dtype: torch.dtype) -> None:
    request = Request(384, 256, pictures=2, caption_tokens=60)
    counted = memory.drawing_activations(WIDE, Numbers(dtype.itemsize, kind, 2, ""), request)
    assert counted == pytest.approx(drawing_peak(WIDE, request, dtype, kind), rel=MARGIN)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reading_prompts_takes_what_is_counted(dtype: torch.dtype) -> None:
    numbers = Numbers(2, "", dtype.itemsize, "")
    with FakeTensorMode(), torch.no_grad():
        encoder = made(lambda: encoder_of(full_model.TEXT_ENCODER), dtype)
        with LiveBytes() as live:
            encoder(torch.zeros(1, 512, dtype=torch.long), output_hidden_states=True, use_cache=False)
    assert memory.reading_activations(full_model.TEXT_ENCODER, numbers, 512) == pytest.approx(live.peak, rel=MARGIN)


POCKET_VAE = {**full_model.VAE, "block_out_channels": [24, 48, 96, 128], "layers_per_block": 1, "norm_num_groups": 8}


@pytest.mark.parametrize(
    ("full", "side", "pictures", "tile"),
    [(False, 128, 1, 0), (False, 128, 3, 0), (False, 256, 1, 128), (True, 1024, 2, 0)],
)
def test_decoding_takes_what_is_counted(full: bool, side: int, pictures: int, tile: int) -> None:
    config = full_model.VAE if full else {**POCKET_VAE, "mid_block_add_attention": False}
    dtype = torch.bfloat16 if full else torch.float32
    with FakeTensorMode() if full else nullcontext(), torch.no_grad():
        vae = made(lambda: vae_of(config), dtype)
        if tile:
            vae.enable_tiling()  # type: ignore[operator]
            vae.tile_sample_min_size, vae.tile_latent_min_size = tile, tile // 8
        z = torch.randn(pictures, 16, side // 8, side // 8, dtype=dtype)
        with LiveBytes() as live:
            vae.decode(z, return_dict=False)  # type: ignore[operator]
    numbers, request = Numbers(dtype.itemsize, "", 2, ""), Request(side, side, pictures)
    assert memory.decoding_activations(config, numbers, request, False, tile) == pytest.approx(live.peak, rel=MARGIN)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("checkpointing", "first"), [(True, 0), (True, 2), (False, 0), (False, 2)])
def test_training_takes_what_is_counted(checkpointing: bool, first: int, dtype: torch.dtype) -> None:
    config = {**WIDE, "n_layers": 3}
    model = made(lambda: ZImageTransformer2DModel(**config), dtype)
    attach_lora(model, 4, 4.0, blocks=range(first, 3))  # type: ignore[arg-type]
    if checkpointing:
        model.enable_gradient_checkpointing()  # type: ignore[operator]
    learnt = sum(one.numel() for one in model.parameters() if one.requires_grad)
    caps, tokens = [torch.randn(60, 64, dtype=dtype)] * 2, 12 * 12 + 16 + 64
    with LiveBytes() as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            v = predict_velocity(model, torch.randn(2, 16, 24, 24), torch.full((2,), 0.7), caps)  # type: ignore[arg-type]
        v.square().mean().backward()
    phase = memory.training_bytes(config, dtype.itemsize, tokens, 2, checkpointing, learnt, 16, first)
    assert phase.weights == sizes.transformer_numbers(config) * dtype.itemsize + learnt * 16
    assert phase.activations == pytest.approx(live.peak - learnt * 4, rel=MARGIN)


@pytest.mark.parametrize("kind", ["", "int8", "nf4"])
@pytest.mark.parametrize("side", [1024, 2048])
def test_larger_cards_need_fewer_sacrifices_and_every_plan_keeps_its_budget(kind: str, side: int) -> None:
    numbers, request = Numbers(2, kind, 2, kind), Request(side, side)
    before = None
    for gigabytes in (6, 8, 10, 12, 16, 24, 32, 48):
        found = plan_layout(FULL, numbers, request, memory.budget_of(gigabytes * GIB))
        assert found.fits and max(phase.total for phase in found.phases) <= 0.85 * gigabytes * GIB
        sacrifice = (found.transformer_away, found.encoder_away, not found.encoder_stays)
        assert before is None or all(now <= then for now, then in zip(sacrifice, before, strict=True))
        before = sacrifice
    assert before == (0, 0, False) and found.tile == 0
    assert not plan_layout(FULL, numbers, Request(8192, 8192), memory.budget_of(4 * GIB)).fits


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_command_plans_the_full_model_without_having_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formats = {}
    for gigabytes in ("8", "12", "16", "24"):
        found = planned(capsys, "--vram", gigabytes)
        formats[gigabytes] = found["settings"]["precision"]
        assert found["fits"] and found["seconds"] is None
        assert all(phase["total"] <= found["budget"] for phase in found["drawing"])
    assert formats == {"8": "int8", "12": "int8", "16": "bf16", "24": "bf16"}
    wanted = planned(capsys, "--vram", "12", "--precision", "bf16", "--size", "2048x2048")
    assert wanted["settings"]["transformer_away"] > 0 and wanted["settings"]["tile"] == 512
    plain, guided = (planned(capsys, "--vram", "24", *more)["drawing"][1] for more in ((), ("--guidance", "4")))
    assert guided["activations"] > 1.9 * plain["activations"] and guided["weights"] == plain["weights"]
    assert main(["plan", "--model", "nothing"]) == 1


def test_the_time_is_told_from_what_was_drawn_here(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(capsys, "--model", "pocket")["seconds"] is None
    words = ["generate", "--model", "pocket", "--prompt", "flat emoji, cat face", "--count", "2", "--steps", "2"]
    assert main([*words, "--size", "64x64"]) == 0
    capsys.readouterr()
    two, four = (planned(capsys, "--model", "pocket", "--size", "64x64", "--steps", n)["seconds"] for n in ("2", "4"))
    assert 0 < two == pytest.approx(four / 2)
    assert planned(capsys, "--model", "pocket", "--precision", "int8")["seconds"] is None  # another format
    assert planned(capsys, "--model", "pocket", "--vram", "8")["seconds"] is None  # another machine
