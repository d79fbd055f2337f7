"""Everything a training run needs before its first step, and what its adapter file says about it.

N nodes.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from torch import Tensor

from zit_app.core import paths
from zit_app.core.preview_lines import read_preview
from zit_app.core.progress import Progress
from zit_app.core.settings import parse_toml
from zit_app.core.train_settings import AcrfSettings, TrainSettings
from zit_app.data import index
from zit_app.data.captions import with_trigger
from zit_app.data.formats import Size
from zit_app.data.index import component_fingerprint
from zit_app.data.pictures import captions, scan_dataset
from zit_app.engine.aids import Aid, TrainingAdapter, UndistilledWeights, training_adapter, undistilled
from zit_app.engine.batches import DataOrder
from zit_app.engine.beginning import begin_with, starting_adapter
from zit_app.engine.cache import Cache, Sample
from zit_app.engine.checkpoints import TrainState
from zit_app.engine.encoding import encode_beside
from zit_app.engine.focus import Focus
from zit_app.engine.frozen import Frozen, passes, unrelated_prompts, watch, with_recall
from zit_app.engine.optimizers import new_optimizer
from zit_app.engine.originals import find_masks, fitted_lab
from zit_app.engine.refusals import refuse_data
from zit_app.engine.work import Preview, Work, compute_dtype
from zit_app.flow.schedule import nodes, report_anchors
from zit_app.flow.timesteps import Sampler, SigmaSampler
from zit_app.model.adapter_stack import apply_adapters
from zit_app.model.adapters import attach_lora, lora_state, target_modules
from zit_app.model.loading import load_transformer, read_flavour
from zit_app.model.null_space import NullSpace, recorded_inputs

SMALL_SET, MOST_HELD = 40, 16  # pictures
PREVIEWS = 2  # captions, where no prompts are given for them


def prepare(
    settings: TrainSettings, preset: str, cache: Cache, model: Path, accelerator: Accelerator, progress: Progress
) -> tuple[Work, TrainState]:
    """Load the transformer, attach the adapter and put everything at step 0.

    Raises ZitError for data that cannot be trained on; the settings were looked at before (`engine/refusals.py`).
    """
    acrf, lora, training, device = settings.acrf, settings.lora, settings.training, accelerator.device
    refuse_data(settings, cache)
    guard, base_model = training_adapter(settings), undistilled(settings, model)
    masks = find_masks(settings, cache, model)
    with accelerator.main_process_first():
        named, previews = _prompts_beside(settings, cache, model, progress)
    texts = list(named.values())
    nodes_N = (nodes if acrf.anchor_source == "inference" else report_anchors)(acrf.turbo_steps, acrf.shift)
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(model / "vae"))
    fitted = fitted_lab(settings, cache, model, vae.config["shift_factor"], vae.config["scaling_factor"], progress)

    progress.stage("Loading the transformer")
    transformer = load_transformer(model, device, compute_dtype(accelerator))

    def watched(as_run: Path, recording: Sequence[str] = ()) -> tuple[Frozen, dict[str, Tensor]]:
        guidance = read_flavour(as_run).guidance
        calls = passes(len(texts), len(nodes_N), guidance)
        with recorded_inputs(transformer, recording, calls, training.seed) as inputs:
            empty = cache.features(cache.empty_text)
            return watch(transformer, texts, empty, cache.side, nodes_N, guidance, progress), inputs

    frozen: Frozen | None = None
    inputs: dict[str, Tensor] = {}  # of the layers that learn in a null space
    if texts and (training.health_every or base_model is None):
        apart = training.protection == "null_space"
        blocks = lora.learning_blocks(len(transformer.layers))
        learning = target_modules(transformer, lora.targets, lora.extra_targets, blocks)
        frozen, inputs = watched(model, learning if apart else ())
        frozen = with_recall(frozen, transformer) if training.health_every else frozen
    held_to = frozen
    aid: Aid | None = None
    if guard is not None:
        aid = TrainingAdapter(apply_adapters(transformer, [(guard, 1.0, 1, 0)]))
    elif base_model is not None:
        progress.stage("Loading the undistilled transformer")
        aid = UndistilledWeights(transformer, load_transformer(base_model, torch.device("cpu"), transformer.dtype))
        held_to = watched(base_model)[0] if texts and (training.replay or training.tethered) else None
    begun = starting_adapter(lora, transformer)
    attach(transformer, settings)
    filled = begin_with(transformer, begun, lora) if begun else {}
    if training.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    taught, held = set_aside(cache, settings)
    order = DataOrder(
        [sample.size for sample in taught.samples],
        settings.dataset.batch_size * accelerator.num_processes,
        settings.dataset.repeats,
        training.seed,
    )
    accumulated = training.gradient_accumulation_steps
    batches = training.max_steps * accumulated or training.num_train_epochs * order.batches_per_epoch
    base = component_fingerprint(model / "transformer")
    learnt_on = component_fingerprint(base_model / "transformer") if base_model else base
    learnt_from = [
        learnt_on,
        order.batch_size,
        cache.empty_text,
        [(one.latents, one.text) for one in cache.samples],
        *([list(named)] if training.asks_unrelated else []),
    ]
    work = Work(
        settings,
        model,
        taught,
        held,
        frozen,
        held_to,
        previews or _first_captions(taught),
        masks,
        fitted[0] if fitted else None,
        vae,
        order,
        math.ceil(batches / accumulated),
        batches,
        accelerator,
        nodes_N,
        _metadata(settings, preset, cache, model, base, fitted[1] if fitted else []),
        _digest(learnt_from),
    )
    weights = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    average = {name: weight.clone() for name, weight in lora_state(transformer).items()} if training.ema_decay else None
    null_space = NullSpace(transformer, inputs, training.null_space, filled) if inputs else None
    state = TrainState(
        transformer,
        new_optimizer(training, weights, device),
        new_sampler(acrf, nodes_N),
        torch.Generator().manual_seed(training.seed),
        Focus(order, training.picture_focus, training.concept_focus, [one.category for one in taught.samples]),
        aid,
        null_space,
        average,
    )
    return work, state


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
    learnt = [text for several in captions(scan, data.trigger_word) for text in several]
    apart = unrelated_prompts(settings, learnt, model)
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


def _first_captions(cache: Cache) -> tuple[Preview, ...]:
    """What is previewed where nothing is asked for: their features are in the cache, so no encoder is needed."""
    sizes: dict[str, Size] = {}
    for sample in cache.samples:
        sizes.setdefault(sample.text, sample.size)  # of the main resolution, which comes first
    told = list(sizes.items())[:PREVIEWS]
    return tuple(Preview(text, cache.empty_text, size, seed) for seed, (text, size) in enumerate(told))


def _metadata(
    settings: TrainSettings, preset: str, cache: Cache, model: Path, base: str, explained: Sequence[float]
) -> dict[str, str]:
    """What a file browser or another program wants to know of the adapter. No dates: the same run, the same file.

    explained  R² of L, a and b where Lab was fitted
    """
    training, data = settings.training, settings.dataset
    label = Path(preset).stem  # of a file of one's own; where it lies is nobody else's business
    version = parse_toml((paths.PROJECT / "pyproject.toml").read_text(encoding="utf-8"), "pyproject.toml")
    kind = settings.lora.network_type
    lokr = {"ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps({"algo": "lokr"})}
    lab = {"zit.lab_r2": json.dumps([round(one, 4) for one in explained])} if explained else {}
    return {
        **(lokr if kind == "lokr" else {}),
        **lab,
        "modelspec.title": f"{cache.dataset.resolve().name} {label}".strip(),
        "modelspec.trigger_phrase": data.trigger_word,
        "modelspec.resolution": f"{cache.resolution}x{cache.resolution}",
        "modelspec.prediction_type": "flow",
        "ss_base_model_version": "z-image",
        "ss_sd_model_name": model.resolve().name,
        "ss_sd_model_hash": base,
        "ss_learning_rate": f"{training.learning_rate:g}",
        "ss_lr_scheduler": training.lr_scheduler,
        "ss_optimizer": training.optimizer,
        "ss_seed": f"{training.seed}",
        "ss_batch_size_per_device": f"{data.batch_size}",
        "ss_gradient_accumulation_steps": f"{training.gradient_accumulation_steps}",
        "ss_num_train_images": f"{len(cache.samples)}",
        "zit.version": str(version["project"]["version"]),
        "zit.preset": label,
        "zit.settings": json.dumps(dataclasses.asdict(settings)),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
