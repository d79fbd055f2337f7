"""What a training costs, and the ways out of a failed one: from a run that really failed to one that goes through."""

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.small import small_settings
from tests.test_cache import make_dataset
from tests.training import new_run, stop_at
from zit_app.core import full_model, paths, sizes, workers
from zit_app.core.errors import ZitError
from zit_app.core.files import write_atomic, write_json
from zit_app.core.headers import read_header
from zit_app.core.models import find_model
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import LoraSettings, TrainSettings, load_job, load_preset
from zit_app.engine.train import resume, train
from zit_app.model.adapter_files import save_adapter
from zit_app.model.adapters import attach_lora, lora_state
from zit_app.model.loading import load_transformer
from zit_app.service import estimates, remedies, runs
from zit_app.service.remedies import Change


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures that can be read, and one that cannot."""
    folder = make_dataset(tmp_path_factory.mktemp("data"))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.fixture
def card(home: Path) -> Iterator[None]:
    """This process has the card, so no worker is started for what is queued."""
    with workers.holding(0) as taken:
        assert taken
        yield


def queued_run(dataset: Path, model: Path, **training: object) -> Run:
    return new_run(paths.runs("train") / "first", small_settings(**training), dataset, model)


def test_a_loss_that_is_no_number_goes_on_from_the_last_checkpoint_with_half_the_rate(
    card: None, dataset: Path, tiny_model: Path
) -> None:
    run = queued_run(dataset, tiny_model)
    assert resume(run, stop_at(run, 5)) is None
    run.request(stop=False)
    wild = small_settings(learning_rate=1e30)  # far above what a settings file may say
    with pytest.raises(ZitError, match="is not a number; the last checkpoint is step_000005"):
        train(wild, dataset, tiny_model, run, Progress(run))
    view = runs.view(run.folder)
    assert (view.state, view.reason) == ("failed", "diverged")
    assert [name for name, _ in view.skipped] == ["broken.png"]

    remedy = remedies.find_remedy(view)
    assert remedy is not None and remedy.step == 5
    assert remedy.changes == (Change("learning_rate", 1e-2, 5e-3),)
    again = remedies.apply_remedy(view)
    assert again.folder != run.folder and again.state() == "queued" and runs.waiting()[0].folder == again.folder
    assert load_job(again.folder / "settings.toml")[0].training.learning_rate == 5e-3

    assert resume(again, Progress(again)) is not None
    assert again.state() == "done" and [line["step"] for line in again.metrics()] == list(range(1, 13))
    assert again.metrics()[:5] == run.metrics()[:5]
    assert "Resumed at step 5." in (again.folder / "log.txt").read_text()
    assert run.state() == "failed" and (run.folder / "checkpoints" / "step_000005").is_dir()


def test_too_little_memory_is_recognised_and_the_ladder_of_cheaper_settings_ends(
    card: None, dataset: Path, tiny_model: Path
) -> None:
    run = queued_run(dataset, tiny_model)
    with pytest.raises(RuntimeError), run.working():
        torch.empty(10**15)
    view = runs.view(run.folder)
    assert (view.reason, view.cause) == ("memory", "The memory was not enough.")
    remedy = remedies.find_remedy(view)
    assert remedy is not None and remedy.changes == (Change("gradient_checkpointing", False, True),)
    again = remedies.apply_remedy(view)
    assert resume(again, Progress(again)) is not None and again.state() == "done"

    settings, ladder = replace(load_preset("style"), training=small_settings().training), []
    data = replace(settings.dataset, batch_size=4, resolution=0, further_resolutions=(1280, 384))
    settings = replace(settings, dataset=data)
    room = estimates.memory(settings, tiny_model, card=False)
    while (cheaper := remedies.cheaper(settings, 512)) is not None:
        ladder += [(change.name, change.after) for change in remedies.differences(settings, cheaper)]
        needed = estimates.memory(cheaper, tiny_model, card=False)
        assert needed < room
        settings, room = cheaper, needed
    assert ladder == [
        ("gradient_checkpointing", True),
        ("gradient_accumulation_steps", 4), ("batch_size", 2),
        ("gradient_accumulation_steps", 8), ("batch_size", 1),
        ("further_resolutions", (384,)),
        ("resolution", 384), ("further_resolutions", ()),
        ("resolution", 256),
        ("network_dim", 8), ("network_alpha", 8.0),
        ("network_dim", 4), ("network_alpha", 4.0),
    ]  # fmt: skip


def test_damaged_weights_are_verified_again(card: None, dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    weights = next((model / "transformer").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    run = queued_run(dataset, model, max_steps=1)
    with pytest.raises(ZitError, match="cut short"):
        resume(run, Progress(run))
    view = runs.view(run.folder)
    assert view.reason == "weights" and remedies.find_remedy(view) == remedies.Remedy("weights")
    with pytest.raises(ZitError, match="cut short"):
        remedies.apply_remedy(view)
    assert run.state() == "failed"
    weights.write_bytes(whole)
    assert remedies.apply_remedy(view).folder == run.folder
    assert resume(Run.open(run.folder), Progress(run)) is not None


def test_an_embedded_model_is_copied_anew(home: Path) -> None:
    file = next((find_model("pocket") / "transformer").glob("*.safetensors"))
    with file.open("r+b") as opened:  # the same size, so nothing else would notice
        opened.write(b"\xff" * 8)
    with pytest.raises(ZitError):
        read_header(file)
    remedies.verify_again("pocket")
    assert read_header(file)


def test_a_full_disk_lets_the_run_go_on_where_it_stopped(card: None, dataset: Path, tiny_model: Path) -> None:
    run = queued_run(dataset, tiny_model)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZitError, match="disk is full"), run.working():
        patch.setattr(os, "fsync", full)
        try:
            write_atomic(run.folder / "x.txt", "x")
        finally:
            patch.undo()
    view = runs.view(run.folder)
    assert remedies.find_remedy(view) == remedies.Remedy("disk")
    assert remedies.apply_remedy(view).folder == run.folder and run.state() == "queued"


def test_what_only_a_person_can_mend_has_no_button(card: None, dataset: Path, tiny_model: Path) -> None:
    run = queued_run(dataset, tiny_model)
    with pytest.raises(ZitError), run.working():
        raise ZitError("There is no caption.", "Write one.")
    assert remedies.find_remedy(runs.view(run.folder)) is None
    with pytest.raises(ZitError, match="Nothing could be changed"):
        remedies.apply_remedy(runs.view(run.folder))


def test_an_estimate_is_exact_about_the_file_and_silent_about_a_time_that_nobody_measured(
    card: None, dataset: Path, tiny_model: Path
) -> None:
    settings = small_settings()
    before = estimates.estimate(settings, str(tiny_model), 3, runs.list_runs(), card=False)
    assert before.seconds is None and before.steps == 12
    run = queued_run(dataset, tiny_model)
    assert resume(run, Progress(run)) is not None
    file = run.folder / "adapter.safetensors"
    assert before.file == without_header(file)

    after = estimates.estimate(settings, str(tiny_model), 3, runs.list_runs(), card=False)
    took = sorted(line["seconds"] for line in run.metrics()[2:])
    assert after.seconds is not None and 12 * took[0] <= after.seconds <= 12 * took[-1]
    longer = replace(settings, training=replace(settings.training, max_steps=120, gradient_checkpointing=True))
    other = estimates.estimate(longer, str(tiny_model), 3, runs.list_runs(), card=False)
    assert other.seconds == pytest.approx(after.seconds * 15)
    epochs = replace(settings.training, max_steps=0, num_train_epochs=4)
    sizes = replace(settings, training=epochs, dataset=replace(settings.dataset, further_resolutions=(32,)))
    both = estimates.estimate(sizes, str(tiny_model), 3, runs.list_runs(), card=False)
    assert both.steps == 6  # 4 times 6 pictures in twos, two batches a step
    assert both.seconds == pytest.approx(after.seconds / 12 * 6 * (80 + 68) / 2 / 80)  # tokens of 64² and 32², captions
    ways = replace(settings, training=replace(settings.training, protection="own_ways", ways=5, tether_unrelated=0.0))
    drawn = estimates.estimate(ways, str(tiny_model), 3, runs.list_runs(), card=False)
    a_pass = after.seconds / estimates.work(settings, tiny_model) / 12  # of a token
    assert drawn.seconds == pytest.approx(after.seconds + 3 * 5 * 8 * 80 * a_pass)
    held = replace(settings, training=replace(ways.training, tether_unrelated=0.25, unrelated_count=6))
    more = estimates.work(held, tiny_model) - estimates.work(ways, tiny_model)  # of a step
    asked = estimates.estimate(held, str(tiny_model), 3, runs.list_runs(), card=False)
    assert asked.seconds == pytest.approx(drawn.seconds + (12 * more + 6 * 8 * 80) * a_pass)
    wide = replace(settings, training=epochs, dataset=replace(settings.dataset, own_pictures=5))
    beside = estimates.estimate(wide, str(tiny_model), 3, runs.list_runs(), card=False)
    assert beside.steps == 8 and beside.seconds == pytest.approx(after.seconds / 12 * 8 + 5 * 8 * 80 * a_pass)
    assert estimates.estimate(settings, "pocket", 3, runs.list_runs(), card=False).seconds is None


@pytest.mark.parametrize(
    "lora",
    [
        LoraSettings(network_dim=4, targets="attention"),
        LoraSettings(network_dim=4),
        LoraSettings(network_dim=4, network_type="dora"),
        LoraSettings(network_type="lokr", lokr_factor=8),
        LoraSettings(network_dim=2, network_type="lokr", lokr_factor=4, lokr_full_rank=False),
    ],
)
def test_the_size_of_an_adapter_is_counted_as_it_is(lora: LoraSettings, tiny_model: Path, tmp_path: Path) -> None:
    transformer = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    attach_lora(
        transformer,
        lora.network_dim,
        4.0,
        lora.targets,
        kind=lora.network_type,
        factor=lora.lokr_factor,
        full_rank=lora.lokr_full_rank,
    )
    state = lora_state(transformer)
    assert sizes.adapter_parameters(lora, tiny_model) == sum(tensor.numel() for tensor in state.values())
    save_adapter(tmp_path / "a.safetensors", state, lora.network_dim, 4.0, {})
    assert sizes.adapter_bytes(lora, tiny_model) == without_header(tmp_path / "a.safetensors")


def test_the_memory_of_the_full_model_is_near_what_others_measured(tmp_path: Path) -> None:
    """SimpleTuner's documentation: Turbo, 512 × 512, bf16, batch 1: 21.2 GiB, with checkpointing 12.9 GiB."""
    write_json(tmp_path / "transformer" / "config.json", full_model.TRANSFORMER)
    write_json(tmp_path / "vae" / "config.json", full_model.VAE)
    write_json(tmp_path / "model_index.json", {"_class_name": "ZImagePipeline"})
    shutil.copytree(paths.assets() / "pocket" / "shared" / "text_encoder", tmp_path / "text_encoder")
    settings = load_preset("style")
    settings = replace(settings, dataset=replace(settings.dataset, resolution=512, batch_size=1))
    for checkpointing, gib in ((False, 21.2), (True, 12.9)):
        training = replace(settings.training, gradient_checkpointing=checkpointing)
        needed = estimates.memory(replace(settings, training=training), tmp_path, card=True)
        assert needed / 2**30 == pytest.approx(gib, rel=0.1)


def test_a_large_preview_counts_and_is_the_first_to_be_given_up(
    card: None, dataset: Path, tiny_model: Path, tmp_path: Path
) -> None:
    settings = replace(small_settings(), dataset=replace(small_settings().dataset, resolution=64))

    def previewing(*lines: str, every: int = 5) -> TrainSettings:
        training = replace(settings.training, sample_prompts=lines, sample_every=every)
        return replace(settings, training=training)

    def needed(one: TrainSettings) -> int:
        return estimates.memory(one, tiny_model, card=False)

    large = previewing("a boat --w 64 --h 64", "a boat --w 1024 --d 3 --h 512 --n a b")
    assert needed(previewing("a boat")) <= needed(large) - 3 * 1024 * 512 * 4  # the picture itself, at the least
    assert needed(replace(large, training=replace(large.training, sample_every=0))) < needed(large)
    run = new_run(tmp_path / "run", large, dataset, tiny_model)
    with pytest.raises(RuntimeError), run.working():
        torch.empty(10**15)
    remedy = remedies.find_remedy(runs.view(run.folder))
    assert remedy is not None
    assert [change.after for change in remedy.changes] == [("a boat", "a boat --d 3 --n a b")]
    fewer = previewing(*remedy.changes[0].after)
    assert remedies.smaller_previews(fewer, tiny_model) is None and needed(fewer) == needed(previewing("a boat"))


def without_header(file: Path) -> int:
    """Bytes of a safetensors file behind its header."""
    return file.stat().st_size - 8 - int.from_bytes(file.read_bytes()[:8], "little")
