"""How much pictures differ from seed to seed, in words: beside another variant, and only where it is more than chance.

The distance itself depends on what is drawn. Open prompts of the embedded models give 0.27 with many steps and
guidance and 0.21 with eight steps, prompts that fix layout and background 0.15, and photographs something else again.
So a number alone is neither much nor little; a variant is told beside the first one, on the same prompts and seeds.
"""

from collections.abc import Sequence

from zit_app.service.comparisons import VariantReport
from zit_app.ui.text import Words

# Two sets of n seeds of the same variant differ by 0.40 / sqrt(n prompts) of their distance (standard deviation,
# measured on eight prompts of the embedded model with n = 2, 3, 4). Twice that is taken for chance; it errs on the
# careful side, since variants share their seeds.
CHANCE = 0.8


def in_words(w: Words, first: VariantReport, one: VariantReport, pictures: int) -> str:
    """How much more or less the seeds of `one` differ than those of `first`; `pictures` a variant were drawn."""
    if first.distance is None or one.distance is None:
        return "–"
    if one is first:
        return w("compare.reference")
    if not first.distance:
        return w("compare.same_pictures") if not one.distance else w("compare.differs", name=first.name)
    change, chance = one.distance / first.distance - 1, CHANCE / pictures**0.5
    if abs(change) < chance:
        return w("compare.chance", change=f"{100 * change:+.0f}", name=first.name, chance=f"{100 * chance:.0f}")
    key = "compare.more" if change > 0 else "compare.less"
    return w(key, n=round(100 * abs(change)), name=first.name)


def all_in_words(w: Words, variants: Sequence[VariantReport], pictures: int) -> list[str]:
    """One sentence a variant; the first one is what the others are measured against."""
    return [in_words(w, variants[0], one, pictures) for one in variants]
