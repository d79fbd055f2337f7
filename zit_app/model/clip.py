"""A CLIP or SigLIP from a folder of the user's: pictures and prompts as directions that can be compared."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from zit_app.core.errors import ZitError
from zit_app.core.files import read_json

KINDS = ("clip", "siglip")
BATCH = 16


class Clip:
    """Both towers of one model. Features are of length 1, (N, D), on the CPU."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Load from a folder; nothing is fetched. Raises ZitError when it holds neither or lacks a part."""
        self.kind = _kind(folder)
        self.device = device
        try:
            model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
            raise ZitError(
                f"{folder} cannot be loaded as a {self.kind} model ({type(error).__name__}).",
                "Get its whole folder: weights in safetensors, tokenizer and preprocessor_config.json.",
            ) from error
        self._model = model.to(device, torch.float32).eval()
        self._longest = int(model.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def pictures(self, files: Sequence[Path], read: Callable[[Path], Image.Image] | None = None) -> torch.Tensor:
        """Features of pictures; each is shrunk and cut as the model was trained. ``read`` opens one as RGB."""
        found = []
        for begin in range(0, len(files), BATCH):
            batch = [(read or _opened)(file) for file in files[begin : begin + BATCH]]
            pixels = self._processor(images=batch, return_tensors="pt")["pixel_values"].to(self.device)
            found.append(self._model.get_image_features(pixel_values=pixels).pooler_output)
        return F.normalize(torch.cat(found), dim=-1).cpu()

    @torch.no_grad()
    def prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Features of prompts, which are cut where the model's reach ends: 77 tokens of CLIP, 64 of SigLIP."""
        found = []
        for begin in range(0, len(prompts), BATCH):
            words = self._tokenizer(
                list(prompts[begin : begin + BATCH]),
                padding="max_length",
                truncation=True,
                max_length=self._longest,
                return_tensors="pt",
            ).to(self.device)
            # SigLIP was trained on padding that counts, CLIP on padding that does not
            mask = {} if self.kind == "siglip" else {"attention_mask": words["attention_mask"]}
            found.append(self._model.get_text_features(input_ids=words["input_ids"], **mask).pooler_output)
        return F.normalize(torch.cat(found), dim=-1).cpu()


def _kind(folder: Path) -> str:
    file = folder / "config.json"
    kind = read_json(file).get("model_type") if file.is_file() else None
    if kind not in KINDS:
        raise ZitError(f"{folder} holds no CLIP or SigLIP.", "Give the folder of one, with config.json in it.")
    return str(kind)


def _opened(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ZitError(f"{file} cannot be read as a picture.", "Remove it or save it anew.") from error
