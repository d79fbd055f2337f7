"""Is the pocket a true twin of Turbo: does naive training break its few-step pictures, and does a style get taught?

*The disease*: a plain flow-matching LoRA (uniform times, no protection) learns a style; then *unrelated* prompts,
in styles it was not shown, are drawn at 8 and at 30 steps, with and without it. Turbo loses its 8-step pictures and has
most of them back at 30.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from zit_app.core import paths
from zit_app.core.train_settings import TrainSettings, load_train_settings
from zit_app.engine.pocket.captions import canonical_caption
from zit_app.engine.pocket.concepts import KNOWN_STYLES
from zit_app.engine.pocket.judge import look, ranks
from zit_app.engine.pocket.measure import rounded
from zit_app.engine.pocket.paint import Painter
from zit_app.engine.pocket.questions import Questions
from zit_app.engine.pocket.score import sharpness
from zit_app.engine.pocket.styles import COMPUTED
from zit_app.engine.pocket.teach import computed_bounds, computed_score, judged_score, split, teach, write_dataset

NEW_ART = "twemoji"  # what the demo's pictures are, as the judge calls it
PLAIN_STEPS, TAUGHT_STEPS = 300, 500
UNRELATED = 100


def settings_of(name: str, steps: int) -> TrainSettings:
    """``plain``: uniform times on the distilled weights, without protection; ``demo``: as it ships."""
    changes = [f"training.max_steps={steps}"]
    if name == "plain":
        changes += ["acrf.base=mse", "acrf.sampler=uniform", "lora.layers="]
        changes += ["training.protection=none", "training.learning_rate=6e-4"]
    return load_train_settings(paths.assets() / "demo" / "train.toml", changes)


def unrelated(questions: Questions, painter: Painter, adapter: Path | None, steps: int) -> dict[str, float]:
    """``content`` and ``sharpness`` on 100 concepts that are not taught, in 3d and classic, guidance 0."""
    rows = [i for i in range(200) if i not in split().taught][:UNRELATED]
    concept, style = torch.tensor(rows), torch.tensor([(0, 2)[i % 2] for i in range(len(rows))])
    prompts = [
        canonical_caption(questions.pairs.concepts[c], KNOWN_STYLES[s])
        for c, s in zip(rows, style.tolist(), strict=True)
    ]
    drawn = painter.paint(prompts, range(len(rows)), steps, 0.0, adapter)
    found, seen = look(questions.judge, drawn)
    first = ranks(found, concept, style, questions.real_CSE) == 0
    return {
        "content": first.float().mean().item(),
        "style": (seen == style).float().mean().item(),
        "sharpness": sharpness(drawn),
    }


def measure_teaching(
    questions: Questions, work: Path, keep: Callable[[dict[str, Any]], None], note: Callable[[str], None] = print
) -> None:
    """All trainings in run folders below ``work`` (finished ones are kept) and what they teach and break.

    ``keep`` gets the figures after every part, so that an interrupted measurement has what it has.
    """
    painter = Painter("pocket")
    art = paths.assets() / "demo" / "pictures"
    shown = [path.stem.replace("_", " ") for path in sorted(art.glob("*.png"))]
    adapters = {
        name: teach(art, settings_of(name, PLAIN_STEPS), work / f"{name}_{PLAIN_STEPS}") for name in ("plain", "demo")
    }
    taught: dict[str, Any] = {"unrelated": {}, "new art": {}, "computed": {}}
    for name, adapter in {"without a LoRA": None, **adapters}.items():
        for steps in (8, 30):
            row = taught["unrelated"][f"{name}, {steps} steps"] = unrelated(questions, painter, adapter, steps)
            note(f"unrelated, {name}, {steps} steps: {rounded(row)}")
        taught["new art"][name] = judged_score(questions, painter, adapter, "flat", NEW_ART, shown)
        note(f"new art, {name}: {rounded(taught['new art'][name])}")
        keep(taught)
    for style in COMPUTED:
        dataset = write_dataset(questions, style, work / f"pictures_{style}")
        adapter = teach(dataset, settings_of("demo", TAUGHT_STEPS), work / f"{style}_{TAUGHT_STEPS}")
        for name, used in (("without a LoRA", None), ("with it", adapter)):
            row = taught["computed"][f"{style}, {name}"] = computed_score(questions, painter, used, style)
            note(f"{style}, {name}: {rounded(row)}")
        taught["unrelated"][f"{style}, 8 steps"] = unrelated(questions, painter, adapter, 8)
        bounds = computed_bounds(questions, painter, style)
        taught["computed"] |= {f"{style}, {name}": row for name, row in bounds.items()}
        keep(taught)
