"""Evaluate ways to draw: the pictures of a comparison, measured, with intervals.

    cells/<variant>/<prompt>_<seed>.png   one picture a cell, with its recipe; drawn once
    report.json, report.md                figures a variant, differences to the first one, the command that repeats it

V variants, P prompts, S seeds, R resamples.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zit_app.core.compare_settings import CompareSettings
from zit_app.core.errors import ZitError
from zit_app.core.eval_settings import EvalSettings, eval_toml
from zit_app.core.files import write_atomic, write_json
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.data import reading
from zit_app.data.formats import EXTENSIONS
from zit_app.engine.compare import cell_path, draw_variants, read_pixels
from zit_app.engine.evaluation_report import words_of
from zit_app.engine.pocket.recall import found_and_styled
from zit_app.engine.warm import Warm
from zit_app.flow.bootstrap import centred, interval, resamples
from zit_app.flow.diversity import mean_pairwise_distance
from zit_app.flow.frechet import Moments, frechet_distance, moments
from zit_app.flow.sharpness import sharpness
from zit_app.model.clip import Clip
from zit_app.model.loading import default_device

FRECHET_RESAMPLES = 100  # each takes the singular values of a matrix of the features' width
Figure = Callable[[torch.Tensor], float]  # from (P,) indices of prompts to the figure over them
Report = dict[str, Any]


@dataclass(frozen=True)
class _Eyes:
    """What the user's CLIP sees of prompts and references."""

    clip: Clip
    prompts_PD: torch.Tensor
    references: Moments | None


def evaluate(
    drawn: CompareSettings, measured: EvalSettings, run: Run, progress: Progress, warm: Warm | None = None
) -> Report | None:
    """Draw the missing pictures, measure all, write the report and return it; None when asked to stop.

    Raises ZitError for settings, models, adapters, folders that cannot work, before anything is drawn.
    """
    eval_toml(drawn, measured)
    warm = warm or Warm()
    with run.working():
        eyes = _open_eyes(drawn, measured)
        if not draw_variants(drawn, run, progress, warm):
            return None
        progress.stage("Measuring")
        figures = {variant.name: _figures(drawn, variant.name, run.folder, eyes) for variant in drawn.variants}
        report = _report(drawn, measured, figures, run.folder)
        write_json(run.folder / "report.json", report)
        write_atomic(run.folder / "report.md", words_of(report))
        run.write_status("done", message=f"{run.folder / 'report.md'}")
        return report


def _open_eyes(drawn: CompareSettings, measured: EvalSettings) -> _Eyes | None:
    if not measured.clip:
        return None
    clip = Clip(Path(measured.clip), default_device())
    files: list[Path] = []
    if measured.references:
        files = sorted(f for f in Path(measured.references).rglob("*") if f.suffix.lower() in EXTENSIONS)
        if len(files) < 2:
            raise ZitError(f"{measured.references} holds fewer than two pictures.", "Give a folder of real pictures.")
    return _Eyes(clip, clip.prompts(drawn.prompts), moments(clip.pictures(files)) if files else None)


def _figures(drawn: CompareSettings, variant: str, folder: Path, eyes: _Eyes | None) -> dict[str, Figure]:
    """What can be said of one variant: figures as functions of which prompts are looked at."""
    numbers, seeds = range(len(drawn.prompts)), drawn.seeds
    files = [[cell_path(folder, variant, number, seed) for seed in seeds] for number in numbers]
    look_P2 = torch.tensor([_sharpness_and_spread(each) for each in files])
    found: dict[str, Figure] = {}
    if eyes is not None:
        seen_PSD = eyes.clip.pictures([file for each in files for file in each]).view(len(files), len(seeds), -1)
        found["agreement"] = _mean_of(torch.einsum("psd,pd->ps", seen_PSD, eyes.prompts_PD).mean(1))
        if eyes.references is not None:
            found["frechet"] = _distance_of(seen_PSD, eyes.references)
    judged = found_and_styled(drawn.prompts, files)
    if judged is not None:
        found |= {"recall": _mean_of(judged[0]), "style": _mean_of(judged[1])}
    if reading.is_installed() and any(map(reading.asked_texts, drawn.prompts)):
        found["text"] = _mean_of(torch.tensor(reading.texts_found(drawn.prompts, files)))
    found["sharpness"] = _mean_of(look_P2[:, 0])
    if len(seeds) > 1:
        found["diversity"] = _mean_of(look_P2[:, 1])
    return found


def _sharpness_and_spread(files: list[Path]) -> tuple[float, float]:
    """Of the pictures of one prompt; the spread over a single seed is NaN."""
    x_S3HW = torch.stack([read_pixels(file) for file in files])
    spread = mean_pairwise_distance(x_S3HW).item() if len(files) > 1 else torch.nan
    return sharpness(x_S3HW).mean().item(), spread


def _mean_of(values_P: torch.Tensor) -> Figure:
    """The mean over prompts; NaN at prompts that the figure says nothing of."""
    values = values_P.double()
    return lambda chosen_P: values[chosen_P].nanmean().item()


def _distance_of(seen_PSD: torch.Tensor, references: Moments) -> Figure:
    return lambda chosen_P: frechet_distance(moments(seen_PSD[chosen_P].flatten(0, 1)), references)


def _report(
    drawn: CompareSettings, measured: EvalSettings, figures: dict[str, dict[str, Figure]], folder: Path
) -> Report:
    """Every figure with its interval, and the paired difference to the first variant: the same resampled prompts."""
    prompts = torch.arange(len(drawn.prompts))
    chosen_RP = resamples(len(prompts), measured.resamples)
    values, differences = {}, {}
    first: dict[str, tuple[float, torch.Tensor]] = {}
    for variant, known in figures.items():
        own = {}
        for name, figure in known.items():
            count = min(len(chosen_RP), FRECHET_RESAMPLES) if name == "frechet" else len(chosen_RP)
            value, resampled = figure(prompts), torch.tensor([figure(chosen) for chosen in chosen_RP[:count]])
            own[name] = value, centred(value, resampled) if name == "frechet" else resampled
        values[variant] = {name: _row(*pair) for name, pair in own.items()}
        if first:
            pairs = {name: (own[name][0] - first[name][0], own[name][1] - first[name][1]) for name in own}
            differences[variant] = {name: _row(*pair) for name, pair in pairs.items()}
        first = first or own
    return {
        "command": f"zit eval --again {shlex.quote(str(folder.absolute()))}",
        "model": drawn.model,
        "prompts": len(prompts),
        "seeds": list(drawn.seeds),
        "clip": measured.clip,
        "references": measured.references,
        "texts_asked": sum(bool(reading.asked_texts(prompt)) for prompt in drawn.prompts),
        "figures": values,
        "differences": differences,
    }


def _row(value: float, drawn_R: torch.Tensor) -> dict[str, float]:
    low, high = interval(drawn_R)
    return {"value": round(value, 6), "low": round(low, 6), "high": round(high, 6)}
