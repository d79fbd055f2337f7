"""Kinds of adapters and optimizers: what is trained is what the file says; what cannot be trained is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.small import small_settings
from tests.test_cache import make_dataset
from tests.training import assert_identical, new_run, stop_at, trained
from zit_app.core.errors import ZitError
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import LoraSettings, TrainingSettings
from zit_app.engine.cache import Cache, build_cache
from zit_app.engine.optimizers import new_optimizer
from zit_app.engine.train import resume
from zit_app.model.adapter_files import read_adapter, save_adapter
from zit_app.model.adapter_stack import apply_adapters
from zit_app.model.adapters import attach_lora, file_alpha, load_lora_state, lora_state
from zit_app.model.forward import predict_velocity
from zit_app.model.loading import load_transformer

KINDS = {
    "lora": dict(kind="lora"),
    "rslora": dict(kind="lora", rslora=True),
    "dora": dict(kind="dora"),
    "dora, rank-stabilised": dict(kind="dora", rslora=True),
    "lokr, full rank": dict(kind="lokr", factor=8, full_rank=True),
    "lokr, low rank": dict(kind="lokr", factor=4, full_rank=False),
}
RANK, ALPHA = 2, 6.0


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Cache:
    return build_cache(make_dataset(tmp_path_factory.mktemp("data")), tiny_model, 64)


def some_input() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, 16, 8, 8, generator=generator), torch.full((2,), 0.75), [torch.randn(20, 32) * 0 + 0.5] * 2


@pytest.mark.parametrize("name", KINDS)
def test_a_saved_adapter_does_what_the_trained_one_did(name: str, tiny_model: Path, tmp_path: Path) -> None:
    kind = KINDS[name]
    transformer = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    inputs = some_input()
    with torch.no_grad():
        before = predict_velocity(transformer, *inputs)
    assert len(attach_lora(transformer, RANK, ALPHA, seed=1, **kind)) == 14  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(predict_velocity(transformer, *inputs), before, atol=1e-5, rtol=1e-4)
    generator = torch.Generator().manual_seed(2)
    state = {}
    for key, weight in lora_state(transformer).items():
        moved = weight + 0.1 * weight.abs().mean().clamp_min(0.5) * torch.randn(weight.shape, generator=generator)
        state[key] = moved if "magnitude" in key else moved.bfloat16().float()  # values that the file holds exactly
    load_lora_state(transformer, state)
    with torch.no_grad():
        after = predict_velocity(transformer, *inputs)
    assert (after - before).abs().mean() > 0.01

    file = tmp_path / "adapter.safetensors"
    alpha = file_alpha(str(kind["kind"]), RANK, ALPHA, bool(kind.get("rslora")), bool(kind.get("full_rank")))
    save_adapter(file, lora_state(transformer), RANK, alpha, {})
    fresh = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    apply_adapters(fresh, [(read_adapter(file), 1.0, 1, 0)])
    with torch.no_grad():
        torch.testing.assert_close(predict_velocity(fresh, *inputs), after, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (dict(extra_targets="attention.to_q, adaLN_modulation.0"), "adaLN_modulation.0 must stay frozen"),
        (dict(extra_targets="norm1"), "norm1 must stay frozen"),
        (dict(extra_targets="cap_embedder.1"), "must stay frozen"),
        (dict(extra_targets="all_final_layer.2-1.linear"), "must stay frozen"),
        (dict(extra_targets="attention.to_x"), "no linear layer is called 'attention.to_x'"),
        (dict(kind="lokr", factor=128), "factor = 128 does not fit a layer that is 64 wide"),
    ],
)
def test_layers_that_must_stay_frozen_and_impossible_factors_are_refused(
    shape: dict[str, object], message: str, tiny_model: Path
) -> None:
    transformer = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    with pytest.raises(ZitError, match=message) as caught:
        attach_lora(transformer, 4, 4.0, **shape)  # type: ignore[arg-type]
    assert caught.value.remedy


def test_only_the_named_main_blocks_learn(tiny_model: Path) -> None:
    transformer = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    blocks = LoraSettings(layers=" 1 ").learning_blocks(len(transformer.layers))
    taken = attach_lora(transformer, 4, 4.0, blocks=blocks)
    assert len(taken) == 7 and all(name.startswith("layers.1.") for name in taken)
    assert LoraSettings(layers="20 - 22,7,21").learning_blocks(30) == [7, 20, 21, 22]
    assert LoraSettings().learning_blocks(30) == list(range(30))


def test_further_layers_are_trained_when_named(tiny_model: Path) -> None:
    transformer = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    named = "noise_refiner.0.attention.to_q, context_refiner.0.feed_forward.w2"
    taken = attach_lora(transformer, 4, 4.0, "attention", extra_targets=named)
    assert len(taken) == 10 and {"noise_refiner.0.attention.to_q", "context_refiner.0.feed_forward.w2"} <= set(taken)


@pytest.mark.parametrize(
    ("shape", "optimizer"),
    [
        (LoraSettings(4, 4.0, network_type="dora"), "adafactor"),
        (LoraSettings(4, 4.0, network_type="lokr", lokr_factor=8), "prodigy"),
        (LoraSettings(4, 4.0, rslora=True, extra_targets="noise_refiner.0.attention.to_q"), "adamw"),
    ],
)
def test_every_kind_and_optimizer_resumes_to_the_bit(
    shape: LoraSettings, optimizer: str, cache: Cache, tiny_model: Path, tmp_path: Path
) -> None:
    rate = 1.0 if optimizer == "prodigy" else 1e-2
    settings = replace(small_settings(max_steps=4, save_every=0, optimizer=optimizer, learning_rate=rate), lora=shape)
    whole = new_run(tmp_path / "whole", settings, cache.dataset, tiny_model)
    assert resume(whole, Progress(whole)) is not None
    run = new_run(tmp_path / "halves", settings, cache.dataset, tiny_model)
    assert resume(run, stop_at(run, 2)) is None
    again = Run.open(run.folder)
    assert resume(again, Progress(again)) is not None
    assert_identical(trained(run, 4), trained(whole, 4))
    modules = read_adapter(run.folder / "adapter.safetensors").modules
    assert all(change.delta().abs().sum() > 0 for change in modules.values())


def test_optimizers_differ_and_all_go_downhill() -> None:
    ends = {}
    for name in ("adamw", "prodigy", "adafactor"):
        weight = torch.nn.Parameter(torch.full((4, 4), 3.0))
        settings = TrainingSettings(optimizer=name, learning_rate=1.0 if name == "prodigy" else 0.1)
        optimizer = new_optimizer(settings, [weight], torch.device("cpu"))
        for _ in range(30):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()
        ends[name] = weight.detach().abs().mean().item()
    assert max(ends.values()) < 3 and len(set(ends.values())) == 3
    assert type(new_optimizer(TrainingSettings(), [weight], torch.device("cpu"))) is torch.optim.AdamW  # auto
