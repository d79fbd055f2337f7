"""The fixed questions of all scores, as files that ship (``assets/judge``), so that anyone can ask them again.

``judge.safetensors`` the network · ``real.safetensors`` its answers to real pictures · ``questions.json``
names and pairs · ``truth.png`` the 200 true pictures of the pairs · ``flat.png`` the flat pictures of the 200
concepts, from which computed styles follow.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from zit_app.engine.pocket.bank import vocabulary
from zit_app.engine.pocket.concepts import Concept
from zit_app.engine.pocket.judge import STYLES, Judge, load_judge, real_answers
from zit_app.engine.pocket.pictures import SIZE, canonical_picture, cut_out
from zit_app.engine.pocket.score import PAIRS, Pairs, hidden_pairs, real_of, score_pairs

COLUMNS = 20


@dataclass(frozen=True)
class Questions:
    """Everything a score needs besides the pictures to be judged."""

    judge: Judge
    pairs: Pairs
    real_CSE: torch.Tensor  # of pairs.concepts
    seen_CS: torch.Tensor  # the style that the judge sees in their real pictures, -1 where there is none
    hidden: Pairs
    hidden_real_CSE: torch.Tensor
    truth: list[Image.Image]  # of pairs
    flat: list[Image.Image]  # of pairs.concepts


def picture_sheet(pictures: list[Image.Image]) -> Image.Image:
    """Pictures side by side, 20 a row, without a gap."""
    sheet = Image.new("RGB", (COLUMNS * SIZE, -(-len(pictures) // COLUMNS) * SIZE), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % COLUMNS * SIZE, i // COLUMNS * SIZE))
    return sheet


def picture_tiles(sheet: Image.Image, count: int) -> list[Image.Image]:
    """The first ``count`` pictures of such a sheet."""
    corners = [(i % COLUMNS * SIZE, i // COLUMNS * SIZE) for i in range(count)]
    return [sheet.crop((x, y, x + SIZE, y + SIZE)) for x, y in corners]


def write_questions(work: Path, folder: Path) -> None:
    """From the source packages and the trained judge to the files that ship."""
    concepts, noto = vocabulary(work)
    pairs = score_pairs(concepts)
    hidden = hidden_pairs(concepts, pairs)
    extra = hidden.concepts[: len(hidden.concept)]
    judge = load_judge(work / "judge.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    state = judge.state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "judge.safetensors")
    real, seen = real_answers(judge, [*pairs.concepts, *extra], noto)
    save_file({"real_CSE": real.half(), "seen_CS": seen.to(torch.int8)}, folder / "real.safetensors")
    named = [{"key": c.key, "group": c.group, "en": c.en, "zh": c.zh} for c in [*pairs.concepts, *extra]]
    asked = {
        "concepts": named,
        "styles": STYLES,
        "pair_styles": pairs.style.tolist(),
        "hidden_styles": hidden.style.tolist(),
    }
    (folder / "questions.json").write_text(json.dumps(asked, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    picture_sheet(real_of(pairs, noto)).save(folder / "truth.png", optimize=True)
    picture_sheet([canonical_picture(cut_out(c, "flat", noto)) for c in pairs.concepts]).save(
        folder / "flat.png", optimize=True
    )


def load_questions(folder: Path) -> Questions:
    """Read what ``write_questions`` wrote; needs no source package and no network."""
    asked = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    concepts = [Concept(c["key"], c["group"], c["en"], c["zh"], {}) for c in asked["concepts"]]
    answers = load_file(folder / "real.safetensors")
    real = answers["real_CSE"].float()
    count = len(asked["hidden_styles"])
    main, extra = concepts[:PAIRS], concepts[PAIRS:]
    order = [*range(PAIRS, PAIRS + count), *range(PAIRS - count)]
    return Questions(
        load_judge(folder / "judge.safetensors"),
        Pairs(main, torch.arange(PAIRS), torch.tensor(asked["pair_styles"])),
        real[:PAIRS],
        answers["seen_CS"][:PAIRS].long(),
        Pairs([*extra, *main[: PAIRS - count]], torch.arange(count), torch.tensor(asked["hidden_styles"])),
        real[order],
        picture_tiles(Image.open(folder / "truth.png").convert("RGB"), PAIRS),
        picture_tiles(Image.open(folder / "flat.png").convert("RGB"), PAIRS),
    )
