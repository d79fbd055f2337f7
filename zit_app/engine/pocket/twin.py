"""Is the pocket a true twin of Turbo: does naive training break its few-step pictures, and does a style get taught?

*The disease*: a plain flow-matching LoRA (uniform times, no protection) learns a style; then *unrelated* prompts,
in styles it was not shown, are drawn at 8 and at 30 steps and as the undistilled model is, with guidance, each with and
without it. Turbo loses its 8-step pictures and has most of them back at 30.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from zit_app.core import paths
from zit_app.core.train_settings import TrainSettings, load_train_settings
from zit_app.engine.demo import demo_settings
from zit_app.engine.pocket.measure import rounded
from zit_app.engine.pocket.paint import Painter
from zit_app.engine.pocket.pictures import contact_sheet
from zit_app.engine.pocket.questions import Questions
from zit_app.engine.pocket.score import recall_scores
from zit_app.engine.pocket.styles import COMPUTED
from zit_app.engine.pocket.teach import (
    COLOURS,
    computed_bounds,
    computed_score,
    ink_drawings,
    judged_bounds,
    judged_score,
    recoloured_score,
    stickers,
    teach,
    write_dataset,
)
from zit_app.engine.pocket.unrelated import WAYS_TO_DRAW, draw_unrelated, unrelated, what_stays

# Rows of the sheet of unrelated prompts, and how many pictures each has.
SHOWN, COLUMNS = ("without a LoRA, 8 steps", "plain, 8 steps", "plain, 30 steps, CFG", "demo, 8 steps"), 14
PLAIN_STEPS, TAUGHT_STEPS = 300, 500
UNSEEN = ("training.sample_every=0", "training.health_every=0")  # looks cost time and change no weight
# Trainings: what each changes of `train.toml`.
PLAIN = (
    "acrf.base=mse",
    "acrf.sampler=uniform",
    "lora.layers=",
    "training.protection=none",
    "training.learning_rate=6e-4",
)
LONGEST = 150  # letters of a folder name
HELD = paths.assets() / "demo" / "unrelated.txt"  # other things than are asked, in other styles
LAST_BLOCKS = "lora.layers=4-5"  # a computed style comes nearer to its truth there than in block 3 (docs/protection.md)
OWN_WAYS = (
    "lora.layers=2-5",
    "training.protection=own_ways",
    "training.learning_rate=3e-3",
    "training.tether=10",
    "training.tether_unrelated=1",
    "training.unrelated_count=700",  # many hold better than few (docs/protection.md)
    f'training.unrelated_prompts="{HELD.as_posix()}"',
)
# More than the demo, which is to be ready in minutes.
LARGER = ("dataset.batch_size=16", f"training.max_steps={TAUGHT_STEPS}")
DEMOS = ("demo", "demo, batches of 16")
STICKERS, INK = ("plain", "stickers alone", *DEMOS), ("ink drawings", "ink drawings, on its own ways")
WAYS = {
    "on the base's weights": (LAST_BLOCKS,),
    "on its own ways": OWN_WAYS,
    "on its own ways, held by 32": (*OWN_WAYS, "training.unrelated_count=32"),
    "at the nodes": (LAST_BLOCKS, "training.protection=none", "acrf.sampler=anchor", "dataset.batch_size=32"),
}


def settings_of(changes: Sequence[str], steps: int) -> TrainSettings:
    """Those of `train.toml` with changes: the data set alone."""
    always = (f"training.max_steps={steps}", *UNSEEN)
    return load_train_settings(paths.assets() / "demo" / "train.toml", [*always, *changes])


def demo_as_it_ships(*changes: str) -> TrainSettings:
    """The demo without its previews, with changes."""
    return demo_settings(*UNSEEN, *changes)


def measure_way(
    questions: Questions, painter: Painter, work: Path, style: str, changes: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """A computed style taught by `settings_of` with ``changes``, in a run folder below ``work`` (a finished
    one is kept): how near it comes to the truth, and what is left of unrelated prompts."""
    dataset = write_dataset(questions, style, work / f"pictures_{style}")
    folder = work / run_name([style, *changes])
    adapter = teach(dataset, settings_of(changes, TAUGHT_STEPS), folder)
    return computed_score(questions, painter, adapter, style), unrelated(questions, painter, adapter)


def run_name(words: Sequence[str]) -> str:
    """A folder name that tells a training's changes, cut where a file system would not take it."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(words))
    return name if len(name) < LONGEST else f"{name[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def measure_teaching(
    questions: Questions, work: Path, keep: Callable[[dict[str, Any]], None], note: Callable[[str], None] = print
) -> None:
    """All trainings in run folders below ``work`` (finished ones are kept) and what they teach and break.

    ``keep`` gets the figures after every part, so that an interrupted measurement has what it has.
    """
    painter, art, ink = Painter("pocket"), stickers(), ink_drawings(work / "pictures_ink")
    adapters = {
        "plain": teach(art.folder, settings_of(PLAIN, PLAIN_STEPS), work / f"plain_{PLAIN_STEPS}"),
        "stickers alone": teach(art.folder, settings_of((), PLAIN_STEPS), work / f"demo_{PLAIN_STEPS}"),
        "demo": teach(art.folder, demo_as_it_ships(), work / "demo_own"),
        "demo, batches of 16": teach(art.folder, demo_as_it_ships(*LARGER), work / "demo_16"),
        "ink drawings": teach(ink.folder, settings_of((), TAUGHT_STEPS), work / f"ink_{TAUGHT_STEPS}"),
        "ink drawings, on its own ways": teach(ink.folder, settings_of(OWN_WAYS, TAUGHT_STEPS), work / "ink_ways"),
    }
    taught: dict[str, Any] = {"unrelated": {}, "kept": {}, "stickers": {}, "ink drawings": {}, "computed": {}}
    sheet: list[Image.Image] = []
    for name, adapter in {"without a LoRA": None, **adapters}.items():
        for drawn, way in WAYS_TO_DRAW.items():
            label, seen = f"{name}, {drawn}", draw_unrelated(questions, painter, adapter, way)
            row = taught["unrelated"][label] = seen.score()
            if label in SHOWN:  # what is no sticker in any art
                new = [one for one, of in zip(seen.pictures, seen.concepts, strict=True) if of not in art.shown]
                sheet += new[:: len(new) // COLUMNS][:COLUMNS]
            note(f"unrelated, {label}: {rounded(row)}")
        keep(taught)
    contact_sheet(sheet, COLUMNS).save(work / "unrelated.png")
    for name in DEMOS:
        stays = _stays_at_both(questions, painter, adapters[name])
        taught["kept"] |= {f"{name}, {drawn}": row for drawn, row in stays.items()}
    note(f"what stays: {taught['kept']}")
    keep(taught)
    drawn_arts = {
        "stickers": (art, {name: adapters[name] for name in STICKERS}),
        "ink drawings": (ink, {name: adapters[name] for name in INK}),
    }
    for title, (asked, trained) in drawn_arts.items():
        rows: dict[str, Path | None] = {"without a LoRA": None, **trained}
        for name, adapter in rows.items():
            row = taught[title][name] = judged_score(questions, painter, adapter, asked)
            note(f"{title}, {name}: {rounded(row)}")
        drawn = f"no training: the model's flat pictures in the art's {COLOURS} colours"
        taught[title][drawn] = recoloured_score(questions, painter, asked)
        taught[title] |= judged_bounds(questions, asked)
        keep(taught)
    for name in DEMOS:
        for first in (100, 200, 300):
            row = judged_score(questions, painter, adapters[name], art, first_seed=first)
            taught["stickers"][f"{name}, seeds from {first}"] = row
    keep(taught)
    for style in COMPUTED:
        _measure_computed(questions, painter, work, style, taught, note)
        keep(taught)
    adapter = work / run_name(["dusk", *OWN_WAYS]) / "adapter.safetensors"  # the style whose bars say something
    taught["kept"] |= {f"dusk, {name}": row for name, row in _stays_at_both(questions, painter, adapter).items()}
    keep(taught)


def _stays_at_both(questions: Questions, painter: Painter, adapter: Path) -> dict[str, dict[str, float]]:
    """`what_stays` by the few steps and by many."""
    return {drawn: what_stays(questions, painter, adapter, WAYS_TO_DRAW[drawn]) for drawn in ("8 steps", "30 steps")}


def _measure_computed(
    questions: Questions, painter: Painter, work: Path, style: str, taught: dict[str, Any], note: Callable[[str], None]
) -> None:
    """A computed style without a LoRA, taught in each way, and between what bounds that lies; added to ``taught``."""
    computed = taught["computed"]
    computed[f"{style}, without a LoRA"] = computed_score(questions, painter, None, style)
    for way, changes in WAYS.items():
        name = f"{style}, {way}"
        computed[name], kept = measure_way(questions, painter, work, style, changes)
        taught["unrelated"][f"{name}, 8 steps"] = kept
        note(f"{name}: {rounded(computed[name])}")
    shown_so = [COMPUTED[style](one) for one in questions.truth]  # how much the judge can read in such pictures
    readable = recall_scores(shown_so, questions.pairs, questions.judge, questions.real_CSE)
    taught["unrelated"][f"{style}: real pictures in it"] = readable
    bounds = computed_bounds(questions, painter, style)
    computed |= {f"{style}, {name}": row for name, row in bounds.items()}
