"""Comparisons for the app: what a run of kind compare has drawn and measured so far."""

from dataclasses import dataclass
from pathlib import Path

from zit_app.core.compare_settings import load_comparison
from zit_app.core.files import read_json


@dataclass(frozen=True)
class VariantReport:
    """Numbers of one variant; None until all its cells are there, or with fewer than two seeds.

    distance   mean over prompts of the mean pairwise distance of the pictures at 32 × 32 RGB, 0 to 1
    deviation  mean over prompts of the pixels' standard deviation over seeds, 0 to 1
    """

    name: str
    distance: float | None
    deviation: float | None


@dataclass(frozen=True)
class Report:
    """A comparison as far as it is. `cells` are the pictures that exist, by (variant, number of the prompt, seed)."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    variants: tuple[VariantReport, ...]
    cells: dict[tuple[str, int, int], Path]
    grid: Path | None


def read_report(folder: Path) -> Report:
    """The comparison in a run folder."""
    settings = load_comparison(folder / "settings.toml")
    file, grid = folder / "report.json", folder / "grid.png"
    measured = read_json(file)["variants"] if file.is_file() else {}
    names = [variant.name for variant in settings.variants]
    cells = {
        (name, number, seed): folder / "cells" / name / f"{number:02d}_{seed}.png"
        for name in names
        for number in range(len(settings.prompts))
        for seed in settings.seeds
    }
    return Report(
        settings.prompts,
        settings.seeds,
        tuple(
            VariantReport(name, measured.get(name, {}).get("distance"), measured.get(name, {}).get("deviation"))
            for name in names
        ),
        {key: path for key, path in cells.items() if path.is_file()},
        grid if grid.is_file() else None,
    )
