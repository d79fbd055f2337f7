"""Compare ways to draw: prompts × seeds × variants, the pictures side by side and how much seeds vary in each.

    cells/<variant>/<prompt>_<seed>.png   one picture a cell, with its recipe
    grid.png                              a row a variant and prompt, a column a seed
    report.json                           numbers a variant and prompt

Cells that exist are not drawn again, so a comparison that was stopped goes on where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image, ImageDraw

from zit_app.core.compare_settings import CompareSettings, Variant, check
from zit_app.core.files import replacing, write_json
from zit_app.core.generate_settings import GenerateSettings
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.engine.generate import AdapterUse, draw, read_adapters
from zit_app.engine.plan import Plan, make_plan, shots_of
from zit_app.engine.warm import Warm
from zit_app.flow.diversity import mean_pairwise_distance, pixel_deviation
from zit_app.model.loading import default_device, find_model, read_flavour, read_limits

THUMB, GAP, LABEL = 256, 4, 18  # pixels
GRID_LIMIT = 16384  # pixels a side: above, viewers and browsers give up; thumbs become smaller then

Table = dict[str, dict[str, Any]]


def compare(settings: CompareSettings, run: Run, progress: Progress, warm: Warm | None = None) -> Table | None:
    """Draw the missing cells, then write grid and report; returns the report's numbers by variant.

    None when the run was asked to stop. Raises ZitError for settings, models and adapters that cannot work, before
    anything is drawn.
    """
    check(settings)
    warm = warm or Warm()
    with run.working():
        if not draw_variants(settings, run, progress, warm):
            return None
        progress.stage("Measuring")
        table = {variant.name: _measure(settings, variant.name, run.folder) for variant in settings.variants}
        write_json(run.folder / "report.json", {"variants": table})
        _write_grid(settings, run.folder)
        run.write_status("done", pictures=[str(run.folder / "grid.png")])
        return table


def cell_path(folder: Path, variant: str, prompt: int, seed: int) -> Path:
    """Where the picture of prompt number `prompt` (from 0) and a seed lies."""
    return folder / "cells" / variant / f"{prompt:02d}_{seed}.png"


@dataclass(frozen=True)
class Way:
    """A variant, ready to be drawn."""

    name: str
    plan: Plan
    settings: GenerateSettings
    model: Path
    adapters: list[AdapterUse]


def plan_variant(settings: CompareSettings, variant: Variant) -> Way:
    """Check a variant as a whole and read its adapters. Raises ZitError when it cannot work."""
    folder = find_model(variant.model or settings.model)
    own = GenerateSettings(
        prompts=settings.prompts,
        steps=variant.steps,
        guidance=variant.guidance,
        width=settings.width,
        height=settings.height,
        precision=settings.precision,
        loras=variant.loras,
    )
    plan = make_plan(own, read_flavour(folder), read_limits(folder), default_device())
    return Way(variant.name, plan, own, folder, read_adapters(own))


def draw_variants(settings: CompareSettings, run: Run, progress: Progress, warm: Warm) -> bool:
    """Draw the missing cells of all variants; false, and the run is stopped, when asked to stop on the way.

    Raises ZitError for a variant that cannot work before any is drawn: nobody wants to hear of the last one after an
    hour.
    """
    ways = [plan_variant(settings, variant) for variant in settings.variants]
    for number, way in enumerate(ways, 1):
        progress.note(f"{way.name} ({number} of {len(ways)})")
        if not _draw_way(settings, way, run, progress, warm):
            run.write_status("stopped", message=f"Stopped in {way.name}; the cells that are there stay.")
            return False
    return True


def _draw_way(settings: CompareSettings, way: Way, run: Run, progress: Progress, warm: Warm) -> bool:
    cells = [
        (shot, cell_path(run.folder, way.name, number, shot.seed))
        for number, prompt in enumerate(settings.prompts)
        for shot in shots_of([prompt], settings.seeds)
    ]
    missing = [cell for cell in cells if not cell[1].is_file()]
    if not missing:
        return True
    plan = replace(way.plan, shots=tuple(shot for shot, _ in missing))
    paths = [path for _, path in missing]
    return draw(plan, way.settings, way.model, way.adapters, paths, progress, warm) == len(missing)


def _measure(settings: CompareSettings, variant: str, folder: Path) -> dict[str, Any]:
    """Distance and deviation over seeds, mean over prompts and each prompt's; None with a single seed."""
    if len(settings.seeds) < 2:
        return {"distance": None, "deviation": None, "prompts": []}
    rows: list[dict[str, Any]] = []
    for number, prompt in enumerate(settings.prompts):
        files = [cell_path(folder, variant, number, seed) for seed in settings.seeds]
        x_S3HW = torch.stack([read_pixels(file) for file in files])
        rows.append(
            {
                "prompt": prompt,
                "distance": round(mean_pairwise_distance(x_S3HW).item(), 6),
                "deviation": round(pixel_deviation(x_S3HW).item(), 6),
            }
        )
    means = {key: round(fmean(row[key] for row in rows), 6) for key in ("distance", "deviation")}
    return {**means, "prompts": rows}


def read_pixels(file: Path) -> torch.Tensor:
    """A picture as (3, H, W) in 0 … 1."""
    with Image.open(file) as picture:
        rgb = picture.convert("RGB")
    data = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return data.view(rgb.height, rgb.width, 3).permute(2, 0, 1).float() / 255


def _write_grid(settings: CompareSettings, folder: Path) -> None:
    """One sheet: for each prompt a block with a row a variant and a column a seed."""
    columns, rows = len(settings.seeds), len(settings.prompts) * len(settings.variants)
    side = max(16, min(THUMB, GRID_LIMIT // columns - GAP, GRID_LIMIT // rows - GAP - LABEL))
    sheet = Image.new("RGB", (columns * (side + GAP) + GAP, rows * (side + LABEL + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    top = 0
    for number, prompt in enumerate(settings.prompts):
        for variant in settings.variants:
            pen.text((GAP, top + 2), f"{variant.name} · {prompt}", fill="black")
            _paste_row(sheet, [cell_path(folder, variant.name, number, seed) for seed in settings.seeds], top, side)
            top += side + LABEL + GAP
    with replacing(folder / "grid.png") as temporary:
        sheet.save(temporary)


def _paste_row(sheet: Image.Image, files: Sequence[Path], top: int, side: int) -> None:
    for column, file in enumerate(files):
        with Image.open(file) as picture:
            small = picture.convert("RGB")
        small.thumbnail((side, side))
        sheet.paste(small, (GAP + column * (side + GAP), top + LABEL))
