"""Runs for the app: what there is, how far it is, and new ones. Everything is read from the run folders."""

import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from zit_app.core import paths, queue
from zit_app.core.cache_settings import CacheSettings, cache_toml
from zit_app.core.caption_settings import CaptionSettings, caption_toml
from zit_app.core.captioners import ENDPOINTS, check_endpoint, find_captioner
from zit_app.core.compare_settings import CompareSettings, compare_toml
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import GenerateJob, GenerateSettings, generate_toml
from zit_app.core.models import find_model, read_flavour
from zit_app.core.run import ENDED, Run
from zit_app.core.sizes import adapter_parameters
from zit_app.core.train_settings import TrainJob, TrainSettings, job_toml
from zit_app.data.pictures import has_pictures
from zit_app.data.wildcards import resolved
from zit_app.service.worker import ensure_workers, tail

RESERVE = 200 << 20  # bytes that stay free beside what a run writes
_CHECKPOINT_BYTES, _ADAPTER_BYTES = 14, 2  # a parameter: fp32 weight, two moments and a bf16 copy; the bf16 file


@dataclass(frozen=True)
class RunView:
    """One run as a person sees it."""

    folder: Path
    kind: str  # train, generate, cache, caption, compare; guest: pictures or a comparison of a guest
    name: str
    state: str  # queued preparing running stopping "not responding" stopped done failed interrupted
    step: int
    total: int
    message: str
    left: float | None  # seconds to the end
    seconds: float | None  # a step, of a training
    loss: float | None
    created: float  # time
    cause: str  # of a failure
    remedy: str
    reason: str  # of a failure that the app knows a way out of: one of core.errors.REASONS
    skipped: tuple[tuple[str, str], ...]  # pictures that were left out, and why
    pictures: tuple[Path, ...]
    adapter: Path | None
    samples: tuple[Path, ...]  # previews of a training, `<step>_<number>.png` in their order

    @property
    def share(self) -> float:
        """The part that is done, 0 to 1."""
        return self.step / self.total if self.total else float(self.state == "done")

    @property
    def can_stop(self) -> bool:
        """Whether a stop makes sense."""
        return self.state in ("queued", "preparing", "running", "not responding")

    @property
    def can_resume(self) -> bool:
        """Whether it can go on from what it has."""
        return self.state in ("stopped", "interrupted", "failed")


def list_runs(kind: str | None = None, limit: int = 100) -> list[RunView]:
    """The runs of one kind or of all, the newest first; at most `limit` of each kind."""
    newest: list[Path] = []
    for shelf in (paths.home() / "runs").glob(kind or "*"):
        newest += sorted((folder for folder in shelf.glob("*/") if _is_run(folder)), reverse=True)[:limit]
    return [view(folder) for folder in sorted(newest, key=lambda folder: folder.name, reverse=True)]


def view(folder: Path) -> RunView:
    """One run. Raises ZitError when the folder holds none."""
    if not _is_run(folder):
        raise ZitError(f"{folder} holds no run.", "It may have been removed; choose another one.")
    status_file = folder / "status.json"
    stamp = status_file.stat().st_mtime_ns if status_file.exists() else 0
    ended = _ended_view(folder, stamp)
    return ended or _view(folder)


def waiting() -> list[RunView]:
    """The queue, the next run first."""
    return [view(run.folder) for run in queue.order()]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What a training measured, one entry a step: step, loss, lr, grad_norm, seconds, nodes."""
    return Run(folder).metrics()


def log_tail(folder: Path, lines: int = 40) -> str:
    """The end of a run's log."""
    return tail(folder / "log.txt", lines)


def submit_train(
    settings: TrainSettings,
    dataset: Path,
    model: str,
    name: str,
    preset: str = "",
    equip: Callable[[Run], None] | None = None,
) -> Run:
    """Queue a training. Raises ZitError for a missing dataset or model, and when the disk is too full for it.

    equip  puts into the run's folder what it is to begin with, before a worker may take it
    """
    found = find_model(model)
    if not has_pictures(dataset):
        raise ZitError(f"There are no pictures in {dataset}.", "Choose or fill a dataset first.")
    kept = settings.training.keep_last + 1
    check_disk(adapter_parameters(settings.lora, found) * (kept * _CHECKPOINT_BYTES + _ADAPTER_BYTES))
    job = TrainJob(model, str(dataset.absolute()), preset)
    run = Run.create("train", name or dataset.name, job_toml(settings, job))
    if equip is not None:
        equip(run)
    return _queued(run)


def submit_generate(settings: GenerateSettings, model: str) -> Run:
    """Queue pictures."""
    found = find_model(model)
    if not any(prompt.strip() for prompt in settings.prompts):
        raise ZitError("There is no prompt.", "Write what the picture shows.")
    for prompt in settings.prompts:
        resolved(prompt, settings.seed)  # a wildcard that is not there is said now, not by the worker
    pixels = _picture_bytes(settings.width, settings.height, found) * settings.larger**2
    check_disk(round(len(settings.prompts) * settings.count * pixels))
    return _queued(Run.create("generate", settings.prompts[0], generate_toml(settings, GenerateJob(model))))


def submit_cache(settings: CacheSettings) -> Run:
    """Queue the caching of a dataset."""
    find_model(settings.model)
    check_disk(0)
    absolute = dataclasses.replace(settings, dataset=str(Path(settings.dataset).absolute()))
    return _queued(Run.create("cache", Path(settings.dataset).name, cache_toml(absolute)))


def submit_caption(settings: CaptionSettings) -> Run:
    """Queue the captioning of a dataset. Raises ZitError for a captioner that is not here and for a wrong address."""
    if settings.captioner in ENDPOINTS:
        check_endpoint(settings.endpoint)
    elif settings.captioner != "auto":
        find_captioner(settings.captioner)
    check_disk(0)
    absolute = dataclasses.replace(settings, dataset=str(Path(settings.dataset).absolute()))
    return _queued(Run.create("caption", Path(settings.dataset).name, caption_toml(absolute)))


def submit_compare(settings: CompareSettings, name: str = "") -> Run:
    """Queue a comparison."""
    toml = compare_toml(settings)
    found = [find_model(variant.model or settings.model) for variant in settings.variants]
    cells = len(settings.prompts) * len(settings.seeds)
    check_disk(sum(cells * _picture_bytes(settings.width, settings.height, model) for model in found) * 2)
    return _queued(Run.create("compare", name or settings.prompts[0], toml))


def check_disk(needed: int, folder: Path | None = None) -> None:
    """Raises ZitError when the disk of a folder, by default the home, has too little room for `needed` bytes."""
    folder = folder or paths.home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed + RESERVE:
        raise ZitError(
            f"This needs {(needed + RESERVE) / 1e9:.1f} GB on the disk of {folder}, {free / 1e9:.1f} GB are free.",
            "Free some space and start again.",
        )


def _queued(run: Run) -> Run:
    queue.enqueue(run)
    ensure_workers()
    return run


def _picture_bytes(width: int, height: int, model: Path) -> int:
    side = read_flavour(model).pixels
    return (width or side) * (height or side) * 3


def _is_run(folder: Path) -> bool:
    return (folder / "settings.toml").is_file()


@lru_cache(maxsize=4096)
def _ended_view(folder: Path, stamp: int) -> RunView | None:
    """An ended run is read once for each time its status was written; `stamp` is that time."""
    found = _view(folder)
    return found if found.state in ENDED else None


def _view(folder: Path) -> RunView:
    run = Run(folder)
    status = run.status()
    adapter = folder / "adapter.safetensors"
    return RunView(
        folder=folder,
        kind="guest" if queue.is_guests(folder) else str(status.get("kind") or folder.parent.name),
        name=str(status.get("name") or folder.name),
        state=_state(run, status),
        step=int(status.get("step") or 0),
        total=int(status.get("total") or 0),
        message=str(status.get("message") or ""),
        left=status.get("left"),
        seconds=status.get("seconds"),
        loss=status.get("loss"),
        created=float(status.get("created") or time.time()),
        cause=str(status.get("cause") or ""),
        remedy=str(status.get("remedy") or ""),
        reason=str(status.get("reason") or ""),
        skipped=tuple((str(name), str(why)) for name, why in status.get("skipped") or ()),
        pictures=tuple(Path(text) for text in status.get("pictures") or ()),
        adapter=adapter if adapter.is_file() else None,
        samples=tuple(sorted((folder / "samples").glob("[0-9]*.png"))),
    )


def _state(run: Run, status: dict[str, Any]) -> str:
    state = run.state()
    if state == "running" and run.control().get("stop"):
        return "stopping"
    return "preparing" if state == "running" and not status.get("total") else state
