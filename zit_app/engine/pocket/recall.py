"""What the judge says of pictures whose prompts are its questions.

P prompts, S seeds.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image

from zit_app.core.paths import assets
from zit_app.engine.pocket.judge import look, ranks
from zit_app.engine.pocket.measure import canonical_prompts
from zit_app.engine.pocket.questions import Questions, load_questions


@lru_cache(maxsize=1)
def _questions() -> Questions:
    return load_questions(assets() / "judge")


def judges_prompts() -> tuple[str, ...]:
    """The judge's 200 questions as prompts, every second one in Chinese."""
    pairs = _questions().pairs
    both = zip(canonical_prompts(pairs), canonical_prompts(pairs, chinese=True), strict=True)
    return tuple(prompts[number % 2] for number, prompts in enumerate(both))


def found_and_styled(
    prompts: Sequence[str], files: Sequence[Sequence[Path]]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(P,) shares of the pictures that show the right thing (first among 200), and the right style.

    NaN at prompts that are none of the judge's questions; None when none is.
    """
    questions = _questions()
    pairs = questions.pairs
    asked = {
        prompt: number for chinese in (False, True) for number, prompt in enumerate(canonical_prompts(pairs, chinese))
    }
    if not any(prompt in asked for prompt in prompts):
        return None
    right, styled = torch.full((len(prompts),), torch.nan), torch.full((len(prompts),), torch.nan)
    for row, (prompt, shown) in enumerate(zip(prompts, files, strict=True)):
        if prompt in asked:
            number = torch.tensor([asked[prompt]] * len(shown))
            embeddings, style = look(questions.judge, [Image.open(file).convert("RGB") for file in shown])
            places = ranks(embeddings, pairs.concept[number], pairs.style[number], questions.real_CSE)
            right[row] = (places == 0).float().mean()
            styled[row] = (style == pairs.style[number]).float().mean()
    return right, styled
