"""Where a single-file transformer gets its other parts from: the file itself when it is an all-in-one, a model that is
here, or ComfyUI's folders around it (`text_encoders`, `clip`, `vae`).

Configurations are made from shapes; what shapes do not tell is the same in every Z-Image (Z-Image facts, "The model").
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zit_app.core.checkpoints import Checkpoint, Shapes, shapes_of
from zit_app.core.errors import ZitError
from zit_app.core.files import read_json

_ENCODER, _VAE = "embed_tokens.weight", "decoder.conv_in.weight"
_FOLDERS = {"text_encoder": ("text_encoders", "clip"), "vae": ("vae",)}
_LEVELS = 3  # how far above the file ComfyUI's `models` folder may be
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": False,
}


@dataclass(frozen=True)
class PartFile:
    """A part within a file: its keys begin with ``prefix``."""

    path: Path
    prefix: str
    config: dict[str, Any]


@dataclass(frozen=True)
class OtherParts:
    """A folder of diffusers or a file for each; ``donor`` is the model that lent the text encoder, if one did."""

    text_encoder: Path | PartFile
    vae: Path | PartFile
    tokenizer: Path
    donor: Path | None


def other_parts(found: Checkpoint, donors: Iterable[Path]) -> OtherParts:
    """The parts that fit a transformer: captions and latents as wide as it reads them.

    Raises ZitError naming what is missing and how to get it.
    """
    folders = list(donors)
    encoder = _own(found, "text_encoder") or _lent(found, folders, "text_encoder") or _near(found, "text_encoder")
    vae = _own(found, "vae") or _lent(found, folders, "vae") or _near(found, "vae")
    missing = [name for name, part in (("text encoder", encoder), ("VAE", vae)) if part is None]
    if encoder is None or vae is None:
        raise ZitError(
            f"{found.path.name} holds no {' and no '.join(missing)}, and none that fits is on this machine.",
            "Get them with: zit models download turbo --without transformer.",
        )
    words = encoder.config["vocab_size"] if isinstance(encoder, PartFile) else _config(encoder)["vocab_size"]
    tokenizer = next((folder / "tokenizer" for folder in folders if _speaks(folder, int(words))), None)
    if tokenizer is None:
        raise ZitError(
            f"The tokenizer for {found.path.name} is not on this machine.",
            "Get it (11 MB): zit models download turbo --without transformer --without text_encoder --without vae.",
        )
    return OtherParts(encoder, vae, tokenizer, None if isinstance(encoder, PartFile) else encoder.parent)


def _own(found: Checkpoint, part: str) -> PartFile | None:
    """The part inside an all-in-one file."""
    return _part_in(found.path, found, part) if found.others else None


def _lent(found: Checkpoint, folders: Iterable[Path], part: str) -> Path | None:
    """The part of a model folder, of one that is of the same family: 16 latent channels alone have many VAEs."""
    reads = _width(found, "text_encoder")[1]
    kin = [one for one in folders if _config(one / "text_encoder").get("hidden_size", reads) == reads]
    key, width = _width(found, part)
    return next((folder / part for folder in kin if _config(folder / part).get(key) == width), None)


def _near(found: Checkpoint, part: str) -> PartFile | None:
    """The part in ComfyUI's folders."""
    for file in _neighbours(found.path, _FOLDERS[part]):
        try:
            inside = _part_in(file, found, part)
        except ZitError:  # somebody else's damaged file is none of our business
            continue
        if inside is not None:
            return inside
    return None


def _neighbours(file: Path, names: tuple[str, ...]) -> Iterator[Path]:
    for above in file.parents[:_LEVELS]:
        for name in names:
            yield from sorted((above / name).glob("*.safetensors"))


def _width(found: Checkpoint, part: str) -> tuple[str, int]:
    if part == "vae":
        return "latent_channels", int(found.config["in_channels"])
    return "hidden_size", int(found.config["cap_feat_dim"])


def _part_in(file: Path, found: Checkpoint, part: str) -> PartFile | None:
    sign = _ENCODER if part == "text_encoder" else _VAE
    shapes = shapes_of(file)
    for name in shapes:
        if name.endswith(sign) and not name.startswith("encoder."):
            prefix = name.removesuffix(sign)
            own = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
            config = (_encoder_config if part == "text_encoder" else _vae_config)(own)
            key, width = _width(found, part)
            if config is not None and config[key] == width:
                return PartFile(file, prefix, config)
    return None


def _encoder_config(shapes: Shapes) -> dict[str, Any] | None:
    """Of a Qwen3; None for another language model."""
    first = "layers.0.self_attn."
    if f"{first}q_norm.weight" not in shapes:
        return None
    head = shapes[f"{first}q_norm.weight"][0]
    return {
        "architectures": ["Qwen3Model"],
        "model_type": "qwen3",
        "vocab_size": shapes[_ENCODER][0],
        "hidden_size": shapes[_ENCODER][1],
        "intermediate_size": shapes["layers.0.mlp.gate_proj.weight"][0],
        "num_hidden_layers": len({name.split(".")[1] for name in shapes if name.startswith("layers.")}),
        "num_attention_heads": shapes[f"{first}q_proj.weight"][0] // head,
        "num_key_value_heads": shapes[f"{first}k_proj.weight"][0] // head,
        "head_dim": head,
        "hidden_act": "silu",
        "attention_bias": False,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    }


def _vae_config(shapes: Shapes) -> dict[str, Any] | None:
    """Of an autoencoder in the original layout; None for one of another build."""
    levels = len({name.split(".")[2] for name in shapes if name.startswith("encoder.down.")})
    if not levels or shapes[_VAE][1:] == () or "quant_conv.weight" in shapes:
        return None
    channels = [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)]
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": channels,
        "layers_per_block": len({n.split(".")[4] for n in shapes if n.startswith("encoder.down.0.block.")}),
        "latent_channels": shapes[_VAE][1],
        "norm_num_groups": math.gcd(32, *channels),
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in shapes,
        "sample_size": 1024,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "force_upcast": True,
    }


def _speaks(folder: Path, words: int) -> bool:
    """Whether a folder has a tokenizer for an encoder of so many words (a few of which are often not in use)."""
    file = folder / "tokenizer" / "tokenizer.json"
    if not file.is_file():
        return False
    given = read_json(file)
    own = len(given["model"]["vocab"]) + sum(one["id"] >= len(given["model"]["vocab"]) for one in given["added_tokens"])
    return 0.9 * words <= own <= words


def _config(part: Path) -> dict[str, Any]:
    file = part / "config.json"
    return dict(read_json(file)) if file.is_file() else {}
