"""What a guest of the shared page may do: draw and compare within limits, and see only what this guest drew.

Everything a guest sends is checked here, whatever the page let through. A guest is known by an id of 16 hexadecimal
digits that the gate hands out with a login; it is part of the names of the guest's run folders.
"""

import re
import secrets
import shutil
import threading
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from zit_app.core import models, paths, queue
from zit_app.core.compare_settings import CompareSettings, Variant, compare_toml, load_comparison
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import GenerateJob, GenerateSettings, LoraUse, generate_toml
from zit_app.core.run import Run
from zit_app.data.wildcards import literal
from zit_app.service import adapters, runs, worker
from zit_app.service.adapters import AdapterFile
from zit_app.service.runs import RunView

LARGEST_SEED = 10**9 - 1
FREE_BYTES = 2 << 30  # that guests leave on the disk
_FOLDER = re.compile(r"\d{8}-\d{6}_([0-9a-f]{16})-[0-9a-f]{8}")
_ENDED = ("done", "stopped", "failed", "interrupted", "ready")


@dataclass(frozen=True)
class Limits:
    """How much one guest may ask for."""

    pixels: int = 1024 * 1024
    side: int = 2048  # pixels
    count: int = 4  # pictures a run, seeds a comparison
    steps: int = 30
    prompt: int = 1000  # characters
    prompts: int = 2  # of a comparison
    pending: int = 2  # runs of one guest that wait or work
    pending_all: int = 12  # of all guests: one person may log in several times
    kept: int = 2000  # runs of all guests on the disk
    weight: float = 2.0


LIMITS = Limits()
_submitting = threading.Lock()


class Refused(ZitError):
    """A guest asked for more than there is; `key` and `values` name the sentence in the page's language."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(f"The guest's request was refused: {key}.", "Ask for less.")
        self.key, self.values = key, values


@dataclass(frozen=True)
class GuestRun:
    """One run of a guest."""

    view: RunView
    comparison: bool


@dataclass(frozen=True)
class Shot:
    """What pictures and comparisons have in common, as it came from the page: nothing of it is checked yet."""

    model: Any
    width: Any = 0
    height: Any = 0
    steps: Any = 0


def offered_loras() -> dict[str, AdapterFile]:
    """The LoRAs that a guest may choose, by an id that tells nothing of where they lie."""
    return {sha256(str(one.path).encode()).hexdigest()[:16]: one for one in adapters.library()}


def offered_models() -> list[str]:
    """The names of the models that are here."""
    return [model.name for model in models.list_models() if model.ready]


def submit_pictures(
    guest: str, shot: Shot, prompt: Any, count: Any, seed: Any, loras: list[tuple[Any, Any]], negative: Any = ""
) -> Run:
    """Queue pictures; `loras` are ids with weights. Raises Refused."""
    width, height, steps = _size_and_steps(shot)
    text = _text(prompt)
    settings = GenerateSettings(
        prompts=(literal(text),),
        negative_prompt=_text(negative) if negative else "",
        count=_whole(count, 1, LIMITS.count, "count"),
        seed=_whole(seed, 0, LARGEST_SEED, "seed"),
        width=width,
        height=height,
        steps=steps,
        loras=_uses(loras),
    )
    return _queued(guest, "generate", text, generate_toml(settings, GenerateJob(shot.model)))


def submit_comparison(
    guest: str, shot: Shot, prompts: Any, seeds: Any, variants: dict[str, list[tuple[Any, Any]]]
) -> Run:
    """Queue a comparison over `seeds` seeds from 0; `variants` are names with LoRA ids and weights. Raises Refused."""
    width, height, steps = _size_and_steps(shot)
    lines = [line for line in str(prompts or "").splitlines() if line.strip()]
    if len(lines) > LIMITS.prompts:
        raise Refused("prompts", most=LIMITS.prompts)
    drawn = tuple(Variant(name, loras=_uses(loras), steps=steps) for name, loras in variants.items())
    if len({variant.loras for variant in drawn}) < len(drawn):
        raise Refused("same")
    settings = CompareSettings(
        model=shot.model,
        prompts=tuple(literal(_text(line)) for line in lines or [""]),
        seeds=tuple(range(_whole(seeds, 1, LIMITS.count, "count"))),
        variants=drawn,
        width=width,
        height=height,
    )
    return _queued(guest, "compare", settings.prompts[0], compare_toml(settings))


def runs_of(guest: str, limit: int = 30) -> list[GuestRun]:
    """A guest's own runs, the newest first."""
    folders = sorted((folder for folder in _folders() if _owner(folder.name) == guest), reverse=True)[:limit]
    return [GuestRun(runs.view(folder), Run(folder).status().get("kind") == "compare") for folder in folders]


def pictures(folder: Path) -> list[Path]:
    """The finished pictures in a run of a guest. Only files that really lie there: a link leads to nothing."""
    place = paths.guest_runs().resolve() / folder.name
    found = sorted([*folder.glob("*.png"), *folder.glob("cells/*/*.png")])
    return [
        file for file in found if not file.name.startswith(".") and file.resolve() == place / file.relative_to(folder)
    ]


def picture(guest: str, run: str, name: str) -> Path | None:
    """The file of a guest's own picture, `name` being its path below the run folder; None for everything else."""
    if _owner(run) != guest:
        return None
    folder = paths.guest_runs() / run
    return next((file for file in pictures(folder) if file.relative_to(folder).as_posix() == name), None)


def loras_of(comparison: Path) -> dict[str, str]:
    """The variants of a comparison: name → the LoRA it draws with and its strength, "" without one."""
    known = {str(one.path): one.name for one in adapters.library()}
    variants = load_comparison(comparison / "settings.toml").variants
    return {
        one.name: ", ".join(f"{known.get(use.file, '?')} × {use.weight:g}" for use in one.loras) for one in variants
    }


def stop(guest: str | None) -> None:
    """Stop a guest's run that works and cancel those that wait; with None those of all guests.

    The beginning of an id stands for all guests whose ids begin so.
    """
    for folder in _folders():
        if (_owner(folder.name) or "").startswith(guest or "") and runs.view(folder).can_stop:
            worker.stop_run(Run(folder))


def forget(guests: str, keep: int) -> None:
    """Remove the ended runs of the guests whose ids begin so, all but the newest `keep`."""
    own = sorted(folder for folder in _folders() if (_owner(folder.name) or "").startswith(guests))
    for folder in own[:-keep]:
        if runs.view(folder).state in _ENDED:
            shutil.rmtree(folder, ignore_errors=True)


def _folders() -> list[Path]:
    return [folder for folder in paths.guest_runs().glob("*/") if (folder / "settings.toml").is_file()]


def _owner(run: str) -> str | None:
    match = _FOLDER.fullmatch(run)
    return match[1] if match else None


def _queued(guest: str, kind: str, name: str, toml: str) -> Run:
    """The run goes behind the owner's; the owner's app starts the worker."""
    with _submitting:
        folders = _folders()
        pending = [_owner(folder.name) for folder in folders if runs.view(folder).state not in _ENDED]
        if pending.count(guest) >= LIMITS.pending:
            raise Refused("pending", most=LIMITS.pending)
        if len(pending) >= LIMITS.pending_all:
            raise Refused("busy")
        if len(folders) >= LIMITS.kept or shutil.disk_usage(paths.home()).free < FREE_BYTES:
            raise Refused("full")
        folder = paths.guest_runs() / f"{time.strftime('%Y%m%d-%H%M%S')}_{guest}-{secrets.token_hex(4)}"
        run = Run.create(kind, name, toml, folder)
        queue.enqueue(run)
        return run


def _size_and_steps(shot: Shot) -> tuple[int, int, int]:
    """Width, height and steps with the model's own filled in. The model is one of the list: a path is none."""
    if shot.model not in offered_models():
        raise Refused("model")
    flavour = models.read_flavour(models.find_model(shot.model))
    width = _whole(shot.width, 0, LIMITS.side, "side") or flavour.pixels
    height = _whole(shot.height, 0, LIMITS.side, "side") or flavour.pixels
    if width % 16 or height % 16:
        raise Refused("sixteen")
    if width * height > LIMITS.pixels:
        raise Refused("pixels", most=f"{LIMITS.pixels / 1e6:.1f}")
    steps = _whole(shot.steps, 0, LIMITS.steps, "steps")
    return width, height, steps or min(flavour.steps, LIMITS.steps)


def _text(given: Any) -> str:
    """A prompt on one line, without control characters and halves of characters."""
    text = " ".join(given.split()) if isinstance(given, str) else ""
    text = "".join(letter for letter in text if letter.isprintable())
    if not text:
        raise Refused("empty")
    if len(text) > LIMITS.prompt:
        raise Refused("prompt", most=LIMITS.prompt)
    return text


def _whole(given: Any, least: int, most: int, key: str) -> int:
    """A whole number within its range; JSON has no other numbers than those of Python."""
    number = least if given is None else given
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise Refused(key, least=least, most=most)
    return number


def _uses(chosen: list[tuple[Any, Any]]) -> tuple[LoraUse, ...]:
    """Adapters by id; an empty id is none."""
    offered, uses = offered_loras(), []
    for name, weight in chosen:
        if not name:
            continue
        if not isinstance(name, str) or name not in offered:
            raise Refused("lora")
        if not isinstance(weight, int | float) or not abs(weight) <= LIMITS.weight:
            raise Refused("weight", most=f"{LIMITS.weight:g}")
        uses.append(LoraUse(str(offered[name].path), float(weight)))
    return tuple(uses)
