"""Contact sheets that a person looks at: canonical and open prompts, drawn by the shipped weights."""

from pathlib import Path

import torch

from zit_app.core.files import replacing
from zit_app.engine.pocket.measure import canonical_prompts, open_prompts
from zit_app.engine.pocket.paint import Painter
from zit_app.engine.pocket.pictures import contact_sheet
from zit_app.engine.pocket.questions import Questions
from zit_app.engine.pocket.score import Pairs

COUNT, COLUMNS = 64, 8


def every_third(questions: Questions) -> Pairs:
    """64 of the 200 concepts, taken at a fixed stride and not chosen by looks, the styles in turn."""
    rows = list(range(0, 200, 3))[:COUNT]
    pairs = questions.pairs
    return Pairs(pairs.concepts, pairs.concept[rows], torch.arange(COUNT) % 3)


def draw_sheets(questions: Questions, folder: Path, model: str = "pocket") -> list[Path]:
    """``MODEL_sheet.png`` (canonical prompts, each a concept in one of three styles) and ``MODEL_open.png`` (eight open
    prompts, eight seeds each); returns both paths."""
    painter, pairs = Painter(model), every_third(questions)
    names = [questions.pairs.concepts[i].en for i in pairs.concept.tolist()]
    canonical = painter.paint(canonical_prompts(pairs), range(COUNT))
    prompts = [p for p in open_prompts(pairs)[:: COUNT // COLUMNS] for _ in range(COLUMNS)]
    varied = painter.paint(prompts, list(range(COLUMNS)) * COLUMNS)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{model}_sheet.png", folder / f"{model}_open.png"]
    for path, pictures, labels in zip(paths, (canonical, varied), (names, None), strict=True):
        with replacing(path) as temporary:
            contact_sheet(pictures, COLUMNS, labels).save(temporary, "PNG", optimize=True)
    return paths
