"""Parts of a model that stay loaded from one run to the next, laid out by the memory plan (`core/memory.py`).

One model at a time. What the text encoder has read is kept by its own hash, so that the same prompt with another seed,
another number format or another model with the same encoder needs none. The encoder is on the card only to read new
prompts, unless everything fits; the transformer is resident, or some of its blocks come for their turn; the VAE
decodes whole pictures, one by one or in tiles. Without a card everything lies in memory.
"""

import gc
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from PIL import Image

from zit_app.core.memory import Layout, Numbers, Request, budget_of, plan_layout, read_model
from zit_app.core.models import SIGHT
from zit_app.core.progress import Progress
from zit_app.core.single_files import SOURCE
from zit_app.data.index import component_fingerprint
from zit_app.model.latents import colour_map, set_decoding
from zit_app.model.loading import (
    default_device,
    load_sight,
    load_text_encoder,
    load_transformer,
    load_vae,
    read_flavour,
)
from zit_app.model.omni import see
from zit_app.model.precision import Formats
from zit_app.model.text import apply_template, encode_texts, token_count

MOST_PROMPTS = 256  # at up to 2.6 MB each

Features = dict[str, torch.Tensor]


def free_memory() -> int | None:
    """Bytes of the card that this process has or could have; None without a card."""
    device = default_device()
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) if device.type == "cuda" else None


class Warm:
    """Loaded parts of one model in one number format. ``free`` tells how many bytes there are to lay them out in."""

    def __init__(self, free: Callable[[], int | None] = free_memory) -> None:
        self._free = free
        self._key: object = None
        self._encoder = ""  # hash of the text encoder and its tokenizer
        self._parts: dict[str, Any] = {}
        self._away = 0  # blocks of the loaded transformer that come for their turn
        self._layout: Layout | None = None
        self._read: dict[tuple[tuple[str, torch.dtype, str, bool], str, int], torch.Tensor] = {}
        self._sight = ""  # hash of an Omni's SigLIP
        self._seen: dict[tuple[str, torch.dtype, tuple[int, int], bytes], torch.Tensor] = {}
        self._cut: set[tuple[str, int]] = set()  # prompts that are longer than what is read of them

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        self._key = self._layout = None
        self._parts.clear()
        self._read.clear()
        self._seen.clear()
        _collect()

    def arrange(self, folder: Path, formats: Formats, request: Request, progress: Progress) -> Layout:
        """Lay the model out for what is to be drawn; what lies there already and is lean enough stays."""
        self._turn_to(folder, formats)
        free, full, text = self._free(), formats.dtype.itemsize, formats.text_dtype.itemsize
        numbers = Numbers(full, formats.stored, text, formats.text_stored)
        layout = plan_layout(read_model(folder), numbers, request, None if free is None else budget_of(free))
        if not layout.fits:
            progress.note("This may need more memory than the card has free: zit plan shows what would fit.")
        if layout.transformer_away > self._away:
            self._drop("transformer")
        if not layout.encoder_stays:
            self._drop("text_encoder")
        if "vae" in self._parts:
            set_decoding(self._parts["vae"], layout.one_by_one, layout.tile)
        self._layout = layout
        return layout

    def features(
        self,
        folder: Path,
        formats: Formats,
        prompts: Sequence[str],
        max_length: int,
        progress: Progress,
        template: bool = True,
    ) -> Features:
        """Text features of each prompt, on the CPU; without ``template`` of texts that are complete as they are."""
        layout = self._layout_for(folder, formats, progress)
        if len(self._read) > MOST_PROMPTS:
            self._read.clear()
        kind = (self._encoder, formats.text_dtype, formats.text_stored, template)
        missing = [prompt for prompt in prompts if (kind, prompt, max_length) not in self._read]
        if missing:
            progress.stage("Reading the prompts")
            self._make_room(layout)
            tokenizer, encoder = self._parts.get("text_encoder") or load_text_encoder(
                folder, default_device(), formats.text_dtype, formats.text_stored, layout.encoder_away
            )
            for prompt in missing:
                text = apply_template(tokenizer, prompt) if template else prompt
                if token_count(tokenizer, text) > max_length:
                    self._cut.add((prompt, max_length))
                found = encode_texts(tokenizer, encoder, [text], max_length)[0]
                self._read[kind, prompt, max_length] = found.cpu()
            if layout.encoder_stays:
                self._parts["text_encoder"] = (tokenizer, encoder)
            del tokenizer, encoder
            _collect()
        if any((prompt, max_length) in self._cut for prompt in prompts):
            progress.note(f"A prompt is longer than {max_length} tokens: its end is not read.")
        return {prompt: self._read[kind, prompt, max_length] for prompt in prompts}

    def sights(
        self, folder: Path, formats: Formats, pictures: Sequence[Image.Image], progress: Progress
    ) -> list[torch.Tensor]:
        """What an Omni's SigLIP sees in each picture, on the CPU; it is on the card only to look at new ones."""
        layout = self._layout_for(folder, formats, progress)
        if len(self._seen) > MOST_PROMPTS:
            self._seen.clear()
        kind = (self._sight, formats.text_dtype)
        keys = [(*kind, picture.size, sha256(picture.tobytes()).digest()) for picture in pictures]
        missing = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in self._seen}
        if missing:
            progress.stage("Looking at the pictures")
            self._make_room(layout)
            processor, siglip = load_sight(folder, default_device(), formats.text_dtype)
            for key, picture in missing.items():
                self._seen[key] = see(processor, siglip, picture).cpu()
            del siglip
            _collect()
        return [self._seen[key] for key in keys]

    def drawing(
        self, folder: Path, formats: Formats, progress: Progress
    ) -> tuple[ZImageTransformer2DModel, AutoencoderKL]:
        """Transformer and VAE, ready to compute on the device."""
        layout = self._layout_for(folder, formats, progress)
        device = default_device()
        if "transformer" not in self._parts:
            progress.stage("Loading the model")
            self._away = layout.transformer_away
            self._parts["transformer"] = load_transformer(folder, device, formats.dtype, formats.stored, self._away)
        if "vae" not in self._parts:
            self._parts["vae"] = load_vae(folder, device, formats.dtype)
            set_decoding(self._parts["vae"], layout.one_by_one, layout.tile)
        return self._parts["transformer"], self._parts["vae"]

    def colours(self) -> torch.Tensor:
        """The colour map of the VAE that `drawing` loaded."""
        if "colours" not in self._parts:
            self._parts["colours"] = colour_map(self._parts["vae"])
        found: torch.Tensor = self._parts["colours"]
        return found

    def _layout_for(self, folder: Path, formats: Formats, progress: Progress) -> Layout:
        """The layout that was arranged; one for a picture of the model's own size where none was."""
        self._turn_to(folder, formats)
        side = read_flavour(folder).pixels
        return self._layout or self.arrange(folder, formats, Request(side, side), progress)

    def _turn_to(self, folder: Path, formats: Formats) -> None:
        """Drop another model, another format or the same model with changed files; keep what was read."""
        files = sorted([*folder.glob("*/*.safetensors"), *folder.glob(f"*/{SOURCE}")])
        key = ([(str(file), file.stat().st_mtime_ns) for file in files], formats)
        if key != self._key:
            self._drop(*self._parts)
            self._key, self._layout = key, None
            self._encoder = component_fingerprint(folder / "text_encoder", folder / "tokenizer")
            sight = [folder / part for part in SIGHT if (folder / part).is_dir()]
            self._sight = component_fingerprint(*sight) if sight else ""

    def _make_room(self, layout: Layout) -> None:
        """For what reads prompts and pictures, where it does not fit beside what draws."""
        if not layout.encoder_beside and layout.budget is not None:
            self._drop("transformer", "vae")

    def _drop(self, *names: str) -> None:
        for name in names:
            self._parts.pop(name, None)
        _collect()


def _collect() -> None:
    gc.collect()
    torch.cuda.empty_cache()
