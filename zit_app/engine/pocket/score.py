"""Numbers for pictures of the pocket world. Every score takes pictures, never a model, so that its ceiling (real
pictures) and its cheats (blank, mean picture, blur) go through the very same function.

Shapes: N pictures, E embedding width.
"""

from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image, ImageFilter

from zit_app.engine.pocket.bank import never_shown
from zit_app.engine.pocket.concepts import KNOWN_STYLES, OUTSIDE_GROUPS, VOCABULARY_GROUPS, Concept, read_concepts
from zit_app.engine.pocket.judge import STYLES, Judge, look, ranks
from zit_app.engine.pocket.pictures import SIZE, canonical_picture, cut_out

PAIRS = 200


@dataclass(frozen=True)
class Pairs:
    """Fixed (concept, style) questions; ``concept`` indexes ``concepts``, the candidates to be told apart."""

    concepts: list[Concept]
    concept: torch.Tensor  # (N,)
    style: torch.Tensor  # (N,) index into STYLES


def score_pairs(concepts: list[Concept]) -> Pairs:
    """200 concepts, one style each in turn, seeded; never-shown combinations are asked apart."""
    hidden = never_shown(concepts)
    open_to = [i for i in range(len(concepts)) if not any((i, s) in hidden for s in range(len(KNOWN_STYLES)))]
    chosen = sorted(Random(11).sample(open_to, PAIRS))
    return Pairs([concepts[i] for i in chosen], torch.arange(PAIRS), torch.arange(PAIRS) % len(KNOWN_STYLES))


def hidden_pairs(concepts: list[Concept], pairs: Pairs) -> Pairs:
    """The never-shown combinations, each to be found among itself and the 200 of ``pairs``' other concepts."""
    hidden = sorted(never_shown(concepts))
    extra = [concepts[c] for c, _ in hidden]
    candidates = [*extra, *pairs.concepts[: PAIRS - len(extra)]]
    return Pairs(candidates, torch.arange(len(extra)), torch.tensor([s for _, s in hidden]))


def judge_concepts(packages: dict[str, Path]) -> list[Concept]:
    """What the judge may learn from: everything outside the vocabulary, and what no score asks of it."""
    known = read_concepts(packages, VOCABULARY_GROUPS)
    pairs = score_pairs(known)
    asked = {c.key for c in [*pairs.concepts, *hidden_pairs(known, pairs).concepts]}
    return [*read_concepts(packages, OUTSIDE_GROUPS), *(c for c in known if c.key not in asked)]


def real_of(pairs: Pairs, noto: Path) -> list[Image.Image]:
    """The true canonical picture of every pair."""
    asked = zip(pairs.concept.tolist(), pairs.style.tolist(), strict=True)
    return [canonical_picture(cut_out(pairs.concepts[c], STYLES[s], noto)) for c, s in asked]


def as_array(pictures: list[Image.Image], side: int) -> np.ndarray:
    """(N, side, side, 3) in 0..1."""
    small = [p.convert("RGB").resize((side, side), Image.Resampling.BOX) for p in pictures]
    return np.stack([np.asarray(p, np.float32) / 255 for p in small])


def sharpness(pictures: list[Image.Image]) -> float:
    """Mean absolute 4-neighbour Laplacian of luminance at full size, 0..255 scale: falls when pictures blur."""
    out = []
    for picture in pictures:
        y = np.asarray(picture.convert("L"), np.float32)
        out.append(np.abs(4 * y[1:-1, 1:-1] - y[:-2, 1:-1] - y[2:, 1:-1] - y[1:-1, :-2] - y[1:-1, 2:]).mean())
    return float(np.mean(out))


def recall_scores(pictures: list[Image.Image], pairs: Pairs, judge: Judge, real_CSE: torch.Tensor) -> dict[str, float]:
    """Right concept first among the candidates, asked style seen, distance to nothing else: shares in 0..1."""
    found, style = look(judge, pictures)
    first = ranks(found, pairs.concept, pairs.style, real_CSE) == 0
    return {
        "content": first.float().mean().item(),
        "style": (style == pairs.style).float().mean().item(),
        "sharpness": sharpness(pictures),
    }


def judge_alone(real_CSE: torch.Tensor, seen_CS: torch.Tensor) -> dict[str, float]:
    """The judge on the real pictures of all five styles: right concept first among the 200, right style seen."""
    concept, style = (seen_CS >= 0).nonzero(as_tuple=True)
    first = ranks(real_CSE[concept, style], concept, style, real_CSE) == 0
    return {
        "content": first.float().mean().item(),
        "style": (seen_CS[concept, style] == style).float().mean().item(),
    }


def distance(pictures: list[Image.Image], truth: list[Image.Image]) -> float:
    """Median over pictures of the root mean square RGB difference at 64 x 64, 0..1 scale."""
    a, b = as_array(pictures, 64), as_array(truth, 64)
    return float(np.median(np.sqrt(((a - b) ** 2).mean((1, 2, 3)))))


def cheats(truth: list[Image.Image]) -> dict[str, list[Image.Image]]:
    """Pictures that answer nothing: white, the mean of all, and the truth blurred until details are gone."""
    mean = Image.fromarray((as_array(truth, SIZE).mean(0) * 255).astype(np.uint8))
    return {
        "blank": [Image.new("RGB", (SIZE, SIZE), "white")] * len(truth),
        "mean picture": [mean] * len(truth),
        "blurred real (8 px)": [p.filter(ImageFilter.GaussianBlur(8)) for p in truth],
        "blurred real (16 px)": [p.filter(ImageFilter.GaussianBlur(16)) for p in truth],
    }


@dataclass(frozen=True)
class Isolated:
    """The thing of an open picture: cut out onto white, and where it was."""

    picture: Image.Image
    center: tuple[float, float]  # 0..1
    extent: float  # 0..1, longer side of its box
    background: tuple[float, float, float]  # mean, 0..1


def isolate(picture: Image.Image, threshold: float = 0.12) -> Isolated | None:
    """Subtract the background (a vertical gradient fitted to the border) and centre what is left; None if nothing."""
    x = np.asarray(picture.convert("RGB"), np.float32) / 255
    side = x.shape[0]
    rows = np.arange(side, dtype=np.float32) / side
    edge = np.concatenate([x[:, :2].mean(1), x[:, -2:].mean(1)]), np.concatenate([rows, rows])
    background = np.empty_like(x)
    for channel in range(3):
        values, where = edge[0][:, channel], edge[1]
        for _ in range(3):  # drop outliers: a thing that touches the border
            slope, start = np.polyfit(where, values, 1)
            keep = np.abs(values - (slope * where + start)) <= max(0.06, np.median(np.abs(values - values.mean())))
            values, where = (values[keep], where[keep]) if keep.sum() > 20 else (values, where)
        background[..., channel] = (slope * rows + start)[:, None]
    mask = np.abs(x - background).max(-1) > threshold
    columns, lines = np.where(mask.sum(0) > 2)[0], np.where(mask.sum(1) > 2)[0]
    if len(columns) < 8 or len(lines) < 8:
        return None
    left, right, top, bottom = columns[0], columns[-1] + 1, lines[0], lines[-1] + 1
    extent = max(right - left, bottom - top)
    on_white = np.where(mask[..., None], x, 1.0)
    cut = Image.fromarray((on_white[top:bottom, left:right] * 255).astype(np.uint8))
    scale = 112 / extent
    cut = cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (SIZE, SIZE), "white")
    canvas.paste(cut, ((SIZE - cut.width) // 2, (SIZE - cut.height) // 2))
    return Isolated(
        canvas,
        ((left + right) / 2 / side, (top + bottom) / 2 / side),
        float(extent / side),
        tuple(background.mean((0, 1)).tolist()),
    )


def mean_pair_distance(values_NX: np.ndarray) -> float:
    """Mean Euclidean distance of all pairs, divided by the square root of the width (a per-entry RMS)."""
    flat = torch.from_numpy(values_NX.reshape(len(values_NX), -1))
    return float(torch.pdist(flat).mean() / flat.shape[1] ** 0.5)


def diversity(pictures: list[Image.Image], right: torch.Tensor, judge: Judge) -> dict[str, float] | None:
    """How much pictures of one prompt differ over seeds, among those that show the thing (``right`` (N,) bool).

    ``pixels``: mean pair distance at 32 x 32 RGB · ``layout``: spread of centre and size · ``background``: spread of
    its colour · ``identity``: mean pair distance of the judge's embeddings of the isolated things.
    """
    looked = [(p, isolate(p)) for p, ok in zip(pictures, right.tolist(), strict=True) if ok]
    parts = [(p, thing) for p, thing in looked if thing is not None]
    if len(parts) < 4:
        return None
    things = [i for _, i in parts]
    embeddings, _ = look(judge, [i.picture for i in things])
    layout = np.array([[*i.center, i.extent] for i in things], np.float32)
    return {
        "pixels": mean_pair_distance(as_array([p for p, _ in parts], 32)),
        "layout": mean_pair_distance(layout),
        "background": mean_pair_distance(np.array([i.background for i in things], np.float32)),
        "identity": float(torch.pdist(embeddings).mean()),
    }


def recognised(pictures: list[Image.Image], pairs: Pairs, judge: Judge, real_CSE: torch.Tensor) -> torch.Tensor:
    """(N,) bool: the isolated thing is found within the first five of the candidates."""
    things = [isolate(p) for p in pictures]
    blank = Image.new("RGB", (SIZE, SIZE), "white")
    found, _ = look(judge, [t.picture if t else blank for t in things])
    near = ranks(found, pairs.concept, pairs.style, real_CSE) < 5
    return near & torch.tensor([t is not None for t in things])
