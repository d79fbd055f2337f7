"""Ways out of a failed run that the app can go by itself: from the failure to changed settings and a run that goes on.

memory    previews no larger than what is learnt, then the next cheaper settings: gradient checkpointing, smaller
          batches, smaller pictures, a lower rank
diverged  half the learning rate, from the newest checkpoint: one is only written after a loss that was a number
weights   the model's files are looked at again; an embedded model is copied anew; then the run goes on
disk      the run goes on once there is room
"""

import shutil
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from zit_app.core.cache_settings import load_caching
from zit_app.core.compare_settings import load_comparison
from zit_app.core.errors import ZitError
from zit_app.core.files import writing
from zit_app.core.generate_settings import GenerateSettings, load_generation
from zit_app.core.models import POCKET, STAMP, find_model, read_flavour, weight_files
from zit_app.core.preview_lines import at_training_size
from zit_app.core.run import Run
from zit_app.core.train_settings import TrainSettings, load_job
from zit_app.service import runs, worker
from zit_app.service.estimates import memory, model_place
from zit_app.service.runs import RunView, check_disk

KINDS = ("train", "generate", "compare", "cache")
WEIGHTS = ("transformer", "vae", "text_encoder")
SMALLEST_SIDE, SIDE_STEP = 256, 64  # pixels
LOWEST_RANK = 4


@dataclass(frozen=True)
class Change:
    """One setting that the remedy changes."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Remedy:
    """What would be done: `reason` is one of core.errors.REASONS."""

    reason: str
    changes: tuple[Change, ...] = ()
    step: int = 0  # of the checkpoint that it goes on from; 0 = from the start


@lru_cache(maxsize=32)
def find_remedy(run: RunView) -> Remedy | None:
    """What the app can do about a failed run, None where only a person can help."""
    if run.state != "failed" or run.kind not in KINDS:
        return None
    if run.reason in ("weights", "disk"):
        return Remedy(run.reason)
    if run.reason == "memory" and run.kind == "generate":
        pictures = _smaller(run)
        return Remedy(run.reason, differences(*pictures)) if pictures else None
    if run.reason in ("memory", "diverged") and run.kind == "train":
        try:
            pair = _changed(run)
        except ZitError:  # its model has gone, or it is of another version of the program
            return None
        return Remedy(run.reason, differences(*pair), _step(_carried(run, *pair))) if pair else None
    return None


def apply_remedy(run: RunView) -> Run:
    """Go the way that `find_remedy` shows; returns the run that waits now: the same one, or a new one.

    Raises ZitError when there is no way, a damaged file is still damaged, or the disk is still full.
    """
    if find_remedy(run) is None:
        raise ZitError("Nothing could be changed here automatically.", "Start again with other settings.")
    if run.reason == "weights":
        for model in models_of(run):
            verify_again(model)
    if run.reason == "disk":
        check_disk(0, run.folder)
    if run.kind == "generate" and run.reason == "memory" and (pictures := _smaller(run)):
        return runs.submit_generate(pictures[1], models_of(run)[0])
    if run.kind == "train" and (pair := _changed(run)):
        _, job = load_job(run.folder / "settings.toml")
        checkpoint = _carried(run, *pair)
        dataset = Path(job.dataset)
        return runs.submit_train(
            pair[1], dataset, job.model, run.name, job.preset, lambda new: _equip(new, run.folder, checkpoint)
        )
    own = Run(run.folder)
    worker.resume_run(own)
    return own


def cheaper(settings: TrainSettings, pixels: int) -> TrainSettings | None:
    """The next settings that need less memory, those first that change the result least; None at the end of the ladder.

    pixels  side that a resolution of 0 stands for
    """
    training, data, lora = settings.training, settings.dataset, settings.lora
    if not training.gradient_checkpointing:
        return replace(settings, training=replace(training, gradient_checkpointing=True))
    if data.batch_size > 1:  # about as many pictures a step
        half = data.batch_size // 2
        accumulated = training.gradient_accumulation_steps * data.batch_size // half
        return replace(
            settings,
            training=replace(training, gradient_accumulation_steps=accumulated),
            dataset=replace(data, batch_size=half),
        )
    largest = max(data.sides(pixels))
    if largest > (data.resolution or pixels):
        kept = tuple(side for side in data.further_resolutions if side < largest)
        return replace(settings, dataset=replace(data, further_resolutions=kept))
    side = smaller_side(largest)
    if side:
        kept = tuple(other for other in data.further_resolutions if other < side)
        return replace(settings, dataset=replace(data, resolution=side, further_resolutions=kept))
    if lora.network_dim > LOWEST_RANK:
        rank = max(LOWEST_RANK, lora.network_dim // 2)
        alpha = lora.network_alpha * rank / lora.network_dim  # the same strength
        return replace(settings, lora=replace(lora, network_dim=rank, network_alpha=alpha))
    return None


def smaller_previews(settings: TrainSettings, folder: Path) -> TrainSettings | None:
    """The settings without sizes of the previews' own, where one of those needs more memory than the training."""
    lines = tuple(map(at_training_size, settings.training.sample_prompts))
    plain = replace(settings, training=replace(settings.training, sample_prompts=lines))
    return plain if memory(plain, folder, card=True) < memory(settings, folder, card=True) else None


def smaller_side(side: int) -> int:
    """Three quarters of a side in steps of 64 pixels: about half of the tokens; 0 when that is too small."""
    smaller = side * 3 // 4 // SIDE_STEP * SIDE_STEP
    return smaller if smaller >= SMALLEST_SIDE else 0


def slower(settings: TrainSettings) -> TrainSettings:
    """Half the learning rate; the rate that the course ends at stays below it."""
    rate = settings.training.learning_rate / 2
    lowest = min(settings.training.minimum_learning_rate, rate)
    return replace(settings, training=replace(settings.training, learning_rate=rate, minimum_learning_rate=lowest))


def differences(before: Any, after: Any) -> tuple[Change, ...]:
    """The settings that differ, those of tables too."""
    found: list[Change] = []
    for field in fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old != new:
            found += differences(old, new) if hasattr(old, "__dataclass_fields__") else [Change(field.name, old, new)]
    return tuple(found)


def verify_again(model: str) -> None:
    """Look at a model's weight files once more; an embedded model is copied anew first. Raises ZitError as before."""
    if model in POCKET:  # what is there is judged by its sizes; without the stamp everything is copied
        (find_model(model) / STAMP).unlink()
    folder = find_model(model)
    for part in WEIGHTS:
        weight_files(folder / part)


def models_of(run: RunView) -> list[str]:
    """The models that a run reads."""
    file = run.folder / "settings.toml"
    if run.kind == "train":
        return [load_job(file)[1].model]
    if run.kind == "generate":
        return [load_generation(file)[1].model]
    if run.kind == "cache":
        return [load_caching(file).model]
    comparison = load_comparison(file)
    return sorted({variant.model or comparison.model for variant in comparison.variants})


def _changed(run: RunView) -> tuple[TrainSettings, TrainSettings] | None:
    """The settings of a training before and after."""
    settings, job = load_job(run.folder / "settings.toml")
    if run.reason == "diverged":
        return settings, slower(settings)
    if run.reason != "memory":
        return None
    folder = model_place(job.model)
    after = smaller_previews(settings, folder) or cheaper(settings, read_flavour(folder).pixels)
    return (settings, after) if after else None


def _smaller(run: RunView) -> tuple[GenerateSettings, GenerateSettings] | None:
    """The settings of pictures before and after, with their shape kept."""
    settings, job = load_generation(run.folder / "settings.toml")
    if settings.larger > 1:
        return settings, replace(settings, larger=max(1.0, settings.larger - 0.5))
    own = read_flavour(model_place(job.model)).pixels
    width, height = smaller_side(settings.width or own), smaller_side(settings.height or own)
    return (settings, replace(settings, width=width, height=height)) if width and height else None


def _carried(run: RunView, before: TrainSettings, after: TrainSettings) -> Path | None:
    """The checkpoint that the changed settings can go on from: same pictures in the same order, same LoRA."""
    found = sorted((run.folder / "checkpoints").glob("step_*"), key=_step)
    return found[-1] if found and (before.dataset, before.lora) == (after.dataset, after.lora) else None


def _equip(new: Run, old: Path, checkpoint: Path | None) -> None:
    """Give a new run the checkpoint and the curves of an old one; the worker goes on from there."""
    if checkpoint is None:
        return
    with writing(new.folder):
        shutil.copytree(checkpoint, new.folder / "checkpoints" / checkpoint.name)
        if (old / "metrics.jsonl").exists():
            shutil.copyfile(old / "metrics.jsonl", new.folder / "metrics.jsonl")


def _step(checkpoint: Path | None) -> int:
    return int(checkpoint.name.removeprefix("step_")) if checkpoint else 0
