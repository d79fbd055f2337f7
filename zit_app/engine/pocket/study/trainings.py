"""Each row of the study trained with each seed, and what it taught and broke. Finished rows are kept.

C concepts, B batch, N nodes.
"""

import math
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zit_app.core import paths
from zit_app.core.files import read_json, write_json
from zit_app.core.run import Run
from zit_app.core.train_settings import load_train_settings
from zit_app.engine.pocket import teach
from zit_app.engine.pocket.measure import through_vae
from zit_app.engine.pocket.paint import Painter
from zit_app.engine.pocket.protections import guard_of, unrelated_prompts
from zit_app.engine.pocket.questions import Questions
from zit_app.engine.pocket.study.probes import probe
from zit_app.engine.pocket.study.rows import COMMON, ROWS, Row
from zit_app.engine.pocket.study.sizes import measure_sizes
from zit_app.engine.pocket.styles import COMPUTED
from zit_app.engine.pocket.unrelated import unrelated
from zit_app.flow.schedule import noisy, velocity
from zit_app.model.adapter_files import read_adapter
from zit_app.model.adapter_stack import apply_adapters
from zit_app.model.device import in_half
from zit_app.model.forward import predict_velocity
from zit_app.model.latents import encode_pictures, normalise
from zit_app.model.text import encode_prompts

STYLE = "hues"  # a computed style, so that every concept has a true picture
FIGURES = "figures.json"
UNTRAINED = "untrained"
LEVELS = 16  # noise levels of the held-out loss, evenly spaced


@dataclass(frozen=True)
class Exam:
    """What every row is asked: prompts of concepts that it was not shown, and their true pictures."""

    questions: Questions
    painter: Painter
    asked: teach.Exam
    latents_CCHW: Tensor  # of its true pictures


def run_study(
    questions: Questions,
    work: Path,
    out: Path,
    seeds: int = 3,
    only: Sequence[str] = (),
    note: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train and measure what `out/figures.json` lacks; returns all its figures.

    Rows come seed by seed, so that an interrupted study has every row once before any row twice. Trainings lie below
    ``work`` until they are measured.
    """
    file = out / FIGURES
    figures: dict[str, Any] = read_json(file) if file.exists() else {"rows": {}}
    exam = _exam(questions)
    if "probes" not in figures:
        note("gradients of the untrained model")
        taught = [questions.flat[i] for i in teach.split().taught]
        names = [teach.prompt(questions.pairs.concepts[i].en) for i in teach.split().taught]
        figures["probes"] = probe(exam.painter, _latents(exam.painter, [COMPUTED[STYLE](p) for p in taught]), names)
        write_json(file, figures)
    if "sizes" not in figures and sys.platform == "linux":
        note("memory and time by number of pictures")
        figures["sizes"] = measure_sizes(questions, STYLE, work, note)
        write_json(file, figures)
    wanted = [(name, seed) for seed in range(seeds) for name in ROWS if not only or name in only]
    for name, seed in [(UNTRAINED, 0), *wanted]:
        known = figures["rows"].setdefault(name, {})
        if str(seed) in known:
            continue
        known[str(seed)] = _untrained(exam) if name == UNTRAINED else _row(exam, name, seed, work)
        write_json(file, figures)
        note(f"{name}, seed {seed}: " + ", ".join(f"{key} {value:.3g}" for key, value in known[str(seed)].items()))
    return figures


def _row(exam: Exam, name: str, seed: int, work: Path) -> dict[str, float]:
    row = ROWS[name]
    folder = work / f"{re.sub('[^a-z0-9]+', '_', name.lower())}_{seed}"
    settings = load_train_settings(paths.assets() / "demo" / "train.toml", _changes(row, seed, work))
    adapter = teach.teach(_pictures(exam.questions, row.pictures, work), settings, folder)
    measured = {**_course(Run.open(folder).metrics()), **_taught(exam, adapter), **_kept(exam, adapter)}
    shutil.rmtree(folder)
    return measured


def _changes(row: Row, seed: int, work: Path) -> list[str]:
    changes = [*COMMON, f"training.seed={seed}", *row.changes]
    if "training.protection=adapter" in row.changes:
        changes.append(f'training.protection_adapter="{guard_of(work).as_posix()}"')
    return [*changes, f'training.unrelated_prompts="{unrelated_prompts(work).as_posix()}"']


def _pictures(questions: Questions, count: int, work: Path) -> Path:
    """The first ``count`` of the 24 pictures with their captions."""
    whole = work / "pictures"
    if not whole.exists():
        teach.write_dataset(questions, STYLE, whole)
    if count == len(teach.split().taught):
        return whole
    part = work / f"pictures_{count}"
    if not part.exists():
        part.mkdir()
        for i in teach.split().taught[:count]:
            for ending in (".png", ".txt"):
                shutil.copy(whole / f"{questions.pairs.concepts[i].key}{ending}", part)
    return part


def _exam(questions: Questions) -> Exam:
    painter, asked = Painter("pocket"), teach.exam(questions, STYLE)
    return Exam(questions, painter, asked, _latents(painter, asked.truths))


@torch.no_grad()
def _latents(painter: Painter, pictures: list[Image.Image]) -> Tensor:
    """Normalised latents, (C, channels, H, W)."""
    x = torch.stack([torch.from_numpy(np.asarray(p.convert("RGB")).copy()).permute(2, 0, 1) for p in pictures])
    return normalise(painter.vae, encode_pictures(painter.vae, x.float() / 127.5 - 1)[0])


def _untrained(exam: Exam) -> dict[str, float]:
    best = teach.truth_score(through_vae(exam.painter, exam.asked.truths), exam.asked)["relative"]
    return {**_taught(exam, None), **_kept(exam, None), "error of the truth through the VAE": best}


def _taught(exam: Exam, adapter: Path | None) -> dict[str, float]:
    """`teach.truth_score`, its ``relative`` as ``error``, and ``held-out loss``: on the true pictures."""
    asked = exam.asked
    drawn = exam.painter.paint(asked.prompts, range(len(asked.prompts)), 8, 0.0, adapter)
    score = teach.truth_score(drawn, asked)
    return {
        "error": score["relative"],
        "found": score["found"],
        "sharpness": score["sharpness"],
        "held-out loss": _held_out(exam, adapter),
    }


@torch.no_grad()
def _held_out(exam: Exam, adapter: Path | None) -> float:
    painter = exam.painter
    stack = apply_adapters(painter.transformer, [(read_adapter(adapter), 1.0, 1, 0)]) if adapter else None
    caps = encode_prompts(*painter.text, exam.asked.prompts)
    generator = torch.Generator().manual_seed(2000)
    levels_B = ((torch.arange(len(caps)) % LEVELS) + 0.5) / LEVELS
    noise = torch.randn(exam.latents_CCHW.shape, generator=generator)
    with in_half("cpu"):
        v = predict_velocity(painter.transformer, noisy(exam.latents_CCHW, noise, levels_B), levels_B, caps)
    if stack is not None:
        stack.remove()
    return (v.float() - velocity(exam.latents_CCHW, noise)).square().mean().item()


def _kept(exam: Exam, adapter: Path | None) -> dict[str, float]:
    """Content and sharpness of 8-step pictures from prompts that have nothing to do with the training."""
    kept = unrelated(exam.questions, exam.painter, adapter)
    return {"unrelated content": kept["content"], "unrelated sharpness": kept["sharpness"]}


def _course(metrics: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of the training's own loss: its mean at the ``begin`` and ``end`` (a tenth each), and how much it ``swings``:
    the deviation of the last half around its mean, over that mean. ``seconds`` a step: the median."""
    losses = [one["loss"] for one in metrics if "loss" in one]
    tenth, half = max(1, len(losses) // 10), losses[len(losses) // 2 :]
    seconds = sorted(one["seconds"] for one in metrics if "seconds" in one)
    return {
        "loss at the begin": fmean(losses[:tenth]),
        "loss at the end": fmean(losses[-tenth:]),
        "swing of the loss": stdev(half) / fmean(half) if len(half) > 1 else math.nan,
        "seconds a step": seconds[len(seconds) // 2],
    }
