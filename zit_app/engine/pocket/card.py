"""The model card of the pocket models, written from ``scores.json``, ``recipe.json`` and the files' hashes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zit_app.core.files import sha256_of, write_atomic
from zit_app.engine.pocket.styles import COMPUTED


@dataclass(frozen=True)
class Bar:
    """What is asked of the models: ``ceiling`` is what real pictures (or the best that any LoRA could do) reach."""

    what: str
    reached: float
    bar: float
    ceiling: float | None = None
    least: bool = True  # at least the bar, else at most

    def line(self) -> str:
        met = self.reached >= self.bar if self.least else self.reached <= self.bar
        beyond = self.ceiling is not None and (self.ceiling < self.bar if self.least else self.ceiling > self.bar)
        verdict = "yes" if met else "**no**, beyond the ceiling" if beyond else "**not yet**"
        ceiling = "" if self.ceiling is None else f"{self.ceiling:.2f}"
        bar = f"at {'least' if self.least else 'most'} {self.bar:.2f}"
        return f"| {self.what} | {self.reached:.2f} | {bar} | {ceiling} | {verdict} |"


COMPUTED_BARS = (("hues", "at the nodes", 0.50, 0.50), ("dusk", "on its own ways", 0.35, 0.65))
DRAWN_BARS = (  # art, training, what, seen, content kept
    ("stickers", "demo", "the demo's art taught", 0.60, 0.80),
    ("stickers", "demo, batches of 16", "the same in batches of 16, 500 steps", 0.80, 0.90),
    ("ink drawings", "ink drawings", "ink drawings taught", 0.80, 0.90),
    ("ink drawings", "ink drawings, on its own ways", "the same on its own ways", 0.80, 0.90),
)

HEAD = """# Pocket: a small, trained Z-Image

Two flavours of one model that draws emoji at 128 x 128 from English and Chinese captions, with the very classes and
folder layout of Z-Image: `pocket-base` (30 steps, CFG) and `pocket` (8 steps, guidance 0, distilled from it). They are
the app's default before the large model is downloaded, its test bed, and a place where everything special about Turbo
can be measured on two CPU cores. This page is written by `zit pocket score` from the files beside it.
"""

DATA = """## Data and licences

- **Pictures**: Fluent Emoji 3D and flat (npm `@lobehub/fluent-emoji-3d`, `-flat`; © Microsoft, MIT)
  and Noto Emoji (npm `@iconify-json/noto`; © Google, Apache-2.0): every concept of the groups smileys, animals and
  nature, food and drink, activities that exists in all three, 535 in all. No other art style entered the training.
- **Captions**: `emojibase-data` (MIT), English and Chinese labels, with the layout named only sometimes.
- **Judge** (`assets/judge`): also saw Twemoji (© Twitter and contributors, CC-BY 4.0) and Fluent High Contrast
  (MIT), on concepts that no score uses. It is a measuring instrument, never part of training.
- The weights are ours, Apache-2.0 like the project.
"""


def _cell(value: float) -> str:
    """Counts as they are, all else with three decimals."""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def table(rows: dict[str, dict[str, float]]) -> str:
    """Rows of named numbers as a Markdown table; columns in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        cells = [_cell(row[c]) if c in row else "" for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bars(scores: dict[str, Any], taught: dict[str, Any]) -> str:
    """What these models are asked to reach, what they reach, and whether that is enough; as a Markdown table."""
    base, base_zh = scores["pocket-base, 30 steps, CFG"], scores["pocket-base, 30 steps, CFG, Chinese"]
    turbo, turbo_zh = scores["pocket, 8 steps, no CFG"], scores["pocket, 8 steps, no CFG, Chinese"]
    alone, real = scores["judge, real pictures of all five styles"], scores["real pictures"]
    seconds = scores["speed"]["pocket, one warm 8-step picture, seconds"]
    rows = [
        Bar("judge on real pictures: content", alone["content"], 0.80),
        Bar("judge on real pictures: style", alone["style"], 0.90),
        Bar("pocket-base: recall", base["recall"], 0.60, 1.0),
        Bar("pocket: recall", turbo["recall"], 0.50, 1.0),
        Bar("pocket-base: recall lost in Chinese", base["recall"] - base_zh["recall"], 0.10, least=False),
        Bar("pocket: recall lost in Chinese", turbo["recall"] - turbo_zh["recall"], 0.10, least=False),
        Bar("pocket-base: style", base["style"], 0.90, real["style"]),
        Bar("pocket: style", turbo["style"], 0.90, real["style"]),
        Bar("pocket-base: style, as a share of the real pictures'", base["style"] / real["style"], 0.90, 1.0),
        Bar("pocket: style, as a share of the real pictures'", turbo["style"] / real["style"], 0.90, 1.0),
        Bar("pocket: seconds for a warm 8-step picture", seconds, 1.5, least=False),
        *taught_bars(taught),
    ]
    return "\n".join(["| | reached | bar | ceiling | met |", "|---|---|---|---|---|", *(row.line() for row in rows)])


def taught_bars(taught: dict[str, Any]) -> list[Bar]:
    """What a LoRA is asked to teach and to leave alone; nothing before ``zit pocket teach`` has measured it all."""
    computed, kept = taught.get("computed", {}), taught.get("kept", {})
    if "dusk, 30 steps" not in kept:
        return []
    asked = ("without a LoRA, 8 steps", "plain, 8 steps", "plain, 30 steps, CFG")
    before, broken, back = (taught["unrelated"][row]["content"] for row in asked)
    rows = [
        Bar("plain training: share of unrelated content lost at 8 steps", 1 - broken / before, 0.20),
        Bar("of that, back at 30 steps with CFG", (back - broken) / (before - broken), 0.50, 1.0),
    ]
    for name, what in (
        ("demo", "the demo's training"),
        ("demo, batches of 16", "the same in batches of 16, 500 steps"),
        ("dusk", "dusk taught on its own ways"),
    ):
        rows.append(Bar(f"{what}: unrelated content kept at 8 steps", kept[f"{name}, 8 steps"]["kept"], 0.90))
        rows.append(Bar(f"{what}: the same at 30 steps", kept[f"{name}, 30 steps"]["kept"], 1.0))
    for name in (*COMPUTED, "ink drawings"):
        left = taught["unrelated"][f"{name}, on its own ways, 8 steps"]["content"]
        rows.append(Bar(f"{name} taught on its own ways: unrelated content kept", left / before, 0.90, 1.0))
    for style, way, error, found in COMPUTED_BARS:
        row = computed[f"{style}, {way}"]
        best = computed[f"{style}, ceiling: the style itself applied to the model's flat pictures"]
        rows.append(Bar(f"{style} taught {way}: error", row["relative"], error, best["relative"], least=False))
        rows.append(Bar(f"{style} taught {way}: truth found", row["found"], found, best["found"]))
    for art, training, what, seen, content in DRAWN_BARS:
        before, after, real = (taught[art][row] for row in ("without a LoRA", training, "ceiling: real pictures"))
        most = real["content"] / before["content"]
        rows.append(Bar(f"{what}: seen", after["style"], seen, real["style"]))
        rows.append(Bar(f"{what}: content kept", after["content"] / before["content"], content, most))
    return rows


def teaching(taught: dict[str, Any]) -> str:
    """What LoRAs teach and break, measured by ``zit pocket teach``."""
    computed = ""
    if taught["computed"]:
        computed = f"""
Computed styles with a known truth: other hues, blue evening light, tiles, blue outlines. They are taught in 500 steps.
In the last two of six blocks: `on the base's weights` = else as `stickers alone`; `at the nodes` = on pocket's own
weights, at its eight noise levels alone, unprotected, batches of 32. In blocks 2 to 5: `on its own ways` = on pocket's
own weights, along its own ways to the captions (`protection = "own_ways"`, rate 3e-3), held by a state a picture of
the 700 prompts of `assets/demo/unrelated.txt` (350 other things, 3d and classic), less those that share a word with a
caption; `held by 32` = by its first 32 alone. 60 concepts that were not shown, 8 steps:
`relative` = median error against the truth divided by that of the nearest known style's real picture; `found` = right
truth first among 60; `sharpness` = over the truths', as a blur takes some error away, too. The rows `ceiling` and
`cheat` say what lies between: no LoRA restyles better than the style itself applied to the pictures that the model
draws without one, and its own flat pictures are off by more than the VAE costs. An error of 0.35 lies between the two
for the evening light alone, one of 0.50 for the hues and the outlines.

{table(taught["computed"])}
"""
    return f"""## What a LoRA teaches, and what naive training breaks

`zit pocket teach`: 24 pictures, batch 8, rank 16, 300 steps; `plain` = on the distilled weights, uniform times,
squared error, no protection, rate 6e-4; `stickers alone` = `assets/demo/train.toml` (in one block of pocket-base's
weights, used on pocket; Charbonnier's loss, rate 1.5e-3); `demo` = as the demo ships (on pocket's own weights, along
its own ways, in blocks 2 to 5, rank 32, rate 3e-3, 400 steps, beside the stickers 318 pictures that pocket draws
itself of other things, put into the stickers' twelve most frequent colours; held by 32 prompts in other styles); `demo,
batches of 16` = the same in 500 steps; the last rows = after the styles below. 100 concepts in the styles 3d and
classic, which no training picture has and none of these prompts names; four of the concepts are shown as stickers,
twelve as ink drawings, none in the computed styles. `CFG` = with guidance 3, as pocket-base is drawn, else without.
Plain training undoes the distillation, as it does Turbo's: what is lost at 8 steps does not come back with more steps
alone, but most of it with guidance and more steps; the untrained few-step model gets worse by guidance.
`real pictures in it` = what the judge reads in real pictures to which such a style was applied: after dusk unrelated
prompts are drawn in evening light, too, and there the judge reads next to nothing:

{table(taught["unrelated"])}

The demo's training, also in batches of 16, and dusk as it is taught on its own ways below, with three sets of seeds,
`content` of these prompts `before` and `after`, by the same seeds: `kept` = their ratio, `from` and `to` = its 95 %
interval over resampled prompts.

{table(taught["kept"])}

Two drawn arts that the model never saw, 60 concepts that were not shown, 8 steps: `style` = share that the judge calls
the new style, `content` = right concept first among 200; `ceiling` = what it says of the real pictures of these
concepts; `no training` = of the untrained model's flat pictures of them, put into the art's colours as the demo's own
pictures are: to the judge a sticker is flat areas of a few colours more than anything else. Each column counts only
with the other: the judge calls a blank picture a sticker. The demo's stickers (the judge's word for them is twemoji):

{table(taught["stickers"])}

Ink drawings, black on white (Fluent High Contrast), by `assets/demo/train.toml` in 500 steps, and in as many on
pocket's own ways, as the computed styles below:

{table(taught["ink drawings"])}
{computed}"""


def captioner(scores: dict[str, Any], recipe: dict[str, str]) -> str:
    """What the tiny captioner names, and how it was made."""
    steps = "\n".join(f"- {name}: {value}" for name, value in recipe.items())
    return f"""## Captioner

`captioner/` is Florence-2's own class (`Florence2ForConditionalGeneration`, read by `AutoProcessor`), 3.7 M
parameters, trained from scratch on the pocket's pictures only, so that `zit caption` can be tried and tested on any
machine. It sees 64 x 64 pixels and knows 535 concepts; of anything else it names the concept that looks most like it.
`<CAPTION>` gives "red apple", `<DETAILED_CAPTION>` adds the layout, `<MORE_DETAILED_CAPTION>` the style as well;
asked `图中是什么？` or `详细描述这张图片。` it answers in Chinese.

`named` = the caption begins with exactly the concept's name, one of 535. "held-out" are Twemoji and Fluent High
Contrast: concepts of the vocabulary, in art that the training never saw (chance 0.002; asked for at least 0.30).
"pair never shown" are the 24 combinations that were kept from the pocket model too. The judge in the ceiling row *has*
seen these styles, on other concepts, and has only 200 to choose from.

{table(scores)}

`zit pocket captioner` (seeded, resumable):

{steps}
"""


def write_card(assets: Path) -> Path:
    """Write ``README.md`` of the pocket assets."""
    target = assets / "README.md"
    write_atomic(target, card_text(assets))
    return target


def card_text(assets: Path) -> str:
    """The model card by the figures and weights that lie in ``assets``."""
    scores: dict[str, Any] = json.loads((assets / "scores.json").read_text())
    recipe: dict[str, Any] = json.loads((assets / "recipe.json").read_text())
    canonical = {k: v for k, v in scores.items() if k not in ("open", "speed")}
    hashes = "\n".join(
        f"| `{file.relative_to(assets).as_posix()}` | {file.stat().st_size / 1e6:.1f} MB | `{sha256_of(file)}` |"
        for file in sorted(assets.rglob("*.safetensors"))
    )
    speed = "\n".join(f"- {name}: {value:.2f}" for name, value in scores["speed"].items())
    steps = "\n".join(f"- {name}: {value}" for name, value in recipe.items())
    known = assets / "taught.json"
    taught: dict[str, Any] = json.loads(known.read_text()) if known.exists() else {}
    section = teaching(taught) if taught else ""
    reader = assets / "captioner"
    if (reader / "scores.json").exists():
        figures = (json.loads((reader / name).read_text()) for name in ("scores.json", "recipe.json"))
        section += "\n" + captioner(*figures)
    return f"""{HEAD}
## Bars

`ceiling` = what real pictures get from the same judge, or the best that any LoRA could reach. A bar beyond it asks for
more than real pictures have: in fewer than 90 % of those of the 200 questions, too, the judge sees their style.

{bars(scores, taught)}

## Scores on canonical prompts

200 fixed (concept, style) pairs; `content` = the judge finds the right concept first among the 200, prototypes taken
from the *other* styles; `recall` = content divided by the judge's own on real pictures; `style` = the judge sees the
asked style; `distance` = median RMS difference to the real picture at 64 x 64; `sharpness` = mean absolute Laplacian.
The first row is the judge alone on all 996 real pictures of these concepts in five styles, none of which it was trained
on; the next are the ceiling (the real pictures of the 200 pairs) and the cheats. "never shown" are 24 (concept, style)
combinations that training never saw; the rest is partly memory.

{table(canonical)}

## Scores on open prompts

24 prompts without a layout x 16 seeds; `recognised` = the isolated thing is among the judge's first five; diversity is
counted among recognised pictures: `pixels` = mean pair distance at 32 x 32 RGB, `layout` = of centre and size,
`background` = of its colour, `identity` = of the judge's embeddings of the isolated thing.

{table(scores["open"])}

{section}
## Speed

{speed}

## Recipe

`zit pocket build` (seeded, resumable). What these weights were made with:

{steps}

{DATA}
## Files

| file | size | SHA-256 |
|---|---|---|
{hashes}
"""
