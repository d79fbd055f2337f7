"""What the AC-RF documents say, as comparisons of figures.

A claim about two rows holds when the means of their seeds differ as it says by more than two standard errors, is
wrong when they differ so the other way, and is not confirmed when they do not differ. One seed decides nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

Figures = Mapping[str, Mapping[str, Mapping[str, float]]]  # row, seed, measure
CONFIRMED, WRONG, NOT_CONFIRMED, OPEN = "confirmed", "wrong", "not confirmed", "open: fewer than two seeds"


@dataclass(frozen=True)
class Claim:
    """``left`` has less of ``measure`` than ``right``, say the documents at ``section``."""

    section: str
    words: str
    measure: str
    left: str
    right: str


CLAIMS = (
    Claim("§2.3, §8.4", "at the nodes the loss swings less", "swing of the loss", "nodes", "uniform"),
    Claim("§8.4", "at the nodes training gets further in the same steps", "held-out loss", "nodes", "uniform"),
    Claim("§8.4", "the whole method gets further than uniform levels", "error", "AC-RF in full", "uniform"),
    Claim("§8.3", "more pictures need more memory", "peak, MB", "50 pictures", "200 pictures"),
    Claim("§9.1", "four nodes end at a higher loss than ten", "held-out loss", "10 nodes", "4 nodes"),
    Claim("§9.1", "twenty nodes end at a lower loss than ten", "held-out loss", "20 nodes", "10 nodes"),
    Claim("§3, §9.2", "γ = 5 is better than no weight", "error", "γ 5", "nodes"),
    Claim("§9.2", "γ = 5 is better than 1", "error", "γ 5", "γ 1"),
    Claim("§9.2", "γ = 5 is better than 20", "error", "γ 5", "γ 20"),
    Claim("§4.1", "Charbonnier is better than MSE", "error", "Charbonnier", "nodes"),
    Claim("§9.3", "the cosine term makes the style truer", "error", "Charbonnier + cosine", "Charbonnier"),
    Claim("§9.3", "so does the FFT term", "error", "Charbonnier + cosine + FFT", "Charbonnier + cosine"),
    Claim("§9.4", "the frequency mode gives sharper edges than standard", "sharpness", "nodes", "frequency 1.0 / 0.2"),
    Claim("§9.4", "the style mode learns tones better than standard", "error", "style 1.0 / 0.3", "nodes"),
    Claim("§9.4", "the unified mode is better all round", "error", "unified", "nodes"),
    Claim("§9.5", "a higher α_hf sharpens", "sharpness", "frequency 0.5 / 0.1", "frequency 2.0 / 0.1"),
    Claim("§9.6", "more λ_color, less λ_struct: stronger tones", "error", "style 0.5 / 0.8", "style 1.5 / 0.2"),
    Claim("§5.3", "feed-forward layers strengthen the style", "error", "nodes", "attention only"),
    Claim("000 §2.5", "training at the nodes keeps 8-step pictures", "unrelated content", "uniform", "nodes"),
    Claim("000 §2.4", "the curvature penalty keeps 8-step pictures", "unrelated content", "nodes", "curvature"),
    Claim("SDA v1", "a tether keeps 8-step pictures", "unrelated content", "nodes", "tether 0.5"),
    Claim("field", "a training adapter keeps 8-step pictures", "unrelated content", "nodes", "training adapter"),
    Claim("field", "learning on the base keeps them", "unrelated content", "uniform", "on the base's weights"),
    Claim(
        "field",
        "at the same rate, the base's weights teach better",
        "error",
        "on the base's weights, rate 2e-3",
        "uniform, rate 2e-3",
    ),
    Claim("ours", "a null space keeps them", "unrelated content", "uniform, rate 2e-3", "null space, rate 2e-3"),
    Claim("ours", "at the same rate, it teaches better", "error", "null space, rate 2e-3", "uniform, rate 2e-3"),
)


def mean_of(figures: Figures, row: str, measure: str) -> tuple[float, float, int]:
    """Mean over seeds, their deviation (0 for one seed), and how many seeds there are."""
    values = [one[measure] for one in figures.get(row, {}).values() if measure in one]
    if not values:
        return float("nan"), 0.0, 0
    return fmean(values), stdev(values) if len(values) > 1 else 0.0, len(values)


def verdict(claim: Claim, figures: Figures) -> str:
    """One of the four words above."""
    left, spread_left, n_left = mean_of(figures, claim.left, claim.measure)
    right, spread_right, n_right = mean_of(figures, claim.right, claim.measure)
    if min(n_left, n_right) < 2:
        return OPEN
    twice_the_error = 2 * (spread_left**2 / n_left + spread_right**2 / n_right) ** 0.5
    if abs(right - left) <= twice_the_error:
        return NOT_CONFIRMED
    return CONFIRMED if right > left else WRONG
