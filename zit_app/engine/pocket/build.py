"""Builds the pocket models from npm packages to ``assets``: each stage is skipped when its result is there.

    drawings → autoencoder → latents → tokenizer → judge → pocket-base → pocket → assets → scores → model card
    drawings → captioner → its scores → model card (``build_captioner``, after the pocket's tokenizer and the judge)

Needs ``npm`` (drawings come as packages) and the extra ``builder``. Seeded and resumable; on two CPU cores with bf16
about three hours, mostly pocket-base.
"""

import json
from pathlib import Path
from typing import Any

import torch

from zit_app.core import paths
from zit_app.core.files import write_atomic
from zit_app.engine.pocket.bank import build_bank
from zit_app.engine.pocket.base import train_base
from zit_app.engine.pocket.captioner import train_captioner
from zit_app.engine.pocket.captioner_score import publish_captioner
from zit_app.engine.pocket.captions import train_tokenizer
from zit_app.engine.pocket.card import write_card
from zit_app.engine.pocket.concepts import OUTSIDE_GROUPS, VOCABULARY_GROUPS, fetch_packages, read_concepts
from zit_app.engine.pocket.distill import distill
from zit_app.engine.pocket.export import export_flavour, export_shared
from zit_app.engine.pocket.judge import train_judge
from zit_app.engine.pocket.measure import measure
from zit_app.engine.pocket.questions import load_questions, write_questions
from zit_app.engine.pocket.score import judge_concepts
from zit_app.engine.pocket.twin import measure_teaching
from zit_app.engine.pocket.vae import encode_bank, train_vae

BASE_STEPS, DISTIL_STEPS = 20_000, 3_000


def build(work: Path, device: str, base_steps: int = BASE_STEPS, distil_steps: int = DISTIL_STEPS) -> Path:
    """All stages; returns the folder of the pocket assets."""
    torch.set_flush_denormal(True)  # tiny gradients otherwise slow convolutions on CPUs several times
    work.mkdir(parents=True, exist_ok=True)
    build_bank(work)
    train_vae(work, device)
    encode_bank(work, device)
    packages = fetch_packages(work)
    inside, outside = read_concepts(packages, VOCABULARY_GROUPS), read_concepts(packages, OUTSIDE_GROUPS)
    if not (work / "tokenizer" / "tokenizer.json").exists():
        train_tokenizer(work / "tokenizer", inside, outside)
    train_judge(judge_concepts(packages), packages["noto"] / "icons.json", work)
    train_base(work, device, base_steps)
    distill(work, device, distil_steps)
    return publish(work)


def publish(work: Path) -> Path:
    """From finished states to assets, scores and model card."""
    assets = paths.assets() / "pocket"
    export_shared(work, assets)
    export_flavour(work, assets, "pocket-base")
    export_flavour(work, assets, "pocket")
    write_questions(work, paths.assets() / "judge")
    score()
    return assets


def build_captioner(work: Path) -> Path:
    """Train the captioner, ship it with its figures and rewrite the model card; needs ``npm`` and no other stage."""
    work.mkdir(parents=True, exist_ok=True)
    train_captioner(work)
    publish_captioner(work)
    return write_card(paths.assets() / "pocket")


def score_teaching(work: Path) -> Path:
    """Train on the shipped weights, write ``taught.json`` beside them and rewrite the model card."""
    assets = paths.assets() / "pocket"

    def keep(taught: dict[str, Any]) -> None:
        write_atomic(assets / "taught.json", json.dumps(taught, indent=1) + "\n")
        write_card(assets)

    measure_teaching(load_questions(paths.assets() / "judge"), work, keep)
    return assets / "README.md"


def score() -> Path:
    """Measure the weights that lie in ``assets`` and rewrite ``scores.json`` and the model card."""
    assets = paths.assets() / "pocket"
    scores = measure(load_questions(paths.assets() / "judge"))
    write_atomic(assets / "scores.json", json.dumps(scores, indent=1) + "\n")
    write_card(assets)
    return assets / "README.md"
