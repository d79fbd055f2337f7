"""Parts of a model that stay loaded from one run to the next.

One model at a time. The transformer and the VAE stay; the text encoder of a full model (8 GB) leaves the card as soon
as it has read the prompts, but what it read is kept, so that the same prompt with another seed needs no encoder.
"""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

from zit_app.core.progress import Progress
from zit_app.core.single_files import SOURCE
from zit_app.model.latents import colour_map
from zit_app.model.loading import default_device, load_text_encoder, load_transformer, load_vae
from zit_app.model.precision import Formats
from zit_app.model.text import encode_prompts

SMALL_ENCODER = 1 << 30  # bytes on the disk; one below it stays, too
MOST_PROMPTS = 256  # at up to 2.6 MB each

Features = dict[str, torch.Tensor]


class Warm:
    """Loaded parts of one model in one number format."""

    def __init__(self) -> None:
        self._key: object = None
        self._parts: dict[str, Any] = {}
        self._read: dict[tuple[str, int], torch.Tensor] = {}

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        self._key = None
        self._parts.clear()
        self._read.clear()
        _collect()

    def features(
        self, folder: Path, formats: Formats, prompts: Sequence[str], max_length: int, progress: Progress
    ) -> Features:
        """Text features of each prompt, on the CPU."""
        self._turn_to(folder, formats)
        if len(self._read) > MOST_PROMPTS:
            self._read.clear()
        missing = [prompt for prompt in prompts if (prompt, max_length) not in self._read]
        if missing:
            progress.stage("Reading the prompts")
            size = _weight_bytes(folder / "text_encoder")
            self._make_room(size)
            tokenizer, encoder = self._parts.get("text_encoder") or load_text_encoder(
                folder, default_device(), formats.text_dtype, formats.text_stored
            )
            for prompt in missing:
                self._read[prompt, max_length] = encode_prompts(tokenizer, encoder, [prompt], max_length)[0].cpu()
            if size < SMALL_ENCODER:
                self._parts["text_encoder"] = (tokenizer, encoder)
            del tokenizer, encoder
            _collect()
        return {prompt: self._read[prompt, max_length] for prompt in prompts}

    def drawing(
        self, folder: Path, formats: Formats, progress: Progress
    ) -> tuple[ZImageTransformer2DModel, AutoencoderKL]:
        """Transformer and VAE on the device."""
        self._turn_to(folder, formats)
        if "transformer" not in self._parts:
            progress.stage("Loading the model")
            device = default_device()
            self._parts["transformer"] = load_transformer(folder, device, formats.dtype, formats.stored)
            self._parts["vae"] = load_vae(folder, device, formats.dtype)
        return self._parts["transformer"], self._parts["vae"]

    def colours(self) -> torch.Tensor:
        """The colour map of the VAE that `drawing` loaded."""
        if "colours" not in self._parts:
            self._parts["colours"] = colour_map(self._parts["vae"])
        found: torch.Tensor = self._parts["colours"]
        return found

    def _turn_to(self, folder: Path, formats: Formats) -> None:
        """Drop another model, another format or the same model with changed files."""
        files = sorted([*folder.glob("*/*.safetensors"), *folder.glob(f"*/{SOURCE}")])
        key = ([(str(file), file.stat().st_mtime_ns) for file in files], formats)
        if key != self._key:
            self.clear()
            self._key = key

    def _make_room(self, size: int) -> None:
        """A 16 GB card holds the transformer or the text encoder, not both."""
        device = default_device()
        if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < 1.1 * size:
            self._parts.clear()
            _collect()


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _collect() -> None:
    gc.collect()
    torch.cuda.empty_cache()
