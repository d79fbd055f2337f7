"""What a training leaves of prompts that have nothing to do with it: 100 concepts in styles that it was not shown.

Drawn as the few-step model is, with more steps, with guidance, and with both, as the model from which it was distilled.
A LoRA that undoes the distillation shows in the difference: what it seems to have lost comes back with guidance.

None of the concepts is among those that computed styles are taught with. Four are among the demo's stickers and twelve
among the ink drawings, each in that other art.

S sets of seeds, P prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from zit_app.engine.pocket.captions import canonical_caption
from zit_app.engine.pocket.concepts import KNOWN_STYLES
from zit_app.engine.pocket.judge import look, ranks
from zit_app.engine.pocket.paint import Painter
from zit_app.engine.pocket.questions import Questions
from zit_app.engine.pocket.score import sharpness
from zit_app.engine.pocket.teach import split
from zit_app.flow.bootstrap import interval, resamples

UNRELATED = 100
RESAMPLES = 2000


@dataclass(frozen=True)
class Way:
    """How pictures are drawn."""

    steps: int
    guidance: float = 0.0


AS_TURBO = Way(8)
WAYS_TO_DRAW = {"8 steps": AS_TURBO, "8 steps, CFG": Way(8, 3.0), "30 steps": Way(30), "30 steps, CFG": Way(30, 3.0)}


@dataclass(frozen=True)
class Seen:
    """What the judge sees in pictures of the P unrelated prompts."""

    concepts: list[str]  # P, in English
    right_P: Tensor  # bool: the right concept comes first among 200
    styled_P: Tensor  # bool: the asked style is seen
    pictures: list[Image.Image]

    def score(self) -> dict[str, float]:
        return {
            "content": self.right_P.float().mean().item(),
            "style": self.styled_P.float().mean().item(),
            "sharpness": sharpness(self.pictures),
        }


def rows_unrelated() -> list[int]:
    """The 100 of the 200 concepts: the first that no computed style is taught with."""
    return [i for i in range(200) if i not in split().taught][:UNRELATED]


def draw_unrelated(
    questions: Questions,
    painter: Painter,
    adapter: Path | None,
    way: Way,
    first_seed: int = 0,
) -> Seen:
    """The 100 concepts, 3d and classic in turn; each has a seed of its own."""
    rows = rows_unrelated()
    concept, style = torch.tensor(rows), torch.tensor([(0, 2)[i % 2] for i in range(len(rows))])
    prompts = [
        canonical_caption(questions.pairs.concepts[c], KNOWN_STYLES[s])
        for c, s in zip(rows, style.tolist(), strict=True)
    ]
    seeds = range(first_seed, first_seed + len(rows))
    drawn = painter.paint(prompts, seeds, way.steps, way.guidance, adapter)
    found, seen = look(questions.judge, drawn)
    right = ranks(found, concept, style, questions.real_CSE) == 0
    return Seen([questions.pairs.concepts[row].en for row in rows], right, seen == style, drawn)


def unrelated(questions: Questions, painter: Painter, adapter: Path | None, way: Way = AS_TURBO) -> dict[str, float]:
    """``content``, ``style`` and ``sharpness`` of one set of seeds."""
    return draw_unrelated(questions, painter, adapter, way).score()


def what_stays(
    questions: Questions, painter: Painter, adapter: Path, way: Way, sets: Sequence[int] = range(3)
) -> dict[str, float]:
    """The content with the adapter as a share of the content without it, same prompts and seeds, several sets of seeds;
    ``from`` and ``to`` hold 95 % of the resamples of the prompts (paired)."""

    def content_SP(chosen: Path | None) -> Tensor:
        drawn = [draw_unrelated(questions, painter, chosen, way, number * UNRELATED) for number in sets]
        return torch.stack([each.right_P for each in drawn]).float()

    return share_kept(content_SP(None), content_SP(adapter))


def share_kept(before_SP: Tensor, after_SP: Tensor) -> dict[str, float]:
    """``before``, ``after``: means; ``kept``: their ratio, with its paired bootstrap interval ``from`` .. ``to``."""
    before_P, after_P = before_SP.double().mean(0), after_SP.double().mean(0)  # equal counts are to be equal shares
    chosen_RP = resamples(len(before_P), RESAMPLES)
    low, high = interval(after_P[chosen_RP].mean(1) / before_P[chosen_RP].mean(1))
    before, after = before_P.mean().item(), after_P.mean().item()
    return {"before": before, "after": after, "kept": after / before, "from": low, "to": high}
