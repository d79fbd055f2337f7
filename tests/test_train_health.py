"""Health of a training: drift and sharpness on unrelated prompts, held-out loss, the best adapter, the average."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.small import small_settings
from tests.test_cache import make_dataset
from tests.training import assert_identical, new_run, stop_at, trained
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.engine.cache import Cache, Sample, build_cache
from zit_app.engine.health import beside_before, draw_now, drift_at_nodes, held_out_losses, recall_beside_before
from zit_app.engine.parallel import new_accelerator
from zit_app.engine.preparation import prepare, set_aside
from zit_app.engine.shipped import as_saved
from zit_app.engine.train import resume
from zit_app.model.adapter_files import read_adapter
from zit_app.model.adapters import lora_state


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Cache:
    return build_cache(make_dataset(tmp_path_factory.mktemp("data"), [(64, 64)] * 3), tiny_model, 64)


def test_an_untrained_adapter_drifts_nowhere_and_a_changed_one_everywhere(cache: Cache, tiny_model: Path) -> None:
    settings = small_settings(health_every=1)
    work, state = prepare(settings, "", cache, tiny_model, new_accelerator("fp32"), Progress())
    assert work.frozen is not None
    with as_saved(work, state) as stack:
        drift = drift_at_nodes(work, work.frozen, state)
        now = draw_now(work, work.frozen, state)
        pictures = beside_before(work, work.frozen, now)
        recall = recall_beside_before(work.frozen, state, stack, now)
    nodes = ["1.0000", "0.9545", "0.9000", "0.8333", "0.7500", "0.6429", "0.5000", "0.3000"]
    assert list(drift) == nodes and max(drift.values()) < 1e-5
    assert pictures["sharpness"] == pytest.approx(1, abs=1e-3) and pictures["distance"] < 1e-3
    assert recall == 1
    for name, weight in lora_state(state.transformer).items():
        if ".lora_B." in name:
            weight.copy_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)))
    with as_saved(work, state) as stack:
        drift = drift_at_nodes(work, work.frozen, state)
        now = draw_now(work, work.frozen, state)
        pictures = beside_before(work, work.frozen, now)
        recall = recall_beside_before(work.frozen, state, stack, now)
    assert min(drift.values()) > 0.01 and pictures["distance"] > 1e-3


def test_health_is_in_the_metrics_at_least_four_times_and_changes_nothing(
    cache: Cache, tiny_model: Path, tmp_path: Path
) -> None:
    def run_with(name: str, health_every: int) -> Run:
        settings = small_settings(max_steps=8, save_every=0, health_every=health_every)
        run = new_run(tmp_path / name, settings, cache.dataset, tiny_model)
        assert resume(run, Progress(run)) is not None
        return run

    watched, plain = run_with("watched", 250), run_with("plain", 0)
    health = {line["step"]: line["health"] for line in watched.metrics() if "health" in line}
    assert list(health) == [2, 4, 6, 8]
    assert all(len(one["drift"]) == 8 and one["sharpness"] > 0 and one["recall"] >= 0 for one in health.values())
    assert sum(health[8]["drift"].values()) > sum(health[2]["drift"].values()) > 0
    assert_identical(trained(watched, 8), trained(plain, 8))


def small(count: int) -> tuple[Sample, ...]:
    return tuple(Sample(f"{i}.png", (side, side), f"{i}", f"{i % 7}") for i in range(count) for side in (64, 32))


def test_held_out_pictures_are_never_trained_on_and_stay_the_same(cache: Cache) -> None:
    settings = small_settings(health_every=100, held_out=0.1)
    taught, held = set_aside(replace(cache, samples=small(60)), settings)
    assert all(one.size == (64, 64) for one in held)  # the main resolution, which comes first
    assert len(held) == 6 and len(taught.samples) == 108  # both samples of a picture leave
    assert not {one.name for one in held} & {one.name for one in taught.samples}
    _, more = set_aside(replace(cache, samples=small(80)), settings)
    assert len({one.name for one in held} & {one.name for one in more}) >= 3
    assert set_aside(replace(cache, samples=small(39)), settings)[1] == ()
    assert set_aside(replace(cache, samples=small(60)), small_settings(held_out=0.1))[1] == ()  # nobody would look
    assert len(set_aside(replace(cache, samples=small(900)), settings)[1]) == 16


def test_held_out_loss_is_by_node_the_best_adapter_is_kept_and_resume_is_exact(
    tmp_path: Path, tiny_model: Path
) -> None:
    data = make_dataset(tmp_path / "data", [(64, 64)] * 40)
    settings = small_settings(max_steps=4, save_every=0, health_every=1, held_out=0.05, ema_decay=0.5)
    settings = replace(settings, dataset=replace(settings.dataset, further_resolutions=(32,)))
    run = new_run(tmp_path / "run", settings, data, tiny_model)
    assert resume(run, Progress(run)) is not None
    held = [line["held_out"] for line in run.metrics() if "held_out" in line]
    assert len(held) == 4 and all(len(one["nodes"]) == 8 for one in held)
    assert held[0]["loss"] == pytest.approx(sum(held[0]["nodes"].values()) / 8)
    best = min(range(4), key=lambda i: held[i]["loss"]) + 1
    said = read_adapter(run.folder / "best.safetensors").metadata
    assert (said["ss_steps"], said["ss_num_train_images"]) == (f"{best}", "38")  # two were kept aside
    assert not (tmp_path / "none" / "best.safetensors").exists()

    halves = new_run(tmp_path / "halves", settings, data, tiny_model)
    assert resume(halves, stop_at(halves, 2)) is None
    again = Run.open(halves.folder)
    assert resume(again, Progress(again)) is not None
    whole, parts = ([line.get("held_out") for line in one.metrics()] for one in (run, halves))
    assert whole == parts
    assert_identical(trained(halves, 4), trained(run, 4))

    unkept = replace(settings, training=replace(settings.training, keep_best=False, max_steps=1))
    none = new_run(tmp_path / "unkept", unkept, data, tiny_model)
    assert resume(none, Progress(none)) is not None and not (none.folder / "best.safetensors").exists()


def test_held_out_noise_is_fixed(cache: Cache, tiny_model: Path) -> None:
    work, state = prepare(small_settings(), "", cache, tiny_model, new_accelerator("fp32"), Progress())
    work = replace(work, held=cache.samples[:2])
    with as_saved(work, state):
        first = held_out_losses(work, state)
        torch.rand(3)
        assert held_out_losses(work, state) == first


def test_the_average_follows_and_is_what_is_saved(cache: Cache, tiny_model: Path, tmp_path: Path) -> None:
    settings = small_settings(max_steps=3, save_every=1, keep_last=9, ema_decay=0.9)
    run = new_run(tmp_path / "run", settings, cache.dataset, tiny_model)
    assert resume(run, Progress(run)) is not None
    from safetensors.torch import load_file

    folders = [run.folder / "checkpoints" / f"step_{step:06d}" for step in (1, 2, 3)]
    weights, averages = (
        [load_file(folder / f"{name}.safetensors") for folder in folders] for name in ("lora", "average")
    )
    name = "layers.0.attention.to_q.lora_B.weight"
    for step in (2, 3):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * averages[step - 2][name] + (1 - decay) * weights[step - 1][name]
        torch.testing.assert_close(averages[step - 1][name], expected)
    saved = read_adapter(run.folder / "adapter.safetensors").modules["layers.0.attention.to_q"]
    torch.testing.assert_close(saved.up.float(), averages[2][name], atol=0, rtol=1e-2)  # type: ignore[attr-defined]
