"""The study as a page: what was measured on what, a verdict on every claim, all figures, and drawings of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from zit_app.core.files import write_atomic
from zit_app.engine.pocket.study.claims import CLAIMS, Figures, mean_of, verdict
from zit_app.engine.pocket.study.rows import RATE, ROWS, STEPS
from zit_app.engine.pocket.study.sizes import STEPS as SIZE_STEPS

MEASURES = ("error", "found", "sharpness", "held-out loss", "unrelated content", "unrelated sharpness",
            "swing of the loss")  # fmt: skip
HEAD = f"""# The study: what the AC-RF documents claim, measured on the pocket model

Made by `zit pocket study --work FOLDER` from `study/figures.json`; finished rows are kept, so it goes on where it was
interrupted. Every row is a LoRA of rank 16, {STEPS} steps of 8 pictures at a rate of {RATE:g}, bf16, without protection
unless the row says so. It learns the computed style "hues" (all hues turned) from 24 pictures; then 60 concepts that it
was not shown are drawn at 8 steps, guidance 0. As the style is computed, every one of them has a true picture.

- **error**: median distance to the truth, 1 = as far as the nearest known style's real picture. **found**: the right
  truth is the nearest of 60. **sharpness**: over the truths'. **held-out loss**: velocity error on the true pictures.
- **unrelated content**: of 100 prompts in other styles, the judge finds the right concept first among 200.
- **swing of the loss**: its deviation over its mean, last half of the training. What a step costs: `zit bench train`.

The pocket model is small and its figures are its own: 8.8 million parameters at 128 pixels. What holds here is a
finding; what does not hold here may still hold for the large model.
"""
WIDTH, LABEL, LINE = 860, 230, 22


def write_report(figures: Mapping[str, Any], out: Path) -> Path:
    """Write `study.md` beside the folder ``out``, and the drawings into it; returns the page."""
    rows: Figures = figures["rows"]
    sizes: Figures = figures.get("sizes", {})
    parts = [HEAD, _claims({**rows, **sizes}), _probes(figures["probes"]), _sizes(sizes), _table(rows)]
    parts.append(_pictures(rows, out))
    page = out.parent / f"{out.name}.md"
    write_atomic(page, "\n".join(parts))
    return page


def _claims(rows: Figures) -> str:
    head = "| section | claim | figures (mean ± deviation over seeds) | verdict |"
    lines = ["## Claims", "", head, "|---|---|---|---|"]
    for claim in CLAIMS:
        if not (rows.get(claim.left) and rows.get(claim.right)):
            continue
        told = ", ".join(f"{row} {_cell(rows, row, claim.measure)}" for row in (claim.left, claim.right))
        lines.append(f"| {claim.section} | {claim.words} | {claim.measure}: {told} | **{verdict(claim, rows)}** |")
    waiting = [f"{c.section} {c.words}" for c in CLAIMS if not (rows.get(c.left) and rows.get(c.right))]
    if waiting:
        lines += ["", "Not trained yet: " + "; ".join(waiting) + "."]
    return "\n".join([*lines, ""])


def _probes(probes: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The gradients of the untrained model, each with what the documents say."""
    samplers, levels, parts = probes["samplers"], probes["levels"], probes["parts"]
    ratio = samplers["nodes"]["noise / signal"] / samplers["uniform"]["noise / signal"]
    inside = [row["gradient"] for level, row in levels.items() if 0.2 <= float(level) <= 0.8]
    low = levels[next(iter(levels))]["gradient"] / max(inside)
    high = levels[list(levels)[-1]]["gradient"] / max(inside)
    ends = [
        f"§2.3 says that nodes cut the variance to 4.8 or 12 %. Measured, the noise of a batch's gradient over its "
        f"signal is {ratio:.2f} times that of uniform levels.",
        f"§1.1 says that gradients vanish towards clean pictures and explode towards noise. Measured over the largest "
        f"gradient between 0.2 and 0.8, it is {low:.2f} times at {next(iter(levels))} and {high:.2f} times at "
        f"{list(levels)[-1]}.",
        "§5.2 gives to_q 18.2, to_k 17.5, to_v 19.8, to_out 15.3, w1 12.1, w2 9.8, norms 4.2, embedders 3.1 %. A part "
        "with more numbers has a larger norm by that alone, so their count stands beside it.",
    ]
    tables = [_plain(samplers, "sampler"), _plain(levels, "noise level"), _plain(parts, "part")]
    body = "\n\n".join(f"{words}\n\n{table}" for words, table in zip(ends, tables, strict=True))
    return f"## Gradients of the untrained model\n\n{body}\n"


def _sizes(sizes: Figures) -> str:
    """What a training of so many pictures takes."""
    if not sizes:
        return "## Memory and time by number of pictures\n\nNot measured yet.\n"
    measures = ("peak, MB", "seconds a step")
    lines = [
        "## Memory and time by number of pictures",
        "",
        f"§8.3 gives 17.2 GB for 50 pictures, 18.1 for 100, 18.5 for 200, and as much time a step. Measured here: "
        f"{SIZE_STEPS} steps of 8 pictures from a finished cache, each training a process of its own on two CPU cores; "
        "the peak is that of the whole process.",
        "",
        "| | trainings | " + " | ".join(measures) + " |",
        "|---" * (len(measures) + 2) + "|",
    ]
    for name, several in sizes.items():
        cells = " | ".join(_cell(sizes, name, measure) for measure in measures)
        lines.append(f"| {name} | {len(several)} | {cells} |")
    return "\n".join([*lines, ""])


def _plain(rows: Mapping[str, Mapping[str, float]], corner: str) -> str:
    columns = list(next(iter(rows.values())))
    lines = [f"| {corner} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        cells = (f"{row[c]:,}" if isinstance(row[c], int) else f"{row[c]:.3g}" for c in columns)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _table(rows: Figures) -> str:
    lines = ["## All rows", "", "| | seeds | " + " | ".join(MEASURES) + " |", "|---" * (len(MEASURES) + 2) + "|"]
    for name in ("untrained", *ROWS):
        if rows.get(name):
            cells = " | ".join(_cell(rows, name, measure) for measure in MEASURES)
            lines.append(f"| {name} | {len(rows[name])} | {cells} |")
    best = rows["untrained"]["0"]["error of the truth through the VAE"]
    return "\n".join([*lines, "", f"The least error that the VAE allows: {best:.2f}.", ""])


def _cell(rows: Figures, row: str, measure: str) -> str:
    mean, spread, count = mean_of(rows, row, measure)
    if not count:
        return ""
    return f"{mean:.3g} ± {spread:.2g}" if count > 1 else f"{mean:.3g}"


def _pictures(rows: Figures, out: Path) -> str:
    """A drawing each of what is taught and what is kept."""
    out.mkdir(parents=True, exist_ok=True)
    names = [name for name in ("untrained", *ROWS) if rows.get(name)]
    told = {
        "error": "Error against the truth (less is better)",
        "unrelated content": "Content of unrelated 8-step pictures (more is better)",
    }
    lines = ["## Drawn", ""]
    for measure, title in told.items():
        file = out / f"{measure.replace(' ', '_')}.svg"
        write_atomic(file, bars_svg(title, [(name, *mean_of(rows, name, measure)[:2]) for name in names]))
        lines.append(f"![{title}]({out.name}/{file.name})\n")
    return "\n".join(lines)


def bars_svg(title: str, bars: Sequence[tuple[str, float, float]]) -> str:
    """Horizontal bars of (name, value, deviation) as SVG, the deviation as a line around the end."""
    longest = max(value + spread for _, value, spread in bars) or 1.0
    scale = (WIDTH - LABEL - 70) / longest
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{LINE * len(bars) + 50}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="24" font-size="16">{escape(title)}</text>',
    ]
    for number, (name, value, spread) in enumerate(bars):
        y, end = 40 + number * LINE, LABEL + value * scale
        parts.append(
            f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{LABEL}" y="{y + 2}" width="{value * scale:.1f}" height="{LINE - 6}" fill="#5b8def"/>'
            f'<line x1="{end - spread * scale:.1f}" x2="{end + spread * scale:.1f}" y1="{y + 10}" y2="{y + 10}" '
            'stroke="black"/>'
            f'<text x="{end + spread * scale + 6:.1f}" y="{y + 14}">{value:.2f}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])
