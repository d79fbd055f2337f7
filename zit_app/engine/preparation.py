"""Everything a training run needs before its first step.

N nodes.
"""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from torch import Tensor

from zit_app.core.preview_lines import read_preview
from zit_app.core.progress import Progress
from zit_app.core.train_settings import AcrfSettings, TrainSettings
from zit_app.data import index
from zit_app.data.captions import with_trigger
from zit_app.data.formats import Size
from zit_app.data.index import component_fingerprint
from zit_app.data.pictures import captions, scan_dataset
from zit_app.engine.adapter_metadata import adapter_metadata
from zit_app.engine.aids import training_adapter, undistilled
from zit_app.engine.batches import DataOrder
from zit_app.engine.beginning import begin_with, starting_adapter
from zit_app.engine.cache import Cache, Sample
from zit_app.engine.checkpoints import TrainState
from zit_app.engine.encoding import encode_beside
from zit_app.engine.focus import Focus
from zit_app.engine.frozen import unrelated_prompts
from zit_app.engine.guard import Guard, Untrained, stand_guard
from zit_app.engine.objective import training_nodes
from zit_app.engine.optimizers import new_optimizer
from zit_app.engine.originals import find_masks, fitted_lab
from zit_app.engine.refusals import refuse_data
from zit_app.engine.way_files import place_of
from zit_app.engine.ways import Asked, asked_ways
from zit_app.engine.widened import drawn_from
from zit_app.engine.work import Preview, Work, compute_dtype
from zit_app.flow.timesteps import Sampler, SigmaSampler
from zit_app.model.adapters import attach_lora, lora_state
from zit_app.model.loading import load_transformer
from zit_app.model.null_space import NullSpace

SMALL_SET, MOST_HELD = 40, 16  # pictures
PREVIEWS = 2  # captions, where no prompts are given for them


def prepare(
    settings: TrainSettings, preset: str, cache: Cache, model: Path, accelerator: Accelerator, progress: Progress
) -> tuple[Work, TrainState]:
    """Load the transformer, attach the adapter and put everything at step 0.

    Raises ZitError for data that cannot be trained on; the settings were looked at before (`engine/refusals.py`).
    """
    acrf, lora, training = settings.acrf, settings.lora, settings.training
    refuse_data(settings, cache)
    taught, held = set_aside(cache, settings)
    adapter, base_model = training_adapter(settings), undistilled(settings, model)
    masks = find_masks(settings, cache, model)
    with accelerator.main_process_first():
        named, previews = _prompts_beside(settings, cache, model, progress)
        to_draw = _ways(settings, taught, model, progress)
    nodes_N = training_nodes(acrf)
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(model / "vae"))
    fitted = fitted_lab(settings, cache, model, vae.config["shift_factor"], vae.config["scaling_factor"], progress)

    progress.stage("Loading the transformer")
    transformer = load_transformer(model, accelerator.device, compute_dtype(accelerator))
    caps, writes = list(named.values()), accelerator.is_main_process
    untrained = Untrained(transformer, cache, caps, to_draw, nodes_N, training.seed, progress, writes)
    guard = stand_guard(untrained, settings, model, adapter, base_model)
    begun = starting_adapter(lora, transformer)
    attach(transformer, settings)
    filled = begin_with(transformer, begun, lora) if begun else {}
    if training.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()

    sizes = [sample.size for sample in taught.samples]
    batch = settings.dataset.batch_size * accelerator.num_processes
    order = DataOrder(sizes, batch, settings.dataset.repeats, training.seed)
    accumulated = training.gradient_accumulation_steps
    batches = training.max_steps * accumulated or training.num_train_epochs * order.batches_per_epoch
    base = component_fingerprint(model / "transformer")
    learnt_on = component_fingerprint(base_model / "transformer") if base_model else base
    unrelated = [list(named)] if training.asks_unrelated else []
    work = Work(
        settings=settings,
        model=model,
        cache=taught,
        held=held,
        frozen=guard.frozen,
        held_to=guard.held_to,
        ways=guard.ways,
        previews=previews or _first_captions(taught),
        masks=masks,
        lab=fitted[0] if fitted else None,
        vae=vae,
        order=order,
        steps=math.ceil(batches / accumulated),
        batches=batches,
        accelerator=accelerator,
        nodes_N=nodes_N,
        metadata=adapter_metadata(settings, preset, taught, model, base, fitted[1] if fitted else []),
        inputs=_learnt_from(cache, learnt_on, order.batch_size, unrelated),
    )
    return work, _at_step_0(work, transformer, guard, filled)


def _at_step_0(work: Work, transformer: ZImageTransformer2DModel, guard: Guard, filled: dict[str, int]) -> TrainState:
    """What training changes; ``filled``: by layer, the rank that the adapter to go on from has there."""
    training, acrf = work.settings.training, work.settings.acrf
    weights = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    categories = [sample.category for sample in work.cache.samples]
    average = {name: weight.clone() for name, weight in lora_state(transformer).items()} if training.ema_decay else None
    return TrainState(
        transformer,
        new_optimizer(training, weights, work.device),
        new_sampler(acrf, work.nodes_N),
        torch.Generator().manual_seed(training.seed),
        Focus(work.order, training.picture_focus, training.concept_focus, categories),
        guard.aid,
        NullSpace(transformer, guard.inputs, training.null_space, filled) if guard.inputs else None,
        average,
    )


def _learnt_from(cache: Cache, learnt_on: str, batch: int, asked: list[list[str]]) -> str:
    """Digest of weights, data, batch size, and of the unrelated prompts where the training needs any."""
    pictures = [(one.latents, one.text) for one in cache.samples]
    return _digest([learnt_on, batch, cache.empty_text, pictures, *asked])


def attach(transformer: ZImageTransformer2DModel, settings: TrainSettings) -> None:
    """A fresh adapter of the kind and shape that the settings describe."""
    lora = settings.lora
    attach_lora(
        transformer,
        lora.network_dim,
        lora.network_alpha,
        lora.targets,
        settings.training.seed,
        kind=lora.network_type,
        extra_targets=lora.extra_targets,
        blocks=lora.learning_blocks(len(transformer.layers)),
        rslora=lora.rslora,
        factor=lora.lokr_factor,
        full_rank=lora.lokr_full_rank,
    )


def new_sampler(acrf: AcrfSettings, nodes_N: Tensor) -> SigmaSampler:
    """The sampler of noise levels that the settings describe."""
    return SigmaSampler(
        nodes_N,
        cast(Sampler, acrf.sampler),
        acrf.jitter_scale,
        acrf.anchor_share,
        acrf.shift,
        jitter_kind=acrf.jitter_kind,
        jitter_unit=acrf.jitter_unit,
        logit_mean=acrf.logit_mean,
        logit_deviation=acrf.logit_deviation,
        focus=acrf.node_focus,
        mixed_with=cast(Sampler, acrf.mixture_with),
    )


def set_aside(cache: Cache, settings: TrainSettings) -> tuple[Cache, tuple[Sample, ...]]:
    """The cache without the held-out pictures, and one sample of each of those, of the main resolution; chosen by name,
    so that they stay the same when others are added. Small sets, and trainings that never look at them, keep all."""
    training = settings.training
    names = sorted({sample.name for sample in cache.samples})
    if not training.health_every or len(names) < SMALL_SET:
        return cache, ()
    count = min(MOST_HELD, int(training.held_out * len(names)))
    chosen = set(sorted(names, key=lambda name: _digest([training.seed, name]))[:count])
    held: dict[str, Sample] = {}
    for sample in cache.samples:
        if sample.name in chosen:
            held.setdefault(sample.name, sample)
    taught = tuple(sample for sample in cache.samples if sample.name not in chosen)
    return dataclasses.replace(cache, samples=taught), tuple(held.values())


def _prompts_beside(
    settings: TrainSettings, cache: Cache, model: Path, progress: Progress
) -> tuple[dict[str, Tensor], tuple[Preview, ...]]:
    """Features of the unrelated prompts, (L, D) each, by their fingerprints; and the previews that were asked for.

    Raises ZitError when the file of unrelated prompts cannot be read.
    """
    data, scan = settings.dataset, scan_dataset(cache.dataset, index.load_known(cache.dataset))
    of_set: list[str] = []
    own: list[str] = []  # of the pictures that the model drew itself
    for item, several in zip(scan.items, captions(scan, data.trigger_word), strict=True):
        (own if data.own_pictures and place_of(item.name) is not None else of_set).extend(several)
    apart = unrelated_prompts(settings, of_set, own, model)
    word = data.trigger_word or scan.options.trigger_word
    lines = [read_preview(line) for line in settings.training.sample_prompts]
    asked = [with_trigger(line.prompt, word) for line in lines]
    negative = [line.negative for line in lines]  # the empty prompt is cached already
    prints = encode_beside(cache.dataset, [*apart, *asked, *negative], model, data.max_sequence_length, progress)
    named = {each: cache.features(each) for each in prints[: len(apart)]}
    beside = prints[len(apart) :]
    previews = (
        Preview(
            text,
            against,
            (line.width or cache.side, line.height or cache.side),
            place if line.seed < 0 else line.seed,
            line.steps,
        )
        for place, (line, text, against) in enumerate(zip(lines, beside, beside[len(lines) :], strict=False))
    )
    return named, tuple(previews)


def _ways(settings: TrainSettings, taught: Cache, model: Path, progress: Progress) -> list[Asked]:
    """What the untrained model is to draw where the training learns on its ways to the pictures.

    Own pictures are drawn as they were: from their prompts, without the trigger word that captions may have.
    """
    if settings.training.protection != "own_ways":
        return []
    data = settings.dataset
    own = drawn_from(taught.dataset) if data.own_pictures else []
    prints = encode_beside(taught.dataset, own, model, data.max_sequence_length, progress)
    run = progress.run.folder if progress.run else None
    return asked_ways(taught.samples, settings.training, prints, run)


def _first_captions(cache: Cache) -> tuple[Preview, ...]:
    """What is previewed where nothing is asked for: their features are in the cache, so no encoder is needed."""
    sizes: dict[str, Size] = {}
    for sample in cache.samples:
        sizes.setdefault(sample.text, sample.size)  # of the main resolution, which comes first
    told = list(sizes.items())[:PREVIEWS]
    return tuple(Preview(text, cache.empty_text, size, seed) for seed, (text, size) in enumerate(told))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
