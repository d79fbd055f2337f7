"""The report of an evaluation, for people."""

from typing import Any

LABELS = {  # figure → what it says, and which way is better
    "agreement": "agreement with the prompt (cosine; higher is better)",
    "frechet": "distance to the real pictures (Fréchet; lower is better)",
    "recall": "right thing found by the judge (share; higher is better)",
    "style": "right style seen by the judge (share; higher is better)",
    "text": "text in quotation marks stands in the picture (share; higher is better)",
    "sharpness": "sharpness (mean absolute Laplacian)",
    "diversity": "how much seeds differ (mean distance of pairs)",
}


def words_of(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    figures, differences = report["figures"], report["differences"]
    first, *others = figures
    head = ["figure", *figures, *(f"{name} − {first}" for name in others)]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, label in LABELS.items():
        if name in figures[first]:
            cells = [_cell(figures[variant][name]) for variant in figures]
            cells += [_difference(differences[variant][name]) for variant in others]
            lines.append("| " + " | ".join([label, *cells]) + " |")
    seen = [f"`{report[key]}`" for key in ("clip", "references") if report[key]]
    return "\n".join(
        [
            "# Evaluation",
            "",
            f"Model `{report['model']}`, {report['prompts']} prompts, seeds {_seeds(report['seeds'])}"
            + (f", measured with {' and '.join(seen)}." if seen else "."),
            "",
            *lines,
            "",
            "Brackets hold 95 % intervals: resamples of the prompts, the same for every variant, so that differences "
            "are paired. **Bold**: the interval leaves 0 out.",
            "",
            *_unread(report),
            "Again, with the same figures:",
            "",
            f"    {report['command']}",
            "",
        ]
    )


def _unread(report: dict[str, Any]) -> list[str]:
    """That text was asked for and nothing here can read it."""
    if not report["texts_asked"] or any("text" in figures for figures in report["figures"].values()):
        return []
    words = "prompt asks" if report["texts_asked"] == 1 else "prompts ask"
    return [
        f"{report['texts_asked']} {words} for text in the picture; whether it stands there was not read, because the "
        "package rapidocr-onnxruntime is not installed.",
        "",
    ]


def _cell(row: dict[str, float]) -> str:
    return f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"


def _difference(row: dict[str, float]) -> str:
    words = f"{row['value']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
    return words if row["low"] <= 0 <= row["high"] else f"**{words}**"


def _seeds(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))
