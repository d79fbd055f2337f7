"""What a training will cost on this machine: steps, size of its file, memory, time. Counted, measured, or not known.

    file    exact but for its header, from the model's configuration and the settings
    memory  by the rule below, from the model's configuration, number format and size of the pictures
    time    from what earlier trainings of the same model took in this home; None before the first one

Memory of a training (`core/memory.py`; a token is 16 × 16 pixels):

    frozen weights + 10 to 24 bytes a weight of the LoRA (fp32: itself, its gradient; the optimizer's moments)
    + activations + 0.6 GiB (CUDA's context, the allocator's slack; on the processor the libraries)

At 512 × 512 in bf16 that gives 21.6 and 13.0 GiB for Z-Image, where SimpleTuner's documentation has 21.2 and 12.9 GiB.
The text encoder and the VAE are gone by then; while the cache is built the text encoder alone may need more, and so
may a preview that is larger than what is learnt, for which the VAE comes back.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from zit_app.core import paths
from zit_app.core.errors import ZitError
from zit_app.core.files import read_json
from zit_app.core.flavours import Flavour
from zit_app.core.memory import Numbers, Phase, Request, decoding_activations, drawing_activations, training_bytes
from zit_app.core.models import POCKET, list_models, read_flavour
from zit_app.core.preview_lines import PreviewLine, read_preview
from zit_app.core.run import Run
from zit_app.core.sizes import (
    Config,
    adapter_bytes,
    adapter_numbers,
    null_space_numbers,
    text_encoder_numbers,
    transformer_config,
    vae_numbers,
)
from zit_app.core.train_settings import TrainSettings, load_job, settled
from zit_app.service.runs import RunView

# A weight of the LoRA in training: itself and its gradient in fp32, and what the optimizer keeps for it.
LORA_BYTES = {"adamw": 16, "adamw8bit": 10, "prodigy": 24, "adafactor": 8}
CAPTION_TOKENS = 64  # of a usual caption, beside the picture's
RESERVE = 0.6 * 2**30  # bytes
FEWEST_STEPS = 5  # measured ones, before a time is told
WARM_UP = 2  # first steps of a process, which take longer


@dataclass(frozen=True)
class Estimate:
    """Cost of a training. Sizes in bytes, time in seconds."""

    steps: int  # of the optimizer; 0 without pictures
    file: int
    memory: int
    seconds: float | None  # None: not known before a training of this model has run here
    protection: str  # what keeps few-step pictures, settled for this model and machine


def estimate(settings: TrainSettings, model: str, pictures: int, done: Sequence[RunView], card: bool) -> Estimate:
    """What a training of `pictures` pictures will cost, judged by the trainings `done` in this home.

    Raises ZitError for a model that is not here.
    """
    folder = model_place(model)
    settings = settled(settings, folder)
    learnt = pictures + settings.dataset.own_pictures if pictures else 0
    learnt *= len(sides(settings, folder))  # at the most: small ones are not learnt at larger resolutions
    steps = optimizer_steps(settings, learnt) if pictures else 0
    pace = measured_pace(model, folder, done)
    passes = steps * work(settings, folder) + drawing_work(settings, folder, pictures)
    seconds = pace * passes if pace and steps else None
    return Estimate(
        steps,
        adapter_bytes(settings.lora, folder),
        memory(settings, folder, card),
        seconds,
        settings.training.protection,
    )


def optimizer_steps(settings: TrainSettings, pictures: int) -> int:
    """Length of a training; batches that a bucket does not fill may make it a little longer."""
    training, data = settings.training, settings.dataset
    batches = training.num_train_epochs * math.ceil(pictures * data.repeats / data.batch_size)
    return training.max_steps or math.ceil(batches / training.gradient_accumulation_steps)


def memory(settings: TrainSettings, folder: Path, card: bool) -> int:
    """Bytes at the most, on the card or, without one, in the machine's memory."""
    config, flavour = transformer_config(folder), read_flavour(folder)
    step = step_memory(settings, config, flavour.pixels, card)
    encoder = read_json(part_folder(folder, "text_encoder") / "config.json")
    encoding = text_encoder_numbers(encoder) * (2 if card else 4)
    drawing = 0
    if settings.training.sample_every:
        vae = read_json(part_folder(folder, "vae") / "config.json")
        drawing = step.weights + preview_memory(settings, config, vae, flavour, card)
    return round(max(step.total, drawing, encoding) + RESERVE)


def preview_memory(settings: TrainSettings, config: Config, vae: Config, flavour: Flavour, card: bool) -> int:
    """Bytes that the largest preview takes beside what lies there for the training: the VAE, activations.

    Raises ZitError for a preview that is not understood.
    """
    side = settings.dataset.sides(flavour.pixels)[0]
    numbers = Numbers(_number_bytes(settings, card), "", 0, "")
    asked = [read_preview(line) for line in settings.training.sample_prompts] or [PreviewLine("")]
    requests = [
        Request(one.width or side, one.height or side, guided=flavour.guidance > 0, caption_tokens=CAPTION_TOKENS)
        for one in asked
    ]
    activations = (
        max(
            drawing_activations(config, numbers, request),
            decoding_activations(vae, numbers, request, one_by_one=False, tile=0),
        )
        for request in requests
    )
    return vae_numbers(vae) * numbers.full + max(activations)


def step_memory(settings: TrainSettings, config: Config, pixels: int, card: bool) -> Phase:
    """Bytes of a training step; ``pixels`` is the side that a resolution of 0 stands for."""
    training, data = settings.training, settings.dataset
    full = _number_bytes(settings, card)
    optimizer = ("adamw8bit" if card else "adamw") if training.optimizer == "auto" else training.optimizer
    side = max(data.sides(pixels))
    numbers = adapter_numbers(settings.lora, config)
    step = training_bytes(
        config,
        full,
        (side // 16) ** 2 + CAPTION_TOKENS,
        data.batch_size,
        training.gradient_checkpointing,
        numbers,
        LORA_BYTES[optimizer],
        _first_block(settings, int(config["n_layers"])),
    )
    if settings.lora.network_type != "lora" or training.protection != "null_space":
        return step
    directions = null_space_numbers(settings.lora, config) * full
    return replace(step, weights=step.weights + directions + 2 * numbers)  # half of them are A, kept twice in fp32


def _number_bytes(settings: TrainSettings, card: bool) -> int:
    """Bytes of a number of the frozen model."""
    compute = settings.training.compute
    return 2 if compute == "bf16" or (compute == "auto" and card) else 4


def sides(settings: TrainSettings, folder: Path) -> tuple[int, ...]:
    """The resolutions that a training of the model in this folder learns at."""
    return settings.dataset.sides(read_flavour(folder).pixels)


def tokens(settings: TrainSettings, folder: Path) -> float:
    """Of one picture and its caption, the mean over all resolutions."""
    return statistics.fmean((side // 16) ** 2 + CAPTION_TOKENS for side in sides(settings, folder))


def work(settings: TrainSettings, folder: Path) -> float:
    """Work of an optimizer step, in forward passes of a token.

    A backward pass through frozen weights costs as much as a forward pass and ends at the first main block that learns;
    gradient checkpointing adds a forward pass of the same blocks, the tether one of the untrained model for the samples
    at the nodes and for those of unrelated prompts.
    """
    training, data = settings.training, settings.dataset
    blocks = int(transformer_config(folder)["n_layers"])
    back = 1 - _first_block(settings, blocks) / blocks
    passes = 1 + (1 + training.gradient_checkpointing) * back
    if training.tethered:
        at_nodes = {"anchor": 1.0, "mixture": settings.acrf.anchor_share}.get(settings.acrf.sampler, 0.0)
        passes += at_nodes * training.tethers_pictures + (2 + back) * training.tether_unrelated
    return training.gradient_accumulation_steps * data.batch_size * tokens(settings, folder) * passes


def drawing_work(settings: TrainSettings, folder: Path, pictures: int) -> float:
    """Work of what the model draws before the first step, in forward passes of a token: its own pictures, the unrelated
    prompts that hold it, and its ways to the ``pictures`` of the data set."""
    training, data, flavour = settings.training, settings.dataset, read_flavour(folder)
    side, learnt = data.sides(flavour.pixels)[0], pictures * len(sides(settings, folder))
    drawing = ((side // 16) ** 2 + CAPTION_TOKENS) * (2 if flavour.guidance else 1)
    nodes, along = settings.acrf.turbo_steps, training.protection == "own_ways"
    passes: float = (nodes if along else flavour.steps) * data.own_pictures * drawing
    passes += nodes * training.unrelated_count * training.asks_unrelated * drawing
    if along and learnt:
        passes += nodes * training.ways_to_each(learnt) * learnt * tokens(settings, folder)
    return passes


def _first_block(settings: TrainSettings, blocks: int) -> int:
    """The first main block that a backward pass comes to; further layers may lie anywhere."""
    return 0 if settings.lora.extra_targets else min(settings.lora.learning_blocks(blocks))


def measured_pace(model: str, folder: Path, done: Sequence[RunView]) -> float | None:
    """Seconds of a forward pass of a token in the newest training of this model that got anywhere, else None."""
    for run in done:
        if run.kind == "train" and run.state not in ("queued", "preparing"):
            measured = run.folder / "metrics.jsonl"
            growth = measured.stat().st_size.bit_length() if measured.exists() else 0
            found = _pace(run.folder, model, folder, growth)
            if found is not None:
                return found
    return None


@lru_cache(maxsize=256)
def _pace(run: Path, model: str, folder: Path, growth: int) -> float | None:
    """Of one training; `growth` changes whenever the run has measured twice as much."""
    try:
        settings, job = load_job(run / "settings.toml")
    except ZitError:  # of another version of the program
        return None
    if job.model != model:
        return None
    seconds = [float(line["seconds"]) for line in Run(run).metrics() if "seconds" in line][WARM_UP:]
    return statistics.median(seconds) / work(settings, folder) if len(seconds) >= FEWEST_STEPS else None


def model_place(model: str) -> Path:
    """Where a model's configuration lies; for an embedded model that was never used, in the assets.

    Raises ZitError for a model that is not here.
    """
    place = {info.name: info.path for info in list_models()}.get(model, Path(model).expanduser())
    if model in POCKET and not (place / "model_index.json").is_file():
        place = paths.assets() / "pocket" / model
    if not (place / "model_index.json").is_file():
        raise ZitError(f"There is no model {model!r}.", "Choose another one.")
    return place


def part_folder(model: Path, part: str) -> Path:
    """Where a part of a model lies; the embedded models share all but the transformer."""
    own = model / part
    return own if own.is_dir() else model.parent / "shared" / part
