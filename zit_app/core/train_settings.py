"""Everything that decides a training, in the tables and under the key names of the AC-RF documents."""

import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zit_app.core import paths
from zit_app.core.errors import ZitError, did_you_mean
from zit_app.core.models import find_model
from zit_app.core.preview_lines import read_preview
from zit_app.core.settings import apply_set, describe, from_mapping, parse_toml, setting, to_toml
from zit_app.core.undistilled import best_protection

MOST_WAYS, WAYS_IN_ALL = 8, 200  # where the settings leave it open how many of the model's own ways are learnt on
# What accelerate reports to, and the name under which each is installed.
TRACKERS = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "trackio": "trackio",
    "clearml": "clearml",
    "comet_ml": "comet-ml",
    "aim": "aim",
    "dvclive": "dvclive",
}


@dataclass(frozen=True)
class AcrfSettings:
    """Which noise levels are visited and what is compared there (AC-RF report §2–§4A)."""

    turbo_steps: int = setting(
        8, "Steps the model will be run at: training visits exactly these nodes", minimum=1, maximum=50
    )
    shift: float = setting(3.0, "Shift of the sigma schedule, 3 for Z-Image", minimum=0.1, maximum=20.0)
    jitter_scale: float = setting(0.02, "Jitter around a node", unit="sigma", minimum=0.0, maximum=0.5)
    jitter_kind: str = setting(
        "uniform", "Jitter within ± its scale, or normal with it as deviation", choices=("uniform", "gaussian")
    )
    jitter_unit: str = setting(
        "sigma", "Jitter in sigma, or as a share of the gap to the nearest node", choices=("sigma", "gap")
    )
    sampler: str = setting(
        "mixture",
        "Where training draws its noise levels; mixture = anchors and mixture_with, keeps other step counts working",
        choices=("anchor", "uniform", "shift", "logit_normal", "shifted_sigmoid", "mixture"),
    )
    anchor_share: float = setting(0.5, "Share of anchors in the mixture", minimum=0.0, maximum=1.0)
    mixture_with: str = setting(
        "shift",
        "What the mixture draws when it draws no anchor",
        choices=("shift", "uniform", "logit_normal", "shifted_sigmoid"),
    )
    logit_mean: float = setting(
        0.0, "logit_normal and shifted_sigmoid: mean before the sigmoid", minimum=-5.0, maximum=5.0
    )
    logit_deviation: float = setting(
        1.0, "logit_normal and shifted_sigmoid: deviation before the sigmoid", minimum=0.01, maximum=5.0
    )
    node_focus: float = setting(
        0.0, "Draw anchors with a high loss more often, by their loss to this power; 0 = off", minimum=0.0, maximum=4.0
    )
    anchor_source: str = setting(
        "inference", "Nodes of inference, or the literal list of the AC-RF report", choices=("inference", "report")
    )
    snr_gamma: float = setting(0.0, "Min-SNR weighting, 5 in the report; 0 = off", minimum=0.0, maximum=100.0)
    loss_mode: str = setting(
        "standard", "What the loss looks at", choices=("standard", "frequency", "style", "unified")
    )
    base: str = setting(
        "mse",
        "Distance of the standard loss on the velocity; auto = charbonnier on the model's own ways, else mse",
        choices=("auto", "mse", "charbonnier", "l1", "huber"),
    )
    lambda_base: float = setting(1.0, "Weight of the base distance", minimum=0.0, maximum=10.0)
    lambda_cos: float = setting(
        0.0, "Weight of the direction (cosine) term, 0.1 in the report", minimum=0.0, maximum=10.0
    )
    lambda_fft: float = setting(0.0, "Weight of the spectrum (FFT) term, 0.1 in the report", minimum=0.0, maximum=10.0)
    alpha_hf: float = setting(1.0, "frequency: weight of fine detail", minimum=0.0, maximum=10.0)
    beta_lf: float = setting(0.2, "frequency: lock on coarse structure and light", minimum=0.0, maximum=10.0)
    lambda_struct: float = setting(1.0, "style: structure lock (SSIM), keeps faces", minimum=0.0, maximum=10.0)
    lambda_light: float = setting(0.5, "style: light curve (statistics of L)", minimum=0.0, maximum=10.0)
    lambda_color: float = setting(0.3, "style: colour mood (statistics of a and b)", minimum=0.0, maximum=10.0)
    lambda_tex: float = setting(0.5, "style: texture (fine detail of L)", minimum=0.0, maximum=10.0)
    pool_factor: int = setting(
        4, "Pooling that separates coarse from fine", unit="latent pixels", minimum=2, maximum=16
    )
    split: str = setting(
        "pool",
        "frequency and style: coarse and fine by pooling, or by a Fourier transform",
        choices=("pool", "fourier"),
    )
    lab: str = setting(
        "channels",
        "style: L, a and b are latent channels 0 to 3, or a linear map fitted on the data set's own pictures",
        choices=("channels", "fitted"),
    )
    lambda_gram: float = setting(
        0.0, "Weight of the style term on the clean estimate (Gram matrix), any loss mode", minimum=0.0, maximum=100.0
    )
    lambda_feat: float = setting(
        0.0, "Weight of the structure term on the clean estimate (self-similarity)", minimum=0.0, maximum=100.0
    )
    clean_sigma_max: float = setting(
        1.0,
        "Terms on the clean estimate act up to this noise level; above, plain MSE of the velocity takes their place",
        unit="sigma",
        minimum=0.0,
        maximum=1.0,
    )
    curvature: float = setting(
        0.0,
        "Weight of the bend of the model's own way between nodes; three forwards more, two of them without gradients",
        minimum=0.0,
        maximum=100.0,
    )
    curvature_every: int = setting(
        10, "The bend is measured in every so many batches", unit="batches", minimum=1, maximum=1000
    )
    curvature_start: float = setting(0.7, "Share of the training after which it counts", minimum=0.0, maximum=1.0)


@dataclass(frozen=True)
class LoraSettings:
    """Shape of the adapter."""

    network_dim: int = setting(16, "Rank of the LoRA", minimum=1, maximum=512)
    network_alpha: float = setting(
        16.0, "Alpha of the LoRA: its effect is scaled by alpha / rank", minimum=0.01, maximum=1024.0
    )
    targets: str = setting(
        "attention+feed_forward",
        "Layers that learn: q, k, v, out, and w1, w2, w3",
        choices=("attention+feed_forward", "attention"),
    )
    layers: str = setting("", "Main blocks that learn, numbers and ranges such as 10-19, 25; empty = all")
    network_type: str = setting(
        "lora",
        "lora: two thin matrices; dora: length and direction of the weights apart; lokr: Kronecker product",
        choices=("lora", "dora", "lokr"),
    )
    extra_targets: str = setting(
        "", "Further linear layers by the end of their name, with commas; what must stay frozen is refused"
    )
    rslora: bool = setting(False, "lora and dora: scale by alpha / sqrt(rank), so that high ranks learn as fast")
    lokr_factor: int = setting(
        8, "lokr: size of the small factor, or the next divisor of a width below", minimum=2, maximum=256
    )
    lokr_full_rank: bool = setting(True, "lokr: the large factor as one whole matrix instead of two of the rank")
    start_from: str = setting("", "LoRA to go on from, by name or file, of this rank or less; empty = a new one")

    def learning_blocks(self, count: int) -> list[int]:
        """Numbers of the main blocks that learn, of a model's ``count``.

        Raises ZitError for what is no number or range, and for blocks that the model does not have.
        """
        numbers: set[int] = set()
        for part in filter(None, (one.strip() for one in self.layers.split(","))):
            match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", part)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if not first <= last < count:
                raise ZitError(
                    f"lora.layers: {part!r} names none of this model's main blocks, 0 to {count - 1}.",
                    "Write numbers and ranges with commas between them, such as 10-19, 25, or leave it empty for all.",
                )
            numbers.update(range(first, last + 1))
        return sorted(numbers) or list(range(count))


@dataclass(frozen=True)
class TrainingSettings:
    """Optimisation, length, checkpoints."""

    optimizer: str = setting(
        "auto",
        "auto = adamw8bit on a card, else adamw; prodigy finds its own rate, with learning_rate 1",
        choices=("auto", "adamw", "adamw8bit", "prodigy", "adafactor"),
    )
    learning_rate: float = setting(1e-4, "Learning rate after warm-up", minimum=0.0, maximum=1.0)
    minimum_learning_rate: float = setting(1e-6, "Learning rate that the cosine ends at", minimum=0.0, maximum=1.0)
    lr_scheduler: str = setting(
        "cosine_with_restarts",
        "Course of the learning rate",
        choices=("cosine_with_restarts", "cosine", "constant", "linear"),
    )
    lr_warmup_steps: int = setting(
        100, "Linear warm-up, at most a tenth of the training", unit="optimizer steps", minimum=0
    )
    lr_cycles: int = setting(1, "Restarts of cosine_with_restarts", minimum=1, maximum=100)
    weight_decay: float = setting(0.0, "Weight decay of the optimizer", minimum=0.0, maximum=1.0)
    max_grad_norm: float = setting(1.0, "Gradients are clipped to this norm; 0 = never", minimum=0.0)
    gradient_accumulation_steps: int = setting(4, "Batches a step of the optimizer is made of", minimum=1, maximum=1024)
    num_train_epochs: int = setting(10, "Times every picture is seen, unless max_steps says otherwise", minimum=1)
    max_steps: int = setting(0, "Length of the training; 0 = by num_train_epochs", unit="optimizer steps", minimum=0)
    save_every: int = setting(0, "Checkpoint interval; 0 = only at the end", unit="optimizer steps", minimum=0)
    sample_every: int = setting(
        0, "Interval of previews, the first before anything is learnt; 0 = none", unit="optimizer steps", minimum=0
    )
    sample_prompts: tuple[str, ...] = setting(
        (),
        "What previews show; --w, --h, --d (seed), --s (steps), --n (not) may follow; none = the first two captions",
    )
    keep_last: int = setting(3, "Checkpoints kept, the newest", minimum=1)
    keep_best: bool = setting(True, "Keep the adapter with the lowest loss on held-out pictures as best.safetensors")
    ema_decay: float = setting(
        0.0, "Save and preview a moving average of the weights, such as 0.99; 0 = off", minimum=0.0, maximum=0.9999
    )
    held_out: float = setting(
        0.05,
        "Share of the pictures kept aside to measure the loss on; sets below 40 train on all",
        minimum=0.0,
        maximum=0.5,
    )
    health_every: int = setting(
        250,
        "Interval of the health curves on unrelated prompts, and of the held-out loss; 0 = none",
        unit="optimizer steps",
        minimum=0,
    )
    seed: int = setting(0, "Seed of weights, noise and data order", minimum=0, maximum=2**32 - 1)
    compute: str = setting(
        "auto", "Number format of the computation; auto = bf16 on a card", choices=("auto", "bf16", "fp32")
    )
    caption_dropout: float = setting(0.05, "Share of samples trained with an empty caption", minimum=0.0, maximum=1.0)
    picture_focus: float = setting(
        0.0,
        "Share of every batch swapped for pictures whose loss stays high; 0 = all pictures equally often",
        minimum=0.0,
        maximum=0.9,
    )
    concept_focus: float = setting(
        0.0,
        "Share of every batch swapped for concepts (folders of the data set) whose held-out loss stays high; 0 = none",
        minimum=0.0,
        maximum=0.9,
    )
    protection: str = setting(
        "none",
        "What keeps few-step pictures as they are: staying near the untrained model, a training adapter, both; or "
        "learning on the undistilled model's weights, alone or staying near them; or learning where unrelated prompts "
        "are hardly disturbed (null_space); or on the ways on which the model draws the captions itself, redirected to "
        "the pictures (own_ways); auto = the best that is here",
        choices=("none", "auto", "tether", "adapter", "both", "base", "base+tether", "null_space", "own_ways"),
    )
    null_space: float = setting(
        0.75,
        "null_space: share of the directions used by unrelated prompts that is held; more holds harder, learns slower",
        minimum=0.01,
        maximum=0.99,
    )
    tether: float = setting(
        0.5, "Weight of staying near the untrained model at the nodes (Huber 0.08)", minimum=0.0, maximum=100.0
    )
    tether_pictures: bool = setting(
        True, "Tether on the pictures, too, at the nodes; off = unrelated prompts alone hold, and more is learnt"
    )
    tether_unrelated: float = setting(
        0.25,
        "Tether on prompts unrelated to the pictures, too: states a picture, one forward each",
        minimum=0.0,
        maximum=4.0,
    )
    ways: int = setting(
        0,
        "own_ways: on how many drawings of its caption a picture is learnt; each costs a picture and 8 MB (1024²); "
        "0 = 8 where pictures are few, fewer of many, about 200 in all",
        minimum=0,
        maximum=256,
    )
    protection_adapter: str = setting(
        "", "File of the training adapter: on while training, taken off for everything else"
    )
    protection_base: str = setting(
        "", "Undistilled model to learn on, a name or a folder; empty = base for turbo, pocket-base for pocket"
    )
    replay: float = setting(
        0.0,
        "Pictures that the untrained model drew from unrelated prompts, mixed in: so many a picture; 0 = off",
        minimum=0.0,
        maximum=4.0,
    )
    unrelated_prompts: str = setting("", "Text file of prompts that have nothing to do with the pictures; empty = ours")
    unrelated_count: int = setting(
        16,
        "How many of them tether, replay and null_space know: more hold better, each costs a picture and 16 MB (1024²)",
        minimum=1,
        maximum=1024,
    )
    gradient_checkpointing: bool = setting(False, "Recompute activations in the backward pass: less memory, slower")
    cards: int = setting(
        1, "Graphics cards that train together, each on its share of the pictures; 0 = all", minimum=0, maximum=64
    )
    tracker: str = setting(
        "none", "Other program that gets the figures of every step, through accelerate", choices=("none", *TRACKERS)
    )

    @property
    def tethered(self) -> bool:
        """Whether the trained model is held near the untrained one."""
        return self.protection in ("tether", "both", "base+tether", "own_ways") and self.tether > 0

    @property
    def tethers_pictures(self) -> bool:
        """Whether on the pictures, too; on the model's own ways to them it is redirected instead."""
        return self.tethered and self.tether_pictures and self.protection != "own_ways"

    def ways_to_each(self, pictures: int) -> int:
        """How many of the model's own ways there are to each of so many pictures."""
        return self.ways or max(1, min(MOST_WAYS, WAYS_IN_ALL // pictures))

    @property
    def asks_unrelated(self) -> bool:
        """Whether the training, and not only its health curves, needs prompts that are not about the pictures."""
        return (self.tethered and self.tether_unrelated > 0) or self.replay > 0 or self.protection == "null_space"

    @property
    def on_undistilled(self) -> bool:
        """Whether the weights that learn are not those that will be used."""
        return self.protection in ("base", "base+tether")


@dataclass(frozen=True)
class DatasetSettings:
    """How pictures and captions are read."""

    resolution: int = setting(
        0, "Side of a square of the same area; 0 = the model's own", unit="pixels", minimum=0, maximum=4096
    )
    further_resolutions: tuple[int, ...] = setting(
        (),
        "Pictures are learnt at these, too, as far as they are large enough: the LoRA then serves more sizes",
        unit="pixels",
        minimum=16,
        maximum=4096,
    )
    batch_size: int = setting(1, "Pictures a forward pass", minimum=1, maximum=256)
    enable_bucket: bool = setting(True, "Keep aspect ratios by buckets instead of cropping to a square")
    max_sequence_length: int = setting(512, "Longest caption", unit="tokens", minimum=16, maximum=1024)
    repeats: int = setting(1, "Times a picture counts in an epoch", minimum=1, maximum=1000)
    trigger_word: str = setting("", "Word put before every caption, to call the adapter by")
    mask_loss: bool = setting(
        False, "Learn from inside the masks of the data set (its dataset.toml names their folder)"
    )
    mask_outside: float = setting(0.1, "How much an error outside of the mask counts", minimum=0.0, maximum=1.0)
    drawn: int = setting(
        0,
        "Train on so many pictures that the model draws itself from prompts, at fixed seeds; 0 = on the data set",
        unit="pictures",
        minimum=0,
        maximum=100000,
    )
    own_pictures: int = setting(
        0,
        "Learn so many pictures, too, that the model draws itself, put into the data set's colours: a flat art then "
        "reaches things that the set does not show; each costs a drawing; 0 = the data set alone",
        unit="pictures",
        minimum=0,
        maximum=10000,
    )
    own_colors: int = setting(
        12,
        "Of own pictures: how many of the data set's most frequent colours they may have; 0 = left as they are drawn",
        minimum=0,
        maximum=256,
    )
    own_prompts: str = setting("", "Of own pictures: text file of prompts, one a line; empty = ours")

    def sides(self, pixels: int) -> tuple[int, ...]:
        """All resolutions once, the main one first; ``pixels`` is what a resolution of 0 stands for."""
        return tuple(dict.fromkeys((self.resolution or pixels, *self.further_resolutions)))


@dataclass(frozen=True)
class TrainSettings:
    """All tables of a training."""

    acrf: AcrfSettings = AcrfSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    dataset: DatasetSettings = DatasetSettings()


@dataclass(frozen=True)
class TrainJob:
    """What a training run is about; the table `[job]` of its `settings.toml`."""

    model: str = setting("", "Name or folder of the model")
    dataset: str = setting("", "Folder of pictures and captions")
    preset: str = setting("", "Preset or file that the settings came from")
    prompts: str = setting("", "Text file of prompts, for a training that draws its own pictures")


def load_train_settings(path: Path, assignments: Sequence[str] = ()) -> TrainSettings:
    """Read a preset, an `acrf_config.toml` or a run's `settings.toml`; `table.key=value` assignments come on top.

    Raises ZitError for a missing file, invalid TOML, unknown tables and keys, and values out of range.
    """
    tables = _read_tables(path)
    tables.pop("job", None)
    placed = _in_their_tables(tables, path.name)
    for assignment in assignments:
        for name, keys in _in_their_tables(apply_set({}, assignment), "--set").items():
            placed[name] |= keys
    return _settings_from(placed, path.name)


def load_preset(name: str, assignments: Sequence[str] = ()) -> TrainSettings:
    """The settings of `presets/NAME.toml`; raises ZitError naming the nearest preset for an unknown one."""
    known = preset_names()
    if name not in known:
        raise ZitError(f"There is no preset {name!r}.", did_you_mean(name, known))
    return load_train_settings(paths.presets() / f"{name}.toml", assignments)


def preset_names() -> list[str]:
    """Names of the presets that ship with the project."""
    return sorted(file.stem for file in paths.presets().glob("*.toml"))


def job_toml(settings: TrainSettings, job: TrainJob) -> str:
    """The frozen input of a training run, its `settings.toml`: the tables of the settings and `[job]`.

    What depends on the models that are here is decided now, so that a run goes on as it began whatever comes later.
    Raises ZitError when that needs the model and there is none of that name, and for previews that say nothing.
    """
    for line in settings.training.sample_prompts:
        read_preview(line)
    if "auto" in (settings.training.protection, settings.acrf.base):
        settings = settled(settings, find_model(job.model))
    return to_toml(_JobFile(job)) + "\n" + to_toml(settings)


def settled(settings: TrainSettings, model: Path) -> TrainSettings:
    """The settings with the protection and the base distance that ``auto`` stands for with the model in this folder."""
    training, acrf = settings.training, settings.acrf
    if training.protection == "auto":
        protection = best_protection(model, training.protection_base)
        if protection == "own_ways" and settings.dataset.drawn:  # its ways to these lead where they led before
            protection = "none"
        training = replace(training, protection=protection)
    if acrf.base == "auto":
        acrf = replace(acrf, base="charbonnier" if training.protection == "own_ways" else "mse")
    return replace(settings, training=training, acrf=acrf)


def load_job(path: Path) -> tuple[TrainSettings, TrainJob]:
    """Read back what `job_toml` wrote."""
    tables = _read_tables(path)
    job = from_mapping(TrainJob, tables.pop("job", {}), f"{path.name} [job]")
    return _settings_from(_in_their_tables(tables, path.name), path.name), job


@dataclass(frozen=True)
class _JobFile:
    job: TrainJob


def _read_tables(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ZitError(f"There is no settings file {path}.", "Check the path, or use --preset NAME.") from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise ZitError(f"{path} is not a settings file.", "Give a TOML file.") from error
    return parse_toml(text, path.name)


def _settings_from(placed: Mapping[str, Mapping[str, Any]], where: str) -> TrainSettings:
    return TrainSettings(
        **{name: from_mapping(kind, placed[name], f"{where} [{name}]") for name, kind in _tables().items()}
    )


def _in_their_tables(tables: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Move keys to the table they belong to: the AC-RF documents write `loss_mode` and `snr_gamma` under [training].

    Key names are unique over all tables, so a key says itself where it belongs. Raises ZitError for what is unknown.
    """
    belongs = {info.name: name for name, kind in _tables().items() for info in describe(kind)}
    placed: dict[str, dict[str, Any]] = {name: {} for name in _tables()}
    for name, table in tables.items():
        if name not in placed:
            raise ZitError(f"{where}: unknown table [{name}].", did_you_mean(name, placed))
        if not isinstance(table, Mapping):
            raise ZitError(f"{where}: [{name}] is not a table.", "Write keys under a table such as [training].")
        for key, value in table.items():
            if key not in belongs:
                raise ZitError(f"{where} [{name}]: unknown key {key!r}.", did_you_mean(key, belongs))
            target = placed[belongs[key]]
            if target.get(key, value) != value:
                raise ZitError(f"{where}: {key} is given twice, in [{belongs[key]}] and elsewhere.", "Remove one.")
            target[key] = value
    return placed


def _tables() -> dict[str, type]:
    return typing.get_type_hints(TrainSettings)
