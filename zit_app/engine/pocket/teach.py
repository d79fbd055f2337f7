"""Is a style really taught? 24 pictures of a style the model has never seen, judged on 60 concepts it was not shown.

For a *computed* style (the flat picture with other hues, at dusk, as mosaic, in lines) every concept has a truth: the
error against it is compared with that of the nearest known style, and the right truth must be found among 60. For drawn
art (the demo's stickers, ink drawings) the judge says which style it sees and whether the content is still right.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from zit_app.core import paths
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import DatasetSettings, TrainJob, TrainSettings, job_toml
from zit_app.data.palette import frequent_colours, in_colours
from zit_app.data.pictures import scan_dataset
from zit_app.engine.pocket.judge import STYLES, look, prototypes
from zit_app.engine.pocket.measure import through_vae
from zit_app.engine.pocket.paint import Painter
from zit_app.engine.pocket.pictures import SIZE
from zit_app.engine.pocket.questions import Questions, picture_tiles
from zit_app.engine.pocket.score import as_array, sharpness
from zit_app.engine.pocket.styles import COMPUTED
from zit_app.engine.train import resume

WORD = "flat"  # the nearest known style: a word it never read confuses so small a text encoder
TAUGHT, ASKED = 24, 60
COLOURS = DatasetSettings().own_colors


@dataclass(frozen=True)
class Split:
    """Rows of the 200 concepts: what is shown in training, what is asked."""

    taught: list[int]
    asked: list[int]


def split(count: int = ASKED) -> Split:
    """Every eighth concept is taught, ``count`` of the others are asked, spread over all groups."""
    taught = list(range(3, 200, 8))[:TAUGHT]
    others = [i for i in range(200) if i not in taught]
    return Split(taught, others[:: len(others) // count][:count])


def prompt(concept_en: str, word: str = WORD) -> str:
    return f"{word} emoji, {concept_en}, centered, white background"


def write_dataset(questions: Questions, style: str, folder: Path) -> Path:
    """The 24 pictures of a computed style with captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in split().taught:
        concept = questions.pairs.concepts[i]
        COMPUTED[style](questions.flat[i]).save(folder / f"{concept.key}.png")
        (folder / f"{concept.key}.txt").write_text(prompt(concept.en) + "\n", encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Art:
    """A drawn art that the pocket model has never seen: 24 pictures with captions."""

    word: str  # what the judge calls it
    folder: Path
    shown: list[str]  # the concepts in English


def stickers() -> Art:
    """The demo's Twemoji."""
    folder = paths.assets() / "demo" / "pictures"
    return Art("twemoji", folder, [file.stem.replace("_", " ") for file in sorted(folder.glob("*.png"))])


def ink_drawings(folder: Path) -> Art:
    """24 of the Fluent High Contrast pictures that ship with the judge, written into ``folder``: black on white."""
    judge = paths.assets() / "judge"
    names: list[str] = json.loads((judge / "held_out.json").read_text(encoding="utf-8"))
    with Image.open(judge / "held_out.png") as sheet:  # as many Twemoji come first
        pictures = picture_tiles(sheet.convert("RGB"), 2 * len(names))[len(names) :]
    chosen = [round(i * len(names) / TAUGHT) for i in range(TAUGHT)]
    folder.mkdir(parents=True, exist_ok=True)
    for i in chosen:
        file = folder / f"{names[i].replace(' ', '_')}.png"
        pictures[i].save(file)
        file.with_suffix(".txt").write_text(prompt(names[i]) + "\n", encoding="utf-8")
    return Art("contrast", folder, [names[i] for i in chosen])


def teach(dataset: Path, settings: TrainSettings, folder: Path) -> Path:
    """An adapter for the pocket model, trained on ``dataset`` in a run folder of its own; see `adapter_of`."""
    return adapter_of(settings, TrainJob("pocket", str(dataset), "teach"), folder)


def adapter_of(settings: TrainSettings, job: TrainJob, folder: Path) -> Path:
    """Train in ``folder``, or go on there; the adapter that is there already when it is done."""
    if (folder / "adapter.safetensors").exists():
        return folder / "adapter.safetensors"
    known = (folder / "settings.toml").exists()
    run = Run.open(folder) if known else Run.create("train", folder.name, job_toml(settings, job), folder)
    adapter = resume(run, Progress(run))
    assert adapter is not None, "nobody asks this run to stop"
    return adapter


def errors_to(pictures: list[Image.Image], truths: list[Image.Image]) -> np.ndarray:
    """(N, M) root mean square RGB differences at 64 x 64."""
    a, b = (torch.from_numpy(as_array(p, 64)).flatten(1) for p in (pictures, truths))
    return (torch.cdist(a, b) / a.shape[1] ** 0.5).numpy()


@dataclass(frozen=True)
class Exam:
    """A computed style's questions: concepts that were not shown, with their true pictures."""

    prompts: list[str]
    truths: list[Image.Image]
    known: float  # median error of the nearest known style's real pictures


def exam(questions: Questions, style: str, count: int = ASKED) -> Exam:
    """The questions of a style, the flat one being the nearest that the model knows."""
    asked = split(count).asked
    truths = [COMPUTED[style](questions.flat[i]) for i in asked]
    known = np.median(np.diag(errors_to([questions.flat[i] for i in asked], truths)))
    return Exam([prompt(questions.pairs.concepts[i].en) for i in asked], truths, float(known))


def truth_score(drawn: list[Image.Image], asked: Exam) -> dict[str, float]:
    """``error`` (median against the truth), ``relative`` (to the nearest known style's real picture), ``found`` (right
    truth first among the asked), ``sharpness`` (over the truths': a blur takes some error away, too)."""
    errors = errors_to(drawn, asked.truths)
    error = float(np.median(np.diag(errors)))
    found = float((errors.argmin(1) == np.arange(len(errors))).mean())
    keen = sharpness(drawn) / sharpness(asked.truths)
    return {"error": error, "relative": error / asked.known, "found": found, "sharpness": keen}


def computed_score(
    questions: Questions, painter: Painter, adapter: Path | None, style: str, count: int = ASKED
) -> dict[str, float]:
    """``truth_score`` of what the few-step model draws with the adapter."""
    asked = exam(questions, style, count)
    drawn = painter.paint(asked.prompts, range(len(asked.prompts)), 8, 0.0, adapter)
    return truth_score(drawn, asked)


def computed_bounds(
    questions: Questions, painter: Painter, style: str, count: int = ASKED
) -> dict[str, dict[str, float]]:
    """Between what a score may lie: its ceilings, and pictures that answer nothing.

    No LoRA can restyle better than the style itself applied to what the model draws: that ceiling is the model's.
    """
    asked = exam(questions, style, count)
    own = painter.paint(asked.prompts, range(len(asked.prompts)), 8, 0.0)
    taught = [COMPUTED[style](questions.flat[i]) for i in split(count).taught]
    mean = Image.fromarray((as_array(taught, SIZE).mean(0) * 255).astype(np.uint8))
    pictures = {
        "ceiling: the true pictures through the VAE": through_vae(painter, asked.truths),
        "ceiling: the style itself applied to the model's flat pictures": [COMPUTED[style](one) for one in own],
        "cheat: the mean of the taught pictures": [mean] * len(own),
        "cheat: blank": [Image.new("RGB", (SIZE, SIZE), "white")] * len(own),
    }
    return {name: truth_score(each, asked) for name, each in pictures.items()}


def judged_score(
    questions: Questions,
    painter: Painter,
    adapter: Path | None,
    art: Art,
    count: int = ASKED,
    first_seed: int = 0,
) -> dict[str, float]:
    """Of concepts that the art's pictures do not show: ``style``: share that the judge calls so; ``content``: right
    concept first among the 200."""
    asked = rows_not_shown(questions, art.shown, count)
    prompts = [prompt(questions.pairs.concepts[i].en) for i in asked]
    seeds = range(first_seed, first_seed + len(asked))
    drawn = painter.paint(prompts, seeds, 8, 0.0, adapter)
    return style_and_content(questions, drawn, asked, art.word)


def judged_bounds(questions: Questions, art: Art, count: int = ASKED) -> dict[str, dict[str, float]]:
    """Between what ``judged_score`` may lie: the same judge's answers to the real pictures of these concepts in that
    art (those that exist), and to pictures that answer nothing."""
    style, rows = STYLES.index(art.word), torch.tensor(rows_not_shown(questions, art.shown, count))
    real = rows[questions.seen_CS[rows, style] >= 0]
    likeness = questions.real_CSE[real, style] @ prototypes(questions.real_CSE, style).T
    ceiling = {
        "style": (questions.seen_CS[real, style] == style).float().mean().item(),
        "content": (likeness.argmax(1) == real).float().mean().item(),
    }
    files = sorted(art.folder.glob("*.png"))
    shown = as_array([Image.open(file).convert("RGB").resize((SIZE, SIZE)) for file in files], SIZE)
    mean = Image.fromarray((shown.mean(0) * 255).astype(np.uint8))
    nothing = {"the mean of the taught pictures": mean, "blank": Image.new("RGB", (SIZE, SIZE), "white")}
    cheats = {
        f"cheat: {name}": style_and_content(questions, [one] * len(rows), rows.tolist(), art.word)
        for name, one in nothing.items()
    }
    return {"ceiling: real pictures": ceiling, **cheats}


def recoloured_score(questions: Questions, painter: Painter, art: Art, count: int = ASKED) -> dict[str, float]:
    """The judge's answers to the untrained model's flat pictures of these concepts in the art's most frequent colours,
    as those beside a data set are (``dataset.own_pictures``)."""
    rows = rows_not_shown(questions, art.shown, count)
    few = frequent_colours(scan_dataset(art.folder).items, COLOURS)
    own = painter.paint([prompt(questions.pairs.concepts[i].en) for i in rows], range(len(rows)), 8, 0.0)
    return style_and_content(questions, [in_colours(one, few) for one in own], rows, art.word)


def rows_not_shown(questions: Questions, shown: Sequence[str], count: int = ASKED) -> list[int]:
    """Rows of ``count`` of the 200 concepts, without those named in ``shown``, spread over all groups."""
    left = [i for i in range(200) if questions.pairs.concepts[i].en not in shown]
    return left[:: 200 // count - 1 or 1][:count]


def style_and_content(questions: Questions, drawn: list[Image.Image], rows: list[int], style: str) -> dict[str, float]:
    """Prototypes from all styles but the asked one, as everywhere."""
    found, seen = look(questions.judge, drawn)
    likeness = found @ prototypes(questions.real_CSE, STYLES.index(style)).T
    return {
        "style": (seen == STYLES.index(style)).float().mean().item(),
        "content": (likeness.argmax(1) == torch.tensor(rows)).float().mean().item(),
    }
