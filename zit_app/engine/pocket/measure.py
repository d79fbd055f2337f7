"""All scores of the shipped pocket models, with ceilings and cheats: what the model card prints and the test checks."""

import copy
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from zit_app.engine.pocket.captions import canonical_caption, open_caption
from zit_app.engine.pocket.concepts import KNOWN_STYLES
from zit_app.engine.pocket.paint import Painter
from zit_app.engine.pocket.questions import Questions
from zit_app.engine.pocket.score import (
    Pairs,
    cheats,
    distance,
    diversity,
    judge_alone,
    recall_scores,
    recognised,
    sharpness,
)

DIVERSITY_PROMPTS, DIVERSITY_SEEDS = 24, 16
SETTINGS = {  # name -> (model, steps, guidance)
    "pocket-base, 30 steps, CFG": ("pocket-base", 30, 3.0),
    "pocket-base, 8 steps, no CFG": ("pocket-base", 8, 0.0),
    "pocket, 8 steps, no CFG": ("pocket", 8, 0.0),
}
INTENDED = ("pocket-base, 30 steps, CFG", "pocket, 8 steps, no CFG")  # each flavour as it is meant to be run


def canonical_prompts(pairs: Pairs, chinese: bool = False) -> list[str]:
    asked = zip(pairs.concept.tolist(), pairs.style.tolist(), strict=True)
    return [canonical_caption(pairs.concepts[c], KNOWN_STYLES[s], chinese) for c, s in asked]


def open_prompts(pairs: Pairs) -> list[str]:
    asked = zip(pairs.concept.tolist(), pairs.style.tolist(), strict=True)
    return [open_caption(pairs.concepts[c], KNOWN_STYLES[s]) for c, s in asked]


def through_vae(painter: Painter, pictures: list[Image.Image]) -> list[Image.Image]:
    """Pictures encoded and decoded: what the best possible transformer could reach."""
    out = []
    for picture in pictures:
        x = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            y = painter.vae.decode(painter.vae.encode(x).latent_dist.mean).sample[0].clamp(-1, 1)
        out.append(Image.fromarray(((y + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()))
    return out


def measure(questions: Questions, note: Callable[[str], None] = print) -> dict[str, Any]:
    """Every figure of the model card."""
    judge, pairs, real_CSE, truth = questions.judge, questions.pairs, questions.real_CSE, questions.truth
    ceiling = recall_scores(truth, pairs, judge, real_CSE)
    alone = judge_alone(real_CSE, questions.seen_CS)
    scores: dict[str, Any] = {"judge, real pictures of all five styles": alone, "real pictures": ceiling}
    painters = {name: Painter(name) for name in ("pocket-base", "pocket")}
    decoded = through_vae(painters["pocket"], truth)
    for name, pictures in {"real through the VAE": decoded, **cheats(truth)}.items():
        scores[name] = recall_scores(pictures, pairs, judge, real_CSE) | {"distance": distance(pictures, truth)}
    for name, (model, steps, guidance) in SETTINGS.items():
        for chinese in (False, True) if name in INTENDED else (False,):
            prompts = canonical_prompts(pairs, chinese)
            drawn = painters[model].paint(prompts, range(len(prompts)), steps, guidance)
            row = recall_scores(drawn, pairs, judge, real_CSE) | {"distance": distance(drawn, truth)}
            label = f"{name}, Chinese" if chinese else name
            scores[label] = row | {"recall": row["content"] / ceiling["content"]}
            note(f"{label}: {rounded(scores[label])}")
    for name in INTENDED:
        model, steps, guidance = SETTINGS[name]
        hidden = questions.hidden
        drawn = painters[model].paint(canonical_prompts(hidden), range(len(hidden.concept)), steps, guidance)
        scores[f"never shown: {name}"] = recall_scores(drawn, hidden, judge, questions.hidden_real_CSE)
    scores["open"] = open_scores(painters, questions, note)
    scores["speed"] = {"pocket, one warm 8-step picture, seconds": warm_seconds(painters["pocket"])}
    return scores


def open_scores(
    painters: dict[str, Painter], questions: Questions, note: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """24 open prompts x 16 seeds: recognised share, sharpness, and diversity among what is recognised."""
    judge, asked, real_CSE = questions.judge, questions.pairs, questions.real_CSE
    rows = torch.arange(0, len(asked.concept), len(asked.concept) // DIVERSITY_PROMPTS)[:DIVERSITY_PROMPTS]
    repeated = rows.repeat_interleave(DIVERSITY_SEEDS)
    pairs = Pairs(asked.concepts, asked.concept[repeated], asked.style[repeated])
    prompts, seeds = open_prompts(pairs), [1000 + i for i in range(DIVERSITY_SEEDS)] * len(rows)
    out = {}
    for name, (model, steps, guidance) in SETTINGS.items():
        drawn = painters[model].paint(prompts, seeds, steps, guidance)
        right = recognised(drawn, pairs, judge, real_CSE)
        found = [
            diversity(drawn[i : i + DIVERSITY_SEEDS], right[i : i + DIVERSITY_SEEDS], judge)
            for i in range(0, len(drawn), DIVERSITY_SEEDS)
        ]
        kept = [d for d in found if d]
        spread = {key: float(np.mean([d[key] for d in kept])) for key in kept[0]} if kept else {}
        out[name] = {"recognised": right.float().mean().item(), "sharpness": sharpness(drawn), **spread}
        note(f"open, {name}: {rounded(out[name])}")
    return out


def warm_seconds(painter: Painter) -> float:
    """Median of five single pictures, fp32, after one to warm up."""
    exact = copy.copy(painter)
    exact.half = False
    times = []
    for seed in range(6):
        begun = time.perf_counter()
        exact.paint(["flat emoji, red apple"], [seed], 8, 0.0)
        times.append(time.perf_counter() - begun)
    return float(np.median(times[1:]))


def rounded(row: dict[str, float]) -> str:
    return json.dumps({k: round(v, 3) for k, v in row.items()})
