"""The pictures behind cached latents: their masks, and their colours for a fitted Lab.

B batch, C latent channels, h and w latent pixels, N pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from zit_app.core.errors import ZitError
from zit_app.core.progress import Progress
from zit_app.core.train_settings import TrainSettings
from zit_app.data import index
from zit_app.data.buckets import bucket_sizes
from zit_app.data.formats import EXTENSIONS, open_picture
from zit_app.data.index import Picture
from zit_app.data.pictures import scan_dataset
from zit_app.engine.cache import Cache, Sample
from zit_app.engine.encoding import picture_tensor
from zit_app.engine.refusals import named_masks
from zit_app.flow.lab import fit_lab
from zit_app.model.draw import PIXELS_PER_LATENT

FITTED_ON = 64  # pictures: a map of 17 × 3 numbers needs no more


@dataclass(frozen=True)
class Masks:
    """The mask file of every picture, by its cached latents."""

    files: dict[str, tuple[Picture, Path]]
    outside: float

    def load(self, samples: Sequence[Sample]) -> Tensor:
        """How much an error counts, (B, 1, h, w): 1 where a mask is white, ``outside`` where it is black."""
        inside_B1HW = torch.stack([_mask(*self.files[sample.latents]) for sample in samples])
        return self.outside + (1 - self.outside) * inside_B1HW


def pictures_of(settings: TrainSettings, cache: Cache, model: Path) -> dict[str, Picture]:
    """By the fingerprint of its latents, what was encoded of which file."""
    scan = scan_dataset(cache.dataset, index.load_known(cache.dataset))
    sizes, *further = (bucket_sizes(each, settings.dataset.enable_bucket) for each in cache.resolutions)
    found = index.pictures(scan, sizes, index.component_fingerprint(model / "vae"), further)
    return {index.fingerprint(picture.parts()): picture for picture in found}


def find_masks(settings: TrainSettings, cache: Cache, model: Path) -> Masks | None:
    """The masks of a data set when they are asked for. Raises ZitError when they, or some of them, are not there."""
    if not settings.dataset.mask_loss:
        return None
    folder = named_masks(cache.dataset)
    files, missing = {}, []
    for latents, picture in pictures_of(settings, cache, model).items():
        stem = (folder / picture.item.name).with_suffix("")
        candidates = [stem.with_name(stem.name + ending) for ending in (".png", *sorted(EXTENSIONS))]
        file = next((one for one in candidates if one.is_file()), None)
        if file is None:
            missing.append(picture.item.name)
        else:
            files[latents] = (picture, file)
    if missing:
        raise ZitError(
            f"{len(missing)} pictures have no mask in {folder}, such as {missing[0]}.",
            "Add an all-white picture of that name for what is to be learnt in full.",
        )
    return Masks(files, settings.dataset.mask_outside)


def fitted_lab(
    settings: TrainSettings, cache: Cache, model: Path, shift: float, scale: float, progress: Progress
) -> tuple[Tensor, list[float]] | None:
    """Where ``lab = "fitted"`` acts: the map (C + 1, 3) from normalised latents to Lab, and its R² of L, a and b."""
    if settings.acrf.lab != "fitted" or settings.acrf.loss_mode not in ("style", "unified"):
        return None
    pictures = pictures_of(settings, cache, model)
    chosen = list({sample.latents: sample for sample in cache.samples}.values())[:FITTED_ON]
    latents, colours = [], []
    for sample in chosen:
        z_CHW = (cache.mean(sample) - shift) * scale
        x_3HW = F.avg_pool2d((picture_tensor(pictures[sample.latents]) + 1) / 2, PIXELS_PER_LATENT)
        latents.append(z_CHW.flatten(1).T)
        colours.append(x_3HW.flatten(1).T)
    lab, explained = fit_lab(torch.cat(latents), torch.cat(colours))
    shown = ", ".join(f"{name} {share:.2f}" for name, share in zip("Lab", explained.tolist(), strict=True))
    progress.note(f"Lab fitted on {len(chosen)} pictures, R²: {shown}.")
    return lab, explained.tolist()


def _mask(picture: Picture, file: Path) -> Tensor:
    """The part of a mask that belongs to the latents, (1, h, w) in 0 … 1. It may have another size than its picture."""
    width, height = (side // PIXELS_PER_LATENT for side in picture.crop.size)
    with open_picture(file) as image:
        across, down = image.width / picture.item.size[0], image.height / picture.item.size[1]
        left, top, right, bottom = picture.crop.box
        box = (left * across, top * down, right * across, bottom * down)
        part = image.convert("L").resize((width, height), Image.Resampling.BOX, box=box)
    part = ImageOps.mirror(part) if picture.mirrored else part
    return torch.frombuffer(bytearray(part.tobytes()), dtype=torch.uint8).view(1, height, width).float() / 255
