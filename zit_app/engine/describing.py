"""A captioner at work: pictures in, captions out, each written as soon as it is there."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from zit_app.core import paths
from zit_app.core.caption_settings import CaptionSettings
from zit_app.core.captioners import ENDPOINTS, Question, Stopped, best_here, find_captioner
from zit_app.core.errors import ZitError, reason_of
from zit_app.core.models import FOLDERS
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.data import captioned
from zit_app.data.caption_answers import cleaned
from zit_app.data.captioned import Written, caption_file
from zit_app.data.captions import read_text, with_trigger
from zit_app.data.edits import GrowingChange
from zit_app.data.formats import open_picture, reason, to_rgb
from zit_app.data.pictures import Item
from zit_app.engine.caption_services import Service
from zit_app.model.loading import default_device
from zit_app.model.text import token_counter
from zit_app.model.vision_language import VisionLanguage

_IN_A_ROW = 3  # pictures that fail one after the other: then it is not the pictures
_MARGIN = 1.5, 32  # times, and tokens, that an answer may be longer than the caption: it is cut after a whole sentence


class Captioner(Protocol):
    """Whoever describes pictures."""

    @property
    def together(self) -> int:
        """Pictures that are best described at once."""

    def describe(self, pictures: Sequence[Image.Image], question: Question) -> list[str]:
        """One answer a picture, as it came. Raises Stopped when the run was asked to stop."""

    def close(self) -> None:
        """Give back what it holds."""


@dataclass
class Captioned:
    """What came of a run. `skipped` are (picture, reason)."""

    written: int = 0
    kept: int = 0  # as a person wrote them
    current: int = 0  # answers to the same question already
    skipped: list[tuple[str, str]] = field(default_factory=list)
    guessed: int = 0  # pictures asked about that are too large to be of the pocket captioner's world
    complete: bool = True

    @property
    def summary(self) -> str:
        """The outcome in one sentence."""
        words = (
            f"{self.written} captions written, {self.current} were up to date, {self.kept} of your own kept, "
            f"{len(self.skipped)} files skipped."
        )
        return f"{words} {self.warning}" if self.guessed else words

    @property
    def warning(self) -> str:
        """What to know of captions by the pocket's captioner."""
        return (
            f"The pocket captioner knows emoji only: what it says of {self.guessed} larger pictures is guesswork. "
            "Take it back and choose another captioner."
        )


@dataclass(frozen=True)
class Plan:
    """What is to be done, and what every picture's caption depends on."""

    ask: dict[str, tuple[Item, str | None, str]]  # by name: picture, its caption before, fingerprint
    write: dict[str, Written]  # answers that a killed process recorded and did not write
    question: Question
    trigger: str
    background: str


class Session:
    """One captioner at work, from the first picture to the last."""

    def __init__(
        self,
        settings: CaptionSettings,
        plan: Plan,
        change: GrowingChange,
        run: Run,
        progress: Progress,
        done: Captioned,
    ) -> None:
        self.settings, self.plan, self.change = settings, plan, change
        self.run, self.progress, self.done = run, progress, done
        self.gone, self.total = done.written, done.written + len(plan.ask)
        self.size = settings.batch_size if settings.captioner not in ENDPOINTS else 1
        self.failures = 0  # in a row
        self.last: Exception | None = None

    def work(self) -> None:
        """Ask about one batch after the other; what comes back is written at once."""
        self.progress.stage("Loading the captioner")
        captioner, count = self._captioner(), token_counter(_tokenizer())
        self.progress.stage(f"Describing {len(self.plan.ask)} pictures")
        self.progress.step(self.gone, self.total)
        before = self.done.written
        try:
            self.size = self.size or captioner.together
            left = list(self.plan.ask)
            while left:
                if self.progress.stop_requested():
                    raise Stopped
                names, left = left[: self.size], left[self.size :]
                self._write(self._answers(captioner, self._opened(names)), count)
                self.gone += len(names)
                self.progress.step(self.gone, self.total)
            if self.last is not None and self.done.written == before:
                raise self.last
        except Stopped:
            self.done.complete = False
        finally:
            captioner.close()

    def _captioner(self) -> Captioner:
        most = round(_MARGIN[0] * self.settings.max_tokens) + _MARGIN[1]
        if self.settings.captioner in ENDPOINTS:
            return Service(self.settings, most, self._tick)
        return VisionLanguage(chosen_folder(self.settings), most, self._tick)

    def _tick(self) -> bool:
        """Show that the run lives; whether to stop."""
        self.progress.step(self.gone, self.total)
        return self.progress.stop_requested()

    def _opened(self, names: list[str]) -> dict[str, Image.Image]:
        """The pictures as they are shown to the captioner: upright, sRGB, of at most `side`² pixels."""
        found = {}
        for name in names:
            item = self.plan.ask[name][0]
            try:
                with open_picture(item.path) as image:
                    picture = to_rgb(image, self.plan.background)
            except Exception as error:  # as in a scan: broken files make Pillow's readers trip over anything
                self._skip(name, reason(error, item.path))
                continue
            scale = math.sqrt(self.settings.side**2 / (picture.width * picture.height))
            if scale < 1:
                size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
                picture = picture.resize(size, Image.Resampling.LANCZOS)
            found[name] = picture
        return found

    def _answers(self, captioner: Captioner, pictures: dict[str, Image.Image]) -> dict[str, str]:
        """Answers by name. A batch that fails is halved, until one picture is left, which is named and left out."""
        if not pictures:
            return {}
        names = list(pictures)
        try:
            texts = captioner.describe(list(pictures.values()), self.plan.question)
            self.failures = 0
            return dict(zip(names, texts, strict=True))
        except Stopped:
            raise
        except Exception as error:  # of a model or a service that is not ours: anything
            failed = error
        if len(names) == 1:
            return self._failed(names[0], failed)
        if reason_of(failed) == "memory":
            self.size = max(1, len(names) // 2)
        del failed  # and with it the tensors of the attempt
        torch.cuda.empty_cache()
        halves = names[: len(names) // 2], names[len(names) // 2 :]
        return {
            name: text
            for half in halves
            for name, text in self._answers(captioner, {name: pictures[name] for name in half}).items()
        }

    def _failed(self, name: str, error: Exception) -> dict[str, str]:
        self.failures += 1
        self.last = error
        if self.failures == _IN_A_ROW or reason_of(error) == "memory":
            raise error
        self._skip(name, error.what if isinstance(error, ZitError) else f"{type(error).__name__}: {error}")
        return {}

    def _write(self, answers: dict[str, str], count: Callable[[str], int]) -> None:
        """Make captions of answers, record them, write them; what a person wrote meanwhile stays."""
        made: list[Written] = []
        trigger = self.plan.trigger

        def size(text: str) -> int:
            return count(with_trigger(text, trigger))

        for name, answer in answers.items():
            item, before, asked = self.plan.ask[name]
            text = cleaned(answer, size, self.settings.max_tokens)
            if not text:
                self._skip(name, "the captioner said nothing about it")
            elif read_text(caption_file(item.folder, name)) != before:
                self.progress.note(f"Kept {name}: its caption was written meanwhile")
                self.done.kept += 1
            else:
                made.append(Written(name, before, with_trigger(text, trigger), asked, self.run.folder.name))
        captioned.remember(self.change.folder, made)
        if made:
            self.change.write({one.name: one.after for one in made})
            self.run.write_status("running", change=self.change.place.name if self.change.place else "")
        self.done.written += len(made)

    def _skip(self, name: str, why: str) -> None:
        self.done.skipped.append((name, why))
        self.progress.note(f"Skipped {name}: {why}")


def _tokenizer() -> Path:
    """That of the large models where one is here, else the pocket model's: its words are shorter, it counts more."""
    large = [paths.models() / folder / "tokenizer" for folder in FOLDERS.values()]
    return next((folder for folder in large if folder.is_dir()), paths.assets() / "pocket" / "shared" / "tokenizer")


def chosen_folder(settings: CaptionSettings) -> Path:
    """The folder of the captioner that the settings name, the best one here with "auto"."""
    if settings.captioner != "auto":
        return find_captioner(settings.captioner)
    device = default_device()
    card = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    return find_captioner(best_here(card))
