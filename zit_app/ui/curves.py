"""What a training's metrics and previews look like: curves by step, pictures by step."""

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from zit_app.ui.chart import LOW_HEIGHT, Curve, chart, loss_chart
from zit_app.ui.links import url
from zit_app.ui.text import Words

SHOWN_STEPS = 12  # of previews, the newest, and what was drawn first; the others lie in the run's folder


def curves(w: Words, total: int, lines: Sequence[Mapping[str, Any]]) -> str:
    """Loss and learning rate by step; where it was measured, held-out loss and the model's health."""
    told = [line for line in lines if "loss" in line]
    if not told:
        return ""
    held = curve_of([line for line in lines if "held_out" in line], lambda line: line["held_out"]["loss"], "held")
    name = w("train.loss") + (w("train.held") if held else "")
    steps, losses = [int(line["step"]) for line in told], [float(line["loss"]) for line in told]
    parts = [titled(name, loss_chart(steps, losses, total, name, *held))]
    rates = curve_of(told, lambda line: line["lr"], "smooth")
    parts.append(titled(w("train.rate"), chart(rates, total, w("train.rate"), LOW_HEIGHT)))
    return "".join([*parts, *_health(w, total, [line for line in lines if "health" in line])])


def previews(w: Words, pictures: Sequence[Path]) -> str:
    """Previews by step, the newest first, so that a row compares the same prompt and seed."""
    by_step: dict[int, list[Path]] = {}
    for picture in pictures:
        match = re.match(r"\d+", picture.name)
        if match:
            by_step.setdefault(int(match[0]), []).append(picture)
    blocks = []
    newest = sorted(by_step.items(), reverse=True)
    for step, drawn in newest[:SHOWN_STEPS] + newest[SHOWN_STEPS:][-1:]:
        name = escape(w("train.at_step", step=step) if step else w("train.before"))
        images = "".join(
            f'<a href="{url(one)}" target="_blank"><img src="{url(one)}" alt="{name}, {number + 1}"></a>'
            for number, one in enumerate(drawn)
        )
        blocks.append(f"<figure>{images}<figcaption>{name}</figcaption></figure>")
    if not blocks:
        return ""
    title = w("train.samples")
    strip = f'<div class="samples card" role="group" aria-label="{escape(title, quote=True)}" tabindex="0">'
    return titled(title, f"{strip}{''.join(blocks)}</div>")


def curve_of(lines: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], Any], kind: str) -> list[Curve]:
    """One figure of every line over its step; none when there is no line."""
    return [Curve([int(line["step"]) for line in lines], [float(value(line)) for line in lines], kind)] if lines else []


def drift_curves(lines: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Distance to the untrained model: each noise level pale, their mean strong."""
    steps = [int(line["step"]) for line in lines]
    drifts = [line["health"]["drift"] for line in lines]
    nodes = [Curve(steps, [float(drift[node]) for drift in drifts], "raw") for node in drifts[-1]]
    means = [sum(map(float, drift.values())) / len(drift) for drift in drifts]
    return [*nodes, Curve(steps, means, "smooth")]


def titled(title: str, content: str) -> str:
    """A piece of the page under its heading."""
    return f"<h3>{escape(title)}</h3>{content}"


def captioned(caption: str, content: str) -> str:
    """A figure with its caption above."""
    return f'<figure class="curve"><figcaption>{escape(caption)}</figcaption>{content}</figure>'


def _health(w: Words, total: int, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """How far the model has gone from the untrained one on prompts that have nothing to do with the pictures."""
    if not lines:
        return []
    last = max(total, int(lines[-1]["step"]))
    level = Curve([0, last], [1.0, 1.0], "level")  # the untrained model
    recalled = [line for line in lines if "recall" in line["health"]]  # runs of version 0.1 did not ask
    recall = curve_of(recalled, lambda line: line["health"]["recall"], "smooth")
    kinds = {
        "recall": [level, *recall] if recall else [],
        "sharp": [level, *curve_of(lines, lambda line: line["health"]["sharpness"], "smooth")],
        "apart": curve_of(lines, lambda line: line["health"]["distance"], "smooth"),
        "drift": drift_curves(lines),
    }
    heading = f"<h3>{escape(w('train.health'))}</h3>"
    named = [(w(f"train.{name}"), each) for name, each in kinds.items()]
    return [heading, *(captioned(name, chart(each, last, name, LOW_HEIGHT)) for name, each in named if each)]
