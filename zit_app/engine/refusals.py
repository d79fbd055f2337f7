"""Settings that contradict each other, the data set or the model: refused before anything is drawn or loaded."""

from pathlib import Path

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

from zit_app.core.errors import ZitError
from zit_app.core.files import read_json
from zit_app.core.flavours import check_size, read_limits
from zit_app.core.models import read_flavour
from zit_app.core.preview_lines import read_preview
from zit_app.core.train_settings import TrainSettings
from zit_app.data.options import read_options
from zit_app.data.prompts import own_prompts, read_prompts, shipped_prompts
from zit_app.engine.aids import training_adapter, undistilled
from zit_app.engine.beginning import starting_adapter
from zit_app.engine.cache import Cache
from zit_app.engine.optimizers import check_optimizer
from zit_app.model.adapter_stack import check_fit
from zit_app.model.adapters import check_targets

VERIFIED = 4000  # pictures: a minute at most; of larger sets the others are verified when they come up


def refuse_contradictions(settings: TrainSettings, dataset: Path, model: Path, device: torch.device) -> None:
    """Raises ZitError for the first thing that cannot work. Only heads and configurations are read."""
    acrf, training, lora = settings.acrf, settings.training, settings.lora
    if acrf.curvature and acrf.turbo_steps < 3:
        raise ZitError(
            "acrf.curvature needs three nodes.", "Set acrf.turbo_steps to 3 or more, or acrf.curvature to 0."
        )
    if training.picture_focus + training.concept_focus > 1:
        raise ZitError("training.picture_focus and concept_focus add up to more than 1.", "Lower one of them.")
    if training.protection == "null_space" and lora.network_type != "lora":
        raise ZitError(
            f"training.protection = null_space works with a LoRA only, not with {lora.network_type}.",
            "Set lora.network_type to lora, or training.protection to tether.",
        )
    tethered = training.tethered and training.protection != "own_ways"  # which holds by itself
    if tethered and not training.tether_pictures and not training.tether_unrelated:
        raise ZitError(
            "The tether holds neither the pictures nor unrelated prompts.",
            "Switch training.tether_pictures on, or set training.tether_unrelated to more than 0.",
        )
    check_optimizer(training, device)
    refuse_own_pictures(settings, dataset, model)
    if training.protection == "own_ways":
        refuse_own_ways(settings, dataset, model)
    if settings.dataset.mask_loss and dataset.is_dir():
        named_masks(dataset)
    with torch.device("meta"):
        blank = ZImageTransformer2DModel.from_config(read_json(model / "transformer" / "config.json"))
    blocks = lora.learning_blocks(len(blank.layers))
    check_targets(blank, lora.targets, lora.extra_targets, lora.network_type, lora.lokr_factor, blocks)
    guard = training_adapter(settings)
    if guard is not None:
        check_fit(blank, guard)
    starting_adapter(lora, blank)
    undistilled(settings, model)
    limits = read_limits(model)
    for line in map(read_preview, training.sample_prompts):
        check_size((line.width, line.height), limits)


def refuse_own_pictures(settings: TrainSettings, dataset: Path, model: Path) -> None:
    """Raises ZitError for own pictures beside what they cannot be beside, and for prompts that cannot be read or serve
    what is learnt and what is held alike."""
    data, training = settings.dataset, settings.training
    if not data.own_pictures:
        return
    if data.drawn:
        raise ZitError(
            "dataset.drawn learns the model's own pictures alone, dataset.own_pictures learns them beside a data set.",
            "Set one of them to 0.",
        )
    if data.mask_loss:
        raise ZitError(
            "dataset.own_pictures have no masks, and dataset.mask_loss needs one of every picture.",
            "Set own_pictures to 0, or switch mask_loss off.",
        )
    pixels = read_flavour(model).pixels
    learnt, held = own_prompts(pixels, data.own_prompts), shipped_prompts(pixels, training.unrelated_prompts)
    read_prompts(learnt)
    told_apart = data.trigger_word or (dataset.is_dir() and read_options(dataset)[0].trigger_word)
    if training.asks_unrelated and not told_apart and held.resolve() == learnt.resolve():
        raise ZitError(
            "Own pictures are drawn from the very prompts that are to stay as they are.",
            "Set dataset.trigger_word, which is put before them, or name another file in dataset.own_prompts.",
        )


def refuse_own_ways(settings: TrainSettings, dataset: Path, model: Path) -> None:
    """Raises ZitError for a model that is not distilled, and where own pictures would not be what a way leads to."""
    data = settings.dataset
    if read_flavour(model).guidance > 0:
        raise ZitError(
            "training.protection = own_ways is for few-step models, and this one is drawn with guidance.",
            "Set protection to none: an undistilled model has no few-step pictures to lose.",
        )
    if not (data.own_pictures or data.drawn):
        return
    if data.drawn:
        raise ZitError(
            "On the model's own ways to pictures that it drew itself there is nothing to learn.",
            "Set dataset.drawn to 0, or training.protection to another one.",
        )
    if data.further_resolutions or (dataset.is_dir() and read_options(dataset)[0].flip):
        raise ZitError(
            "Own pictures are drawn once: mirrored or at further resolutions, no way of the model's leads to them.",
            "Switch flip off in its dataset.toml and empty dataset.further_resolutions, or set own_pictures to 0.",
        )


def refuse_data(settings: TrainSettings, cache: Cache) -> None:
    """Raises ZitError for cached values that are no numbers, and for a focus on concepts where there is one."""
    for number, sample in enumerate({sample.latents: sample for sample in cache.samples}.values()):
        if number < VERIFIED:
            cache.mean(sample)
            cache.features(sample.text)
    if settings.training.concept_focus and len({sample.category for sample in cache.samples}) < 2:
        raise ZitError(
            f"training.concept_focus needs several concepts, and all pictures in {cache.dataset} are of one.",
            "Put the pictures of each into a folder of their own, or set concept_focus to 0.",
        )


def named_masks(dataset: Path) -> Path:
    """The folder of the data set's masks. Raises ZitError when it names none."""
    named = read_options(dataset)[0].masks
    if not named:
        raise ZitError(
            f"dataset.mask_loss is on, but {dataset} has no masks.",
            "Name their folder in its dataset.toml, as masks under [dataset], or switch mask_loss off.",
        )
    return dataset / named
