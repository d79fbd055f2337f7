"""Masks that are painted on the page: paint on nothing, kept under their hash beside the pictures they belong to."""

from collections.abc import Sequence
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageChops

from zit_app.core.files import replacing
from zit_app.core.paths import inputs

PAINT = "#4f46e5"  # seen on light and dark pictures


def painted(layers: Sequence[Path]) -> str:
    """The file of a mask, white wherever something is painted on one of the layers; "" when nothing is."""
    mask: Image.Image | None = None
    for layer in layers:
        with Image.open(layer) as opened:
            strokes = opened.convert("RGBA").getchannel("A")
        mask = strokes if mask is None else ImageChops.lighter(mask, strokes)
    if mask is None or mask.getextrema() == (0, 0):
        return ""
    png = BytesIO()
    mask.save(png, "PNG")
    file = inputs() / f"{sha256(png.getvalue()).hexdigest()[:32]}.png"
    if not file.is_file():
        with replacing(file) as temporary:
            temporary.write_bytes(png.getvalue())
    return str(file)


def as_layer(mask: Path, picture: Path) -> Image.Image:
    """A mask as strokes of paint over its picture."""
    with Image.open(picture) as opened:
        size = opened.size
    with Image.open(mask) as opened:
        strokes = Image.alpha_composite(Image.new("RGBA", opened.size, "black"), opened.convert("RGBA")).convert("L")
    layer = Image.new("RGBA", size, PAINT)
    layer.putalpha(strokes.resize(size))
    return layer
