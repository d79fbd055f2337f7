"""The picture that a picture starts from: its size, its pixels, and a copy that stays.

The copy lies under its hash in `<home>/inputs`, so that a picture can be drawn again from its recipe long after the
original was moved or a browser's upload was thrown away.
"""

import shutil
from pathlib import Path

import torch
from PIL import Image, ImageOps

from zit_app.core.errors import ZitError
from zit_app.core.files import replacing, sha256_of
from zit_app.core.models import Flavour, Limits
from zit_app.core.paths import inputs


def open_source(path: Path) -> Image.Image:
    """The picture, upright, RGB, on white where it is transparent. Raises ZitError when it cannot be read."""
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except FileNotFoundError as error:
        raise ZitError(f"{path} does not exist.", "Check the path.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ZitError(f"{path.name} is no picture that can be read.", "Give a PNG, JPEG or WebP file.") from error
    ground = Image.new("RGBA", upright.size, "white")
    return Image.alpha_composite(ground, upright).convert("RGB")


def natural_size(picture: Image.Image, flavour: Flavour, limits: Limits) -> tuple[int, int]:
    """Width and height in the picture's shape, about as many pixels as the model is meant for, multiples of 16."""
    width, height = picture.size
    scale = min(flavour.pixels / (width * height) ** 0.5, limits.width / width, limits.height / height)
    return max(16, round(width * scale / 16) * 16), max(16, round(height * scale / 16) * 16)


def source_tensor(picture: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """(1, 3, H, W) in -1 … 1, scaled to cover ``size`` and cut at the centre."""
    fitted = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    pixels = torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8)
    return pixels.view(1, size[1], size[0], 3).permute(0, 3, 1, 2).float() / 127.5 - 1


def keep_source(path: Path) -> str:
    """Copy the file under its hash, once; returns the SHA-256."""
    digest = sha256_of(path)
    kept = inputs() / f"{digest[:32]}{path.suffix.lower()}"
    if not kept.is_file():
        with replacing(kept) as temporary:
            shutil.copyfile(path, temporary)
    return digest
