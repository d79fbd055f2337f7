"""A training that goes on from a LoRA: it begins as what that one draws, and the file may be gone afterwards."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.small import small_settings
from tests.test_cache import make_dataset
from tests.test_train_refusals import refused
from tests.training import assert_identical, made_lora, new_run, stop_at, trained
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import LoraSettings, TrainSettings
from zit_app.engine.beginning import begin_with, starting_adapter
from zit_app.engine.preparation import attach
from zit_app.engine.train import resume
from zit_app.model.adapter_files import read_adapter
from zit_app.model.adapter_stack import apply_adapters
from zit_app.model.forward import predict_velocity
from zit_app.model.loading import load_transformer

LARGER = LoraSettings(network_dim=6, network_alpha=3.0, extra_targets="noise_refiner.0.attention.to_q")
SHAPES = {
    "the same": LoraSettings(network_dim=4, network_alpha=4.0),
    "another rank, alpha and set of layers": LARGER,
    "another scale": replace(LARGER, rslora=True),
}


def going_on(file: Path, **training: Any) -> TrainSettings:
    lora = LoraSettings(network_dim=5, network_alpha=5.0, start_from=str(file))
    return replace(small_settings(**training), lora=lora)


@pytest.mark.parametrize("name", SHAPES)
def test_it_begins_as_what_the_lora_draws(name: str, tiny_model: Path, tmp_path: Path) -> None:
    file = made_lora(tiny_model, tmp_path / "lora.safetensors", alpha=8.0)
    transformer = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    caps = [torch.randn(9, transformer.config["cap_feat_dim"])] * 2
    x_BCHW, sigma_B = torch.randn(2, 16, 8, 8), torch.tensor([0.9, 0.3])

    def answer() -> torch.Tensor:
        with torch.no_grad():
            return predict_velocity(transformer, x_BCHW, sigma_B, caps)

    without = answer()
    stack = apply_adapters(transformer, [(read_adapter(file), 1.0, 1, 8)])
    wanted = answer()
    stack.remove()
    settings = replace(small_settings(), lora=replace(SHAPES[name], start_from=str(file)))
    adapter = starting_adapter(settings.lora, transformer)
    assert adapter is not None
    attach(transformer, settings)
    assert torch.equal(answer(), without)
    filled = begin_with(transformer, adapter, settings.lora)
    assert set(filled.values()) == {4} and len(filled) == 14
    torch.testing.assert_close(answer(), wanted, atol=1e-5, rtol=1e-4)
    assert (wanted - without).abs().mean() > 0.01


@pytest.mark.parametrize("protection", ["none", "null_space"])
def test_a_training_that_learns_nothing_gives_the_lora_back(protection: str, tiny_model: Path, tmp_path: Path) -> None:
    file = made_lora(tiny_model, tmp_path / "lora.safetensors")
    still = going_on(
        file, max_steps=2, learning_rate=0.0, minimum_learning_rate=0.0, protection=protection, unrelated_count=2
    )
    run = new_run(tmp_path / "run", still, make_dataset(tmp_path / "data"), tiny_model)
    assert resume(run, Progress(run)) is not None
    before, after = (read_adapter(one).modules for one in (file, run.folder / "adapter.safetensors"))
    assert before.keys() == after.keys()
    for name, change in before.items():
        delta = change.delta()
        torch.testing.assert_close(after[name].delta(), delta, atol=0.01 * delta.abs().max().item(), rtol=0.02)  # bf16


def test_stopped_and_resumed_after_the_file_is_gone(tiny_model: Path, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")

    def begun(name: str, progress: Callable[[Run], Progress]) -> Run:
        file = made_lora(tiny_model, tmp_path / "lora.safetensors")
        settings = going_on(file, protection="null_space", unrelated_count=2)
        run = new_run(tmp_path / name, settings, dataset, tiny_model)
        resume(run, progress(run))
        file.unlink()
        return run

    whole = begun("whole", Progress)
    halves = begun("halves", lambda run: stop_at(run, 5))
    assert halves.state() == "stopped"
    again = Run.open(halves.folder)
    assert resume(again, Progress(again)) is not None
    assert_identical(trained(halves, 12), trained(whole, 12))


def test_what_it_cannot_go_on_from_is_refused(tiny_model: Path, tmp_path: Path, home: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    file = made_lora(tiny_model, tmp_path / "lora.safetensors")
    lokr = made_lora(tiny_model, tmp_path / "lokr.safetensors", kind="lokr")
    cases = {
        "has rank 4, more than lora.network_dim = 2": LoraSettings(network_dim=2),
        "not with dora": LoraSettings(network_type="dora"),
        "changes 7 layers that would not learn, such as layers.1": LoraSettings(layers="0"),
        "is no plain LoRA": LoraSettings(start_from=str(lokr)),
        "no adapter|There is no": LoraSettings(start_from="nowhere"),
    }
    for number, (message, lora) in enumerate(cases.items()):
        settings = replace(small_settings(), lora=replace(lora, start_from=lora.start_from or str(file)))
        refused(settings, dataset, tiny_model, tmp_path / f"{number}", message)
    assert not (dataset / ".zit_cache").exists()
