"""What a training costs few-step pictures, and how much of them each protection keeps: measured on the pocket model.

Every variant learns the demo's stickers from the same seeds; then concepts and styles that it was not shown are drawn
at 8 and at 30 steps. The untrained model stands beside them. Finished trainings and figures are kept, so an
interrupted measurement goes on.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from zit_app.core import paths
from zit_app.core.files import read_json, write_atomic, write_json
from zit_app.core.train_settings import TrainJob, TrainSettings, load_preset, load_train_settings
from zit_app.engine.pocket.captions import canonical_caption
from zit_app.engine.pocket.concepts import KNOWN_STYLES
from zit_app.engine.pocket.paint import Painter
from zit_app.engine.pocket.questions import Questions, load_questions
from zit_app.engine.pocket.teach import adapter_of, judged_score, split, stickers
from zit_app.engine.pocket.unrelated import WAYS_TO_DRAW, rows_unrelated, unrelated

DRAWN = ("8 steps", "30 steps")
USUAL = ("training.learning_rate=6e-4", "acrf.base=mse", "lora.layers=")  # unless a variant says otherwise
UNPROTECTED = ("training.protection=none", "training.health_every=0")
TETHER = ("training.protection=tether", "training.tether=0.5", "training.health_every=0")
HALF = ("training.learning_rate=3e-4",)
BASE = ("training.learning_rate=2e-3", "training.health_every=0")
MANY = ("training.tether=10", "training.tether_unrelated=1", "training.unrelated_count=152")
NULL_SPACE = (
    "training.protection=null_space",
    "training.learning_rate=2e-3",
    "training.health_every=0",
    "training.unrelated_count=152",
)
HELD_BLOCK = (
    *BASE,
    "lora.layers=3",
    "training.protection=base+tether",
    "training.tether=4",
    "training.tether_unrelated=1",
    "training.unrelated_count=152",
)
CHARBONNIER_BLOCK = ("training.protection=base", *BASE, "lora.layers=3", "acrf.base=charbonnier")
QUICK = (*CHARBONNIER_BLOCK, "training.learning_rate=1.5e-3")
OWN = (  # 500 steps
    "training.protection=base",
    "training.health_every=0",
    "acrf.base=charbonnier",
    "lora.layers=2-5",
    "training.learning_rate=4e-3",
    "dataset.own_pictures=318",
)
OWN_WAYS = (  # much as the demo, in rank 16 and without its own pictures; 500 steps
    "training.protection=own_ways",
    "training.health_every=0",
    "acrf.base=charbonnier",
    "lora.layers=2-5",
    "training.learning_rate=3e-3",
    "training.tether=10",
    "training.unrelated_count=32",
)
OWN_WIDENED = (*OWN_WAYS, "dataset.own_pictures=318", "training.ways=2")
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": ("acrf.sampler=uniform", *UNPROTECTED),
    "nodes": ("acrf.sampler=anchor", *UNPROTECTED),
    "mixture": UNPROTECTED,
    "tether": (*TETHER, "training.tether_unrelated=0"),
    "tether, unrelated too": (*TETHER, "training.tether_unrelated=0.25"),
    "plain, half the rate": ("acrf.sampler=uniform", *UNPROTECTED, *HALF),
    "plain, a quarter of the rate": ("acrf.sampler=uniform", *UNPROTECTED, "training.learning_rate=1.5e-4"),
    "held less, at the full rate": ("acrf.sampler=uniform", *TETHER, *MANY, "training.tether=3"),
    "held by many prompts": ("acrf.sampler=uniform", *TETHER, *HALF, *MANY),
    "held by few prompts": ("acrf.sampler=uniform", *TETHER, *HALF, *MANY, "training.unrelated_count=16"),
    "on the base's weights": ("acrf.sampler=uniform", "training.protection=base", *BASE),
    "on the base's weights, gently": ("acrf.sampler=uniform", "training.protection=base", "training.health_every=0"),
    "on the base's weights, held": (
        "acrf.sampler=uniform",
        *BASE,
        "training.protection=base+tether",
        "training.tether=1",
        "training.tether_unrelated=1",
        "training.unrelated_count=152",
    ),
    **{
        f"block {block} alone": (
            "acrf.sampler=uniform",
            "training.protection=base",
            *BASE,
            f"lora.layers={block}",
        )
        for block in range(6)
    },
    "all blocks, nodes too": ("training.protection=base", *BASE),
    "all blocks, nodes too, Charbonnier": ("training.protection=base", *BASE, "acrf.base=charbonnier"),
    "block 3 alone, nodes too": ("training.protection=base", *BASE, "lora.layers=3"),
    "block 3 alone, nodes too, Charbonnier": CHARBONNIER_BLOCK,
    "block 3 alone, nodes too, Charbonnier, slower": QUICK,
    "block 3 alone, nodes too, Charbonnier, slower, batches of 32": (*QUICK, "dataset.batch_size=32"),
    "block 3 alone, nodes too, Charbonnier, slower, held a little": (
        *QUICK,
        "training.protection=base+tether",
        "training.tether=0.5",
        "training.tether_unrelated=0.5",
        "training.unrelated_count=152",
        "training.tether_pictures=false",
    ),
    "block 3 alone, held": (*HELD_BLOCK, "training.tether_pictures=false"),
    "block 3 alone, held, its pictures too": HELD_BLOCK,
    "own pictures": OWN,
    "own pictures, batches of 32": (*OWN, "dataset.batch_size=32"),
    "own pictures, as they are drawn": (*OWN, "dataset.own_colors=0"),
    "as with own pictures, without them": (*OWN, "dataset.own_pictures=0"),
    "own ways": OWN_WAYS,
    "own ways, not held": (*OWN_WAYS, "training.tether=0"),
    "own ways, own pictures": OWN_WIDENED,
    "own ways, own pictures, not held": (*OWN_WIDENED, "training.tether=0"),
    "null space": ("acrf.sampler=uniform", *NULL_SPACE),
    "null space, few prompts": ("acrf.sampler=uniform", *NULL_SPACE, "training.unrelated_count=16"),
    "replay": (*UNPROTECTED, "training.replay=0.25"),
    "adapter": ("training.protection=adapter", "training.health_every=0"),
    "both": ("training.protection=both", "training.tether=0.5", "training.health_every=0"),
}
# As the preset, with the rate that so small a model needs (the demo's is six times the documents').
GUARD = ("training.learning_rate=6e-5", "training.minimum_learning_rate=6e-5", "training.max_steps=400",
         "dataset.batch_size=8", "dataset.drawn=256", "training.health_every=0",
         "training.gradient_checkpointing=false")  # fmt: skip


def measure_protections(
    questions: Questions,
    work: Path,
    steps: int = 300,
    seeds: Sequence[int] = (0,),
    variants: Sequence[str] = tuple(VARIANTS),
    note: Callable[[str], None] = print,
) -> dict[str, dict[str, dict[str, float]]]:
    """By variant and seed ("plain, seed 0"): ``unrelated, 8 steps``, ``unrelated, 30 steps`` and ``new art``.

    Everything lies below ``work``; its `protections.json` is rewritten after each row.
    """
    file, painter = work / "protections.json", Painter("pocket")
    rows: dict[str, dict[str, dict[str, float]]] = read_json(file) if file.exists() else {}
    art = stickers()
    wanted = [("untrained", 0), *((name, seed) for name in variants for seed in seeds)]
    for name, seed in wanted:
        label = f"{name}, {steps} steps, seed {seed}" if name in VARIANTS else name
        if label in rows:
            continue
        adapter = None
        if name in VARIANTS:
            settings = settings_of(name, steps, seed, work)
            job = TrainJob("pocket", str(art.folder), name)
            adapter = adapter_of(settings, job, work / label.replace(", ", "_").replace(" ", "_"))
        rows[label] = {f"unrelated, {way}": unrelated(questions, painter, adapter, WAYS_TO_DRAW[way]) for way in DRAWN}
        rows[label]["new art"] = judged_score(questions, painter, adapter, art)
        write_json(file, rows)
        note(f"{label}: {json.dumps(rows[label])}")
    return rows


def settings_of(name: str, steps: int, seed: int, work: Path) -> TrainSettings:
    """The demo's settings with a variant's; a training adapter is built first where the variant needs one."""
    changes = [*USUAL, *VARIANTS[name], f"training.max_steps={steps}", f"training.seed={seed}"]
    if name in ("adapter", "both"):
        changes.append(f'training.protection_adapter="{guard_of(work).as_posix()}"')
    changes.append(f'training.unrelated_prompts="{unrelated_prompts(work).as_posix()}"')
    return load_train_settings(paths.assets() / "demo" / "train.toml", changes)


def unrelated_prompts(work: Path) -> Path:
    """Two prompts of each concept that neither the demo shows nor `unrelated` asks for."""
    file = work / "unrelated.txt"
    if not file.exists():
        concepts = load_questions(paths.assets() / "judge").pairs.concepts
        left = [i for i in range(len(concepts)) if i not in split().taught and i not in rows_unrelated()]
        lines = [canonical_caption(concepts[i], style) for i in left for style in ("3d", "classic")]
        Random(0).shuffle(lines)
        write_atomic(file, "\n".join(lines) + "\n")
    return file


def guard_of(work: Path) -> Path:
    """A training adapter for the pocket model, from pictures it draws of its whole vocabulary of prompts."""
    prompts = work / "prompts.txt"
    if not prompts.exists():
        concepts = load_questions(paths.assets() / "judge").pairs.concepts
        lines = [canonical_caption(concept, KNOWN_STYLES[i % 3]) for i, concept in enumerate(concepts)]
        write_atomic(prompts, "\n".join(lines) + "\n")
    return adapter_of(load_preset("adapter", GUARD), TrainJob("pocket", "", "adapter", str(prompts)), work / "guard")
