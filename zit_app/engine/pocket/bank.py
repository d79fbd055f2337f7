"""The bank: every training picture of the pocket world, drawn once and kept as uint8 with how it was made.

``cutouts.npy``  (concept, style, 128, 128, RGBA) · ``pictures.npy`` (N, 128, 128, RGB) · ``records.json`` (N records)
"""

import json
from dataclasses import asdict
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from zit_app.engine.pocket.concepts import KNOWN_STYLES, VOCABULARY_GROUPS, Concept, fetch_packages, read_concepts
from zit_app.engine.pocket.pictures import SIZE, Layout, canonical_picture, compose, cut_out, random_layout

COMPOSED_PER_PAIR = 10
NEVER_SHOWN = 24  # (concept, style) combinations kept out of training, reported apart


def vocabulary(work: Path) -> tuple[list[Concept], Path]:
    """The concepts of the pocket model and the Noto collection file."""
    packages = fetch_packages(work)
    return read_concepts(packages, VOCABULARY_GROUPS), packages["noto"] / "icons.json"


def never_shown(concepts: list[Concept]) -> set[tuple[int, int]]:
    """Fixed (concept, style) index pairs that training never sees: what the model does there is not memory."""
    random = Random(77)
    chosen = random.sample(range(len(concepts)), NEVER_SHOWN)
    return {(c, i % len(KNOWN_STYLES)) for i, c in enumerate(chosen)}


def build_bank(work: Path, seed: int = 0, per_pair: int = COMPOSED_PER_PAIR) -> Path:
    """Draw the bank (about two minutes on one core) into ``work/bank`` unless it is there; returns the folder."""
    folder = work / "bank"
    if (folder / "records.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    concepts, noto = vocabulary(work)
    cutouts = np.stack([np.stack([np.asarray(cut_out(c, style, noto)) for style in KNOWN_STYLES]) for c in concepts])
    np.save(folder / "cutouts.npy", cutouts)

    random, hidden = Random(seed), never_shown(concepts)
    pairs = [(c, s) for c in range(len(concepts)) for s in range(len(KNOWN_STYLES)) if (c, s) not in hidden]
    plan = [(c, s, Layout()) for c, s in pairs]
    plan += [(c, s, random_layout(random, len(concepts))) for _ in range(per_pair) for c, s in pairs]
    pictures = np.lib.format.open_memmap(
        folder / "pictures.npy", mode="w+", dtype=np.uint8, shape=(len(plan), SIZE, SIZE, 3)
    )
    records = []
    for i, (c, s, layout) in enumerate(plan):
        thing = Image.fromarray(cutouts[c, s])
        if layout.second and (layout.second[0], s) in hidden:
            layout = Layout(**{**asdict(layout), "second": None})
        second = Image.fromarray(cutouts[layout.second[0], s]) if layout.second else None
        picture = canonical_picture(thing) if layout.canonical else compose(layout, thing, second)
        pictures[i] = np.asarray(picture)
        records.append({"concept": c, "style": s, **asdict(layout)})
    pictures.flush()
    (folder / "records.json").write_text(json.dumps(records))
    return folder
