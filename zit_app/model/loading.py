"""The parts of a model, loaded one by one: whoever needs the text encoder's memory back drops it and goes on.

A transformer may come as a single file of another layout, and it and the text encoder may be kept in fewer bits
(`precision.py`). What took long to make is kept under `<home>/stored`, by the hash of what it was made from, so that
the next start reads only the small file.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model, Qwen3RotaryEmbedding
from transformers.utils import logging as transformers_logging

from zit_app.core import paths
from zit_app.core.errors import ZitError
from zit_app.core.files import content_hash, read_json
from zit_app.core.models import (
    Flavour,
    Limits,
    ModelInfo,
    check_folder,
    find_model,
    list_models,
    read_flavour,
    read_limits,
    weight_files,
)
from zit_app.core.single_files import prefix_of
from zit_app.model.checkpoints import load_encoder_file, load_single_file, load_vae_file
from zit_app.model.device import default_device, default_dtype
from zit_app.model.precision import check_precision, kept_as, load_stored, save_stored, store_blocks
from zit_app.model.rotation import to_card

__all__ = [
    "Flavour",
    "Limits",
    "ModelInfo",
    "check_folder",
    "default_device",
    "default_dtype",
    "find_model",
    "list_models",
    "load_sight",
    "load_text_encoder",
    "load_transformer",
    "load_vae",
    "read_flavour",
    "read_limits",
]

Model = TypeVar("Model", bound=torch.nn.Module)
_STORED_VERSION = 1  # of the packing: another one makes the kept copies anew


def load_transformer(
    folder: Path, device: torch.device, dtype: torch.dtype, stored: str = "", away: int = 0
) -> ZImageTransformer2DModel:
    """The frozen diffusion transformer of a model folder, its block linears kept as one of `precision.STORED`.

    ``away`` of its main blocks come to ``device`` only for their turn (`rotation.py`); such a model only draws.

    Raises ZitError when a weight file is cut short, unknown or gone, and for formats that this machine lacks.
    """
    part = folder / "transformer"
    files = weight_files(part)
    torch.set_flush_denormal(True)  # tiny numbers slow a CPU down several times and change nothing that is seen

    def full() -> ZImageTransformer2DModel:
        if files[0].parent == part:
            return ZImageTransformer2DModel.from_pretrained(part, dtype=dtype, use_safetensors=True)
        return load_single_file(files[0], read_json(part / "config.json"), dtype)

    def blank() -> ZImageTransformer2DModel:
        with torch.device("meta"):
            return ZImageTransformer2DModel.from_config(read_json(part / "config.json")).to(dtype)

    model = _stored(files, part / "config.json", full, blank, device, dtype, stored, away) if stored else full()
    to_card(model, list(model.layers), device, away)
    return model.eval().requires_grad_(False)


def load_vae(folder: Path, device: torch.device, dtype: torch.dtype) -> AutoencoderKL:
    """The frozen autoencoder of a model folder."""
    part = folder / "vae"
    files = weight_files(part)
    if files[0].parent == part:
        vae = AutoencoderKL.from_pretrained(part, dtype=dtype, use_safetensors=True)
    else:
        vae = load_vae_file(files[0], prefix_of(part), read_json(part / "config.json"), dtype)
    return vae.to(device).eval().requires_grad_(False)


def load_sight(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """The picture processor and the frozen SigLIP of an Omni's folder.

    Raises ZitError when they are damaged or of another kind.
    """
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
    from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionModel

    part = folder / "siglip"
    weight_files(part)
    try:
        processor = Siglip2ImageProcessorPil.from_pretrained(folder / "siglip_processor")
        siglip: Any = Siglip2VisionModel.from_pretrained(part, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        what = f"{part} holds no SigLIP 2 that can be loaded."
        raise ZitError(what, "Copy or download it again.", "weights") from error
    return processor, siglip.to(device).eval().requires_grad_(False)


def load_text_encoder(
    folder: Path, device: torch.device, dtype: torch.dtype, stored: str = "", away: int = 0
) -> tuple[Qwen2Tokenizer, Qwen3Model]:
    """The tokenizer and the frozen text encoder of a model folder, its block linears kept as ``stored``.

    Z-Image reads ``hidden_states[-2]``: the last layer and the final norm are left out, and what comes out is that.
    ``away`` of its layers come to ``device`` only for their turn.
    """
    part = folder / "text_encoder"
    files = weight_files(part)
    transformers_logging.disable_progress_bar()
    tokenizer = Qwen2Tokenizer.from_pretrained(folder / "tokenizer")

    def full() -> Qwen3Model:
        if files[0].parent == part:
            return Qwen3Model.from_pretrained(part, dtype=dtype, use_safetensors=True)
        model = blank()
        load_encoder_file(files[0], prefix_of(part), model, dtype)
        return model

    def blank() -> Qwen3Model:
        config = Qwen3Config.from_pretrained(part)
        with torch.device("meta"):
            model = Qwen3Model(config)
        torch.nn.Module.to(model, dtype)
        model.rotary_emb = Qwen3RotaryEmbedding(config)  # its frequencies are computed, not saved
        return model

    encoder = _stored(files, part / "config.json", full, blank, device, dtype, stored, away) if stored else full()
    encoder.layers = encoder.layers[:-1]
    encoder.norm = torch.nn.Identity()  # type: ignore[assignment]
    to_card(encoder, list(encoder.layers), device, min(away, len(encoder.layers)))
    return tokenizer, encoder.eval().requires_grad_(False)


def _stored(
    files: list[Path],
    config: Path,
    full: Callable[[], Model],
    blank: Callable[[], Model],
    device: torch.device,
    dtype: torch.dtype,
    kind: str,
    away: int,
) -> Model:
    """A model with packed blocks: from the copy that was kept, else packed now, and kept.

    It lies on ``device``, or in memory when some of it stays there.
    """
    place = torch.device("cpu") if away else device
    check_precision(kind, device)
    contents = [content_hash(file) for file in [config, *files]]
    key = hashlib.sha256(json.dumps([*contents, str(dtype), kept_as(kind), _STORED_VERSION]).encode()).hexdigest()[:32]
    kept = paths.home() / "stored" / f"{key}.safetensors"
    if kept.is_file():
        model = blank()
        load_stored(kept, model, kind, place)
        return model
    model = full()
    store_blocks(model, kind, device, place)
    with contextlib.suppress(ZitError):  # a full disk costs time at the next start, no more
        save_stored(kept, model, kind)
    return model
