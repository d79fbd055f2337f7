"""What the tiny captioner can do, through the very folder that ships: figures, their ceiling and their cheats.

``named`` = share of pictures whose caption begins with exactly the concept's own name (one of 535); a near name counts
as wrong. Held out are Twemoji and Fluent High Contrast: their concepts are the vocabulary, their art was never shown.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    CLIPImageProcessorPil,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Qwen2Tokenizer,
)

from zit_app.core.files import write_atomic
from zit_app.core.paths import assets
from zit_app.engine.pocket.bank import never_shown, vocabulary
from zit_app.engine.pocket.captioner_model import IMAGE_TOKENS, captioner_tokenizer, new_captioner
from zit_app.engine.pocket.captioner_pictures import SIDE
from zit_app.engine.pocket.captions import layout_words
from zit_app.engine.pocket.concepts import HELD_OUT_STYLES, KNOWN_STYLES, Concept
from zit_app.engine.pocket.judge import ranks
from zit_app.engine.pocket.pictures import canonical_picture, compose, cut_out, random_layout
from zit_app.engine.pocket.questions import load_questions, picture_sheet, picture_tiles
from zit_app.engine.pocket.score import cheats
from zit_app.engine.pocket.states import load_part

SHORT, LAYOUT, CHINESE = "<CAPTION>", "<DETAILED_CAPTION>", "图中是什么？"
SHIPPED = 60  # held-out pictures a style that ship for the test


@dataclass(frozen=True)
class Captioner:
    """The shipped captioner in memory."""

    processor: Florence2Processor
    model: Florence2ForConditionalGeneration

    @torch.no_grad()
    def write(self, pictures: list[Image.Image], prompt: str = SHORT) -> list[str]:
        """One caption a picture."""
        texts: list[str] = []
        for i in range(0, len(pictures), 64):
            part = pictures[i : i + 64]
            inputs = self.processor(images=part, text=[prompt] * len(part), return_tensors="pt")
            ids = self.model.generate(**inputs, max_new_tokens=32, do_sample=False)  # type: ignore[misc]
            texts += [t.strip() for t in self.processor.batch_decode(ids, skip_special_tokens=True)]
        return texts


def load_captioner(folder: Path) -> Captioner:
    model = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return Captioner(AutoProcessor.from_pretrained(folder), model.eval())


def export_captioner(state: Path, folder: Path) -> None:
    """Weights (bf16), processor and tokenizer as ``from_pretrained`` reads them."""
    tokenizer: Qwen2Tokenizer = captioner_tokenizer()
    model = new_captioner(tokenizer)
    model.load_state_dict(load_part(state, "model"))
    model.bfloat16().save_pretrained(folder)
    pictures = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    setattr(pictures, "image_seq_length", IMAGE_TOKENS)  # noqa: B010 (Florence2Processor reads it; not declared)
    Florence2Processor(pictures, tokenizer).save_pretrained(folder)


def named(texts: list[str], names: list[str]) -> float:
    """Share of captions whose first part is the name; a style word before it is not expected."""
    heads = [text.replace("，", ", ").split(", ")[0] for text in texts]
    return sum(h == n for h, n in zip(heads, names, strict=True)) / len(names)


def canonical_of(concepts: list[Concept], style: str, noto: Path) -> tuple[list[Image.Image], list[Concept]]:
    """The real pictures of a style, centred on white, and their concepts."""
    have = [c for c in concepts if style in c.files]
    return [canonical_picture(cut_out(c, style, noto)) for c in have], have


def layout_scores(captioner: Captioner, concepts: list[Concept], noto: Path, count: int = 300) -> dict[str, float]:
    """Composed pictures in known styles: name, and how many of the layout's words are written and true."""
    random, hidden = Random(21), never_shown(concepts)
    pictures: list[Image.Image] = []
    things, truths = [], []
    while len(pictures) < count:
        c, s, layout = random.randrange(len(concepts)), random.randrange(3), random_layout(random, 1)
        if (c, s) in hidden or layout.second or layout.mirrored:
            continue
        pictures.append(compose(layout, cut_out(concepts[c], KNOWN_STYLES[s], noto)))
        things.append(concepts[c].en)
        truths.append(set(layout_words(asdict(layout), False)))
    texts = captioner.write(pictures, LAYOUT)
    written = [set(text.split(", ")[1:]) for text in texts]
    right = sum(len(w & t) for w, t in zip(written, truths, strict=True))
    return {
        "named": named(texts, things),
        "layout words found": right / sum(map(len, truths)),
        "layout words true": right / max(1, sum(map(len, written))),
    }


def score_captioner(folder: Path, work: Path) -> dict[str, Any]:
    """All figures of the model card; ``work`` holds the source packages."""
    captioner, (concepts, noto) = load_captioner(folder), vocabulary(work)
    hidden = never_shown(concepts)
    scores: dict[str, Any] = {}
    truth: list[Image.Image] = []
    names: list[str] = []
    written: list[str] = []
    for style in HELD_OUT_STYLES:
        pictures, have = canonical_of(concepts, style, noto)
        texts = captioner.write(pictures)
        scores[f"held-out: {style}"] = {
            "pictures": len(have),
            "named": named(texts, [c.en for c in have]),
            "named in Chinese": named(captioner.write(pictures, CHINESE), [c.zh for c in have]),
        }
        truth, names, written = [*truth, *pictures], [*names, *(c.en for c in have)], [*written, *texts]
    scores["held-out, both"] = {"pictures": len(names), "named": named(written, names)}
    for name, pictures in cheats(truth[::5]).items():
        share = named(captioner.write(pictures), names[::5])
        scores[f"cheat, held-out: {name}"] = {"pictures": len(pictures), "named": share}
    unseen: list[tuple[Image.Image, str]] = []
    for s, style in enumerate(KNOWN_STYLES):
        pictures, have = canonical_of(concepts, style, noto)
        trained = [i for i in range(len(have)) if (i, s) not in hidden]
        texts = captioner.write([pictures[i] for i in trained])
        scores[f"trained on: {style}"] = {
            "pictures": len(trained),
            "named": named(texts, [have[i].en for i in trained]),
        }
        unseen += [(pictures[c], have[c].en) for c, h in sorted(hidden) if h == s]
    texts = captioner.write([p for p, _ in unseen])
    scores["known style, pair never shown"] = {"pictures": len(unseen), "named": named(texts, [n for _, n in unseen])}
    scores["trained on, composed"] = {"pictures": 300, **layout_scores(captioner, concepts, noto)}
    return scores


def judge_ceiling() -> float:
    """The judge on held-out pictures, among 200 concepts: what a network reaches that *has* seen these styles."""
    asked = load_questions(assets() / "judge")
    concept, style = (asked.seen_CS >= 0).nonzero(as_tuple=True)
    held = style >= len(KNOWN_STYLES)
    concept, style = concept[held], style[held]
    first = ranks(asked.real_CSE[concept, style], concept, style, asked.real_CSE) == 0
    return first.float().mean().item()


def write_held_out(work: Path, folder: Path) -> None:
    """``held_out.png``: 60 scored concepts in both held-out styles, for tests without a network."""
    concepts, noto = vocabulary(work)
    known = {c.key: c for c in concepts}
    asked = [known[c.key] for c in load_questions(folder).pairs.concepts]
    both = [c for c in asked if all(style in c.files for style in HELD_OUT_STYLES)]
    chosen = both[:: len(both) // SHIPPED][:SHIPPED]  # in Unicode order: the first ones are all faces
    pictures = [canonical_picture(cut_out(c, style, noto)) for style in HELD_OUT_STYLES for c in chosen]
    picture_sheet(pictures).save(folder / "held_out.png", optimize=True)
    write_atomic(folder / "held_out.json", json.dumps([c.en for c in chosen], indent=1) + "\n")


def shipped_held_out(folder: Path) -> tuple[list[Image.Image], list[str]]:
    """What ``write_held_out`` wrote: pictures, Twemoji first, and the name of each."""
    names: list[str] = json.loads((folder / "held_out.json").read_text())
    sheet = Image.open(folder / "held_out.png").convert("RGB")
    return picture_tiles(sheet, len(names) * len(HELD_OUT_STYLES)), names * len(HELD_OUT_STYLES)


def publish_captioner(work: Path) -> dict[str, Any]:
    """From the finished state to the shipped folder with its figures."""
    folder, judge = assets() / "pocket" / "captioner", assets() / "judge"
    export_captioner(work / "captioner.safetensors", folder)
    write_held_out(work, judge)
    scores = score_captioner(folder, work)
    pictures, names = shipped_held_out(judge)
    shown = {"pictures": len(names), "named": named(load_captioner(folder).write(pictures), names)}
    scores["held-out, the 120 that ship for the test"] = shown
    scores["ceiling: the judge, held-out, among 200 concepts"] = {"named": judge_ceiling()}
    write_atomic(folder / "scores.json", json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    return scores
