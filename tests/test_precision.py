"""Blocks in 8 and 4 bit: how far off they are, that only they are touched, and that all else stands on them exactly."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch

from zit_app.cli import main
from zit_app.model.adapters import attach_lora
from zit_app.model.device import in_half
from zit_app.model.forward import predict_velocity
from zit_app.model.loading import load_text_encoder, load_transformer
from zit_app.model.precision import (
    STORED,
    StoredLinear,
    block_linears,
    kept_as,
    load_stored,
    save_stored,
    store_blocks,
)

CPU = torch.device("cpu")
ERRORS = {"int8": 0.02, "fp8": 0.06, "nf4": 0.25, "int8-quanto": 0.02, "fp8-quanto": 0.06}  # of one forward
ERRORS |= {"int8-fast": 0.04, "fp8-fast": 0.09}


def velocity(transformer: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 16, 8, 8, generator=generator)
    caps = [torch.randn(20, 32, generator=generator)]
    return predict_velocity(transformer, x, torch.tensor([0.7]), caps)  # type: ignore[arg-type]


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("kind", STORED)
def test_only_blocks_are_packed_and_the_answer_stays_near(kind: str, tiny_model: Path, home: Path) -> None:
    full = load_transformer(tiny_model, CPU, torch.float32)
    before = {name: weight.clone() for name, weight in full.state_dict().items()}
    expected = velocity(full)
    packed = copy.deepcopy(full)
    names = set(block_linears(packed))
    store_blocks(packed, kind, CPU)
    assert 0 < off(velocity(packed), expected) < ERRORS[kind]
    others = {name: weight for name, weight in before.items() if name.removesuffix(".weight") not in names}
    assert len(names) == 4 * 7  # two main layers, two refiners
    assert all(torch.equal(packed.state_dict()[name], weight) for name, weight in others.items())
    if not kind.endswith("-quanto"):
        bits = sum(b.numel() * b.element_size() for n, b in packed.named_buffers() if n.endswith((".packed", ".scale")))
        plain = sum(before[f"{name}.weight"].numel() for name in names)
        assert bits / plain < (1.1 if kind != "nf4" else 0.6)


@pytest.mark.parametrize("kind", STORED)
def test_the_kept_copy_is_the_same_model(kind: str, tiny_model: Path, home: Path) -> None:
    first = load_transformer(tiny_model, CPU, torch.float32, kind)
    kept = list((home / "stored").glob("*.safetensors"))
    assert len(kept) == 1
    written = kept[0].stat().st_mtime_ns
    second = load_transformer(tiny_model, CPU, torch.float32, kind)
    assert kept[0].stat().st_mtime_ns == written
    states = [model.state_dict() for model in (first, second)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())
    assert off(velocity(second), velocity(first)) < 1e-5  # other memory, other order of sums
    assert not any(tensor.is_meta for tensor in second.state_dict().values())


@pytest.mark.parametrize("kind", ["int8-fast", "fp8-fast"])
def test_fast_products_round_each_row_by_itself(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(96, 64, bias=False)
    fast, plain = (StoredLinear.of(linear, name, CPU) for name in (kind, kept_as(kind)))
    assert fast.fast and not plain.fast and torch.equal(fast.packed, plain.packed)
    x = torch.randn(2, 40, 96, generator=generator)
    x[0, 3] *= 3000  # as few tokens of Z-Image are
    x[1, 5] = 0
    with torch.no_grad():
        found, exact = fast(x), plain(x)
        assert found.shape == (2, 40, 64) and not torch.equal(found, exact)
        worst = ((found - exact).norm(dim=-1) / exact.norm(dim=-1).clamp_min(1e-9)).max().item()
        assert worst < ERRORS[kind] and not found[1, 5].any()
        assert torch.equal(fast(x[:, :4]), plain(x[:, :4]))  # too few rows for tensor cores
        assert not StoredLinear.of(torch.nn.Linear(90, 64), kind, CPU).fast  # sides that they do not take
        assert fast(x.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(fast(x), plain(x))  # a training begins like that
    x.requires_grad_()
    fast(x).sum().backward()
    grad, x.grad = x.grad, None
    plain(x).sum().backward()
    assert torch.equal(grad, x.grad)  # never through rounded inputs


@pytest.mark.parametrize("kind", STORED)
def test_a_lora_on_top_is_exact_and_learns_through_it(kind: str, tiny_model: Path, home: Path) -> None:
    packed = load_transformer(tiny_model, CPU, torch.float32, kind)
    dense = load_transformer(tiny_model, CPU, torch.float32)
    for name, layer in block_linears(packed).items():  # the weights that the packed ones stand for, in plain layers
        stands_for = layer.weight.dequantize() if kind.endswith("-quanto") else layer.weight.clone()
        block_linears(dense)[name].weight.data = stands_for
    grads = []
    for model in (packed, dense):
        attach_lora(model, rank=4, alpha=4.0, seed=1)
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1
        out = velocity(model)
        out.square().sum().backward()
        grads.append((out.detach(), [p.grad for n, p in model.named_parameters() if p.requires_grad]))
    assert off(grads[0][0], grads[1][0]) < 1e-5
    assert all(off(a, b) < 1e-4 for a, b in zip(grads[0][1], grads[1][1], strict=True))


@pytest.mark.parametrize("kind", ["int8", "fp8", "nf4", "int8-quanto"])
def test_text_encoders_can_be_packed_on_their_own(kind: str, tiny_model: Path, home: Path) -> None:
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        full = load_text_encoder(tiny_model, CPU, torch.float32)[1](tokens).last_hidden_state
        for _ in range(2):  # the second one from the kept copy
            packed = load_text_encoder(tiny_model, CPU, torch.float32, kind)[1](tokens).last_hidden_state
            assert 0 < off(packed, full) < 3 * ERRORS[kind]  # rows of 32 are too short for good scales


def test_the_table_measures_every_format_against_the_full_one(
    tiny_model: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_model, home / "models" / "mini"))
    (folder / "flavour.json").write_text('{"zit_flavour": {"steps": 2, "pixels": 64}}')
    words = ["models", "precision", "--model", "mini", "--prompt", "a cat", "--prompt", "a red apple", "--json"]
    assert main([*words, "--format", "int8", "--format", "nf4"]) == 0
    full, int8, nf4 = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert full["velocity_error"] == full["pixel_difference"] == full["feature_error"] == 0
    assert 0 < int8["velocity_error"] < nf4["velocity_error"] and 0 < int8["feature_error"] < nf4["feature_error"]
    assert full["transformer_mb"] > int8["transformer_mb"] > nf4["transformer_mb"]


def test_moving_and_casting_a_packed_model_leaves_its_weights(tiny_model: Path, home: Path, tmp_path: Path) -> None:
    model = load_transformer(tiny_model, CPU, torch.float32, "fp8")
    expected = velocity(model)
    model.to(torch.float32).to(CPU)
    assert torch.equal(velocity(model), expected)
    save_stored(tmp_path / "x.safetensors", model, "fp8")
    again = copy.deepcopy(model).to("meta")
    load_stored(tmp_path / "x.safetensors", again, "fp8", CPU)
    assert off(velocity(again), expected) < 1e-5


@pytest.mark.parametrize("name", ["amx_bf16", "avx512_bf16", "none of both"])
def test_half_numbers_are_used_where_the_processor_has_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: True, "avx2": True})
    with in_half("cpu"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.float32 if name == "none of both" else torch.bfloat16)
    with in_half("cpu", wanted=False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
