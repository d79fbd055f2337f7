"""The picture that a picture starts from and its mask: size, pixels, and copies that stay.

The copy lies under its hash in `<home>/inputs`, so that a picture can be drawn again from its recipe long after the
original was moved or a browser's upload was thrown away.
"""

import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageChops, ImageFilter, ImageOps

from zit_app.core.errors import ZitError
from zit_app.core.files import replacing, sha256_of
from zit_app.core.models import Flavour, Limits
from zit_app.core.paths import inputs
from zit_app.model.draw import PIXELS_PER_LATENT

REFERENCE_PIXELS = 1024 * 1024  # an Omni looks at smaller pictures as they are
SMALLEST_SIDE, LONGEST = 64, 8
_SHAPE = 0.02  # how far the shapes of a picture and its mask may differ


def open_source(path: Path) -> Image.Image:
    """The picture, upright, RGB, on white where it is transparent. Raises ZitError when it cannot be read."""
    return _upright(path, "white").convert("RGB")


def open_mask(path: Path, source: Image.Image) -> Image.Image:
    """The mask of a picture in that picture's size, L, black where it is transparent.

    Raises ZitError when it cannot be read, has another shape or keeps everything.
    """
    mask = _upright(path, "black").convert("L")
    width, height = source.size
    if abs(mask.width * height - mask.height * width) > _SHAPE * mask.height * width:
        raise ZitError(
            f"The mask {path.name} is {mask.width}x{mask.height}, the picture {width}x{height}: their shapes differ.",
            "Give a mask of the picture's shape.",
        )
    if mask.getextrema() == (0, 0):
        raise ZitError(f"The mask {path.name} is black everywhere.", "Paint white what is to be redrawn.")
    return mask if mask.size == source.size else mask.resize(source.size, Image.Resampling.BILINEAR)


def _upright(path: Path, ground: str) -> Image.Image:
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except FileNotFoundError as error:
        raise ZitError(f"{path} does not exist.", "Check the path.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ZitError(f"{path.name} is no picture that can be read.", "Give a PNG, JPEG or WebP file.") from error
    return Image.alpha_composite(Image.new("RGBA", upright.size, ground), upright)


def natural_size(picture: Image.Image, flavour: Flavour, limits: Limits) -> tuple[int, int]:
    """Width and height in the picture's shape, about as many pixels as the model is meant for, multiples of 16."""
    width, height = picture.size
    scale = min(flavour.pixels / (width * height) ** 0.5, limits.width / width, limits.height / height)
    return max(16, round(width * scale / 16) * 16), max(16, round(height * scale / 16) * 16)


def as_reference(picture: Image.Image, area: int, limits: Limits, name: str) -> Image.Image:
    """A picture that the prompt speaks of, as an Omni looks at it: as it is, or of ``area`` pixels when it is larger
    than 1024².

    Raises ZitError for one that is too small or too long for it (the limits of diffusers' pipeline).
    """
    width, height = picture.size
    if min(width, height) < SMALLEST_SIDE:
        raise ZitError(f"{name} is only {width}x{height}.", f"Give one of at least {SMALLEST_SIDE} pixels a side.")
    if max(width, height) > LONGEST * min(width, height):
        raise ZitError(f"{name} is too long: {width}x{height}.", f"Cut it to at most {LONGEST}:1.")
    if width * height > REFERENCE_PIXELS:
        scale = (area / (width * height)) ** 0.5
        picture = picture.resize((int(width * scale), int(height * scale)), Image.Resampling.LANCZOS)
    if picture.width > limits.width or picture.height > limits.height:
        picture = ImageOps.contain(picture, (limits.width, limits.height), Image.Resampling.LANCZOS)
    return picture


def whole_patches(picture: Image.Image) -> tuple[int, int]:
    """Width and height of the middle of a picture that is made of whole patches of 16 pixels."""
    return picture.width // 16 * 16, picture.height // 16 * 16


def middle_tensor(picture: Image.Image) -> torch.Tensor:
    """(1, 3, H, W) in -1 … 1 of that middle, not scaled."""
    width, height = whole_patches(picture)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return source_tensor(picture.crop((left, top, left + width, top + height)), (width, height))


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture (or, in the same way, its mask) scaled to cover ``size`` and cut at the centre."""
    smooth = Image.Resampling.LANCZOS if picture.mode == "RGB" else Image.Resampling.BILINEAR
    return ImageOps.fit(picture, size, smooth)


def source_tensor(picture: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """(1, 3, H, W) in -1 … 1, scaled to cover ``size`` and cut at the centre."""
    pixels = torch.frombuffer(bytearray(fitted(picture, size).tobytes()), dtype=torch.uint8)
    return pixels.view(1, size[1], size[0], 3).permute(0, 3, 1, 2).float() / 127.5 - 1


def mask_tensor(mask: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """How much of each latent pixel is redrawn, (1, H/8, W/8) in 0 … 1: as much as its whitest pixel."""
    pixels = torch.frombuffer(bytearray(fitted(mask, size).tobytes()), dtype=torch.uint8)
    return F.max_pool2d(pixels.view(1, size[1], size[0]).float() / 255, PIXELS_PER_LATENT)


def put_back(drawn: Image.Image, picture: Image.Image, mask: Image.Image, blur: int) -> Image.Image:
    """What was drawn, inside the mask; outside the picture's own pixels, to the bit. The edge is soft inwards."""
    hard = fitted(mask, drawn.size)
    soft = ImageChops.darker(hard, hard.filter(ImageFilter.GaussianBlur(blur))) if blur else hard
    return Image.composite(drawn, fitted(picture, drawn.size), soft)


def keep_source(path: Path) -> str:
    """Copy the file under its hash, once; returns the SHA-256."""
    digest = sha256_of(path)
    kept = inputs() / f"{digest[:32]}{path.suffix.lower()}"
    if not kept.is_file():
        with replacing(kept) as temporary:
            shutil.copyfile(path, temporary)
    return digest
