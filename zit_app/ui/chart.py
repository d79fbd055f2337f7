"""Curves as pictures: raw values pale, smoothed ones strong. SVG, so they take the page's colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LOW_HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 640, 220, 130, 52, 8, 26, 10
MOST_POINTS = 320  # more than one a two pixels is not seen


@dataclass(frozen=True)
class Curve:
    """Values over steps; `kind` is a class of the style sheet: raw, smooth, held, level."""

    steps: Sequence[int]
    values: Sequence[float]
    kind: str


def smoothed(values: Sequence[float], memory: float) -> list[float]:
    """Exponential moving average without the pull of its first value (Adam's bias correction)."""
    result, mean, weight = [], 0.0, 0.0
    for value in values:
        mean = memory * mean + (1 - memory) * value
        weight = memory * weight + (1 - memory)
        result.append(mean / weight)
    return result


def loss_chart(steps: Sequence[int], losses: Sequence[float], total: int, label: str, *more: Curve) -> str:
    """SVG of the losses over the steps, and `more` curves; `label` describes it to those who cannot see it."""
    smooth = smoothed(losses, 1 - 1 / max(2.0, min(50.0, len(losses) / 10)))
    high = sorted(losses)[int(0.98 * (len(losses) - 1))]  # a spike must not flatten the rest
    return chart([Curve(steps, losses, "raw"), Curve(steps, smooth, "smooth"), *more], total, label, high=high)


def chart(curves: Sequence[Curve], total: int, label: str, height: int = HEIGHT, high: float | None = None) -> str:
    """SVG of curves over steps 0 to `total` at least; `high` is the value that the frame reaches, else the largest."""
    values = [value for curve in curves for value in curve.values]
    top = round_up(max(values) if high is None else high)
    bottom = min(0.0, *values) if len(values) > 1 else min(0.0, values[0])
    last = max(total, 1, *(curve.steps[-1] for curve in curves))
    wide, tall = WIDTH - LEFT - RIGHT, height - BOTTOM - TOP

    def points(curve: Curve) -> str:
        stride = max(1, math.ceil(len(curve.values) / MOST_POINTS))
        kept = list(range(0, len(curve.values), stride))
        kept += [len(curve.values) - 1] if kept[-1] != len(curve.values) - 1 else []
        return " ".join(
            f"{LEFT + wide * curve.steps[i] / last:.1f},"
            f"{TOP + tall * (1 - (min(curve.values[i], top) - bottom) / (top - bottom)):.1f}"
            for i in kept
        )

    rows = 4 if height >= HEIGHT else 2
    lines = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{(y := TOP + tall * (1 - i / rows)):.1f}" y2="{y:.1f}" '
        f'class="grid"/><text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
        f"{bottom + (top - bottom) * i / rows:.3g}</text>"
        for i in range(rows + 1)
    )
    ticks = "".join(
        f'<text x="{LEFT + wide * i / 4:.1f}" y="{height - 6}" text-anchor="{anchor}">{round(last * i / 4)}</text>'
        for i, anchor in enumerate(("start", "middle", "middle", "middle", "end"))
    )
    drawn = "".join(f'<polyline class="{curve.kind}" points="{points(curve)}"/>' for curve in curves)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label, quote=True)}">'
        f"{lines}{ticks}{drawn}</svg>"
    )


def round_up(value: float) -> float:
    """A round number at or above `value`: 1, 2, 2.5 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= value * 0.999)
