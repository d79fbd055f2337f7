"""Drawing the pocket world: cut-out emoji (RGBA) and composed training pictures (RGB, 128 x 128).

A composed picture varies in everything that its caption may leave open: place, size, mirroring, a slight turn,
background colour or gradient, and now and then a second thing.
"""

import io
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from zit_app.engine.pocket.concepts import Concept

SIZE = 128
CANONICAL_EXTENT = 112  # pixels that a centred emoji covers
BACKGROUNDS = {
    "red": (226, 88, 82), "orange": (243, 161, 74), "yellow": (248, 219, 104), "green": (118, 190, 118),
    "teal": (92, 186, 184), "blue": (104, 156, 232), "purple": (162, 126, 216), "pink": (244, 166, 196),
    "brown": (160, 122, 94), "gray": (168, 172, 178), "black": (44, 46, 52), "white": (255, 255, 255),
}  # fmt: skip


@lru_cache(maxsize=2)
def _noto_collection(path: str) -> dict:
    return json.loads(Path(path).read_text())


def _noto_svg(collection: str, icon: str) -> str:
    data = _noto_collection(collection)
    entry = data["icons"].get(icon) or data["icons"][data["aliases"][icon]["parent"]]
    width, height = entry.get("width", data.get("width", 128)), entry.get("height", data.get("height", 128))
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{entry["body"]}</svg>'


def _rasterize(svg: str, size: int) -> Image.Image:
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def cut_out(concept: Concept, style: str, noto_icons: Path, size: int = SIZE) -> Image.Image:
    """The emoji alone: RGBA, ``size`` square, cropped to what is drawn and centred with a thin margin."""
    source = concept.files[style]
    if style == "classic":
        picture = _rasterize(_noto_svg(str(noto_icons), source), size * 2)
    elif source.endswith(".svg"):
        picture = _rasterize(Path(source).read_text(), size * 2)
    else:
        picture = Image.open(source).convert("RGBA")
    box = picture.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox() or (0, 0, *picture.size)
    picture = picture.crop(box)
    scale = size / max(picture.size)
    shape = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Resizing premultiplied colour keeps dark fringes away from transparent edges.
    picture = picture.convert("RGBa").resize(shape, Image.Resampling.LANCZOS).convert("RGBA")
    square = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    square.paste(picture, ((size - shape[0]) // 2, (size - shape[1]) // 2))
    return square


@dataclass(frozen=True)
class Layout:
    """How one composed picture was laid out; captions name a random part of it."""

    canonical: bool = True
    extent: int = CANONICAL_EXTENT  # pixels
    center: tuple[int, int] = (SIZE // 2, SIZE // 2)
    mirrored: bool = False
    turn: int = 0  # degrees, counter-clockwise
    background: str = "white"
    gradient: str | None = None
    second: tuple[int, int, tuple[int, int]] | None = field(default=None)  # concept index, extent, center


def random_layout(random: Random, concepts: int) -> Layout:
    """An open layout. Extents follow a wide range so that size is visible; centres keep the thing in the picture."""
    pair = random.random() < 0.08
    extent = random.randint(44, 60) if pair else random.randint(44, 112)
    free = SIZE - extent
    x, y = (extent // 2 + random.randint(0, free) for _ in range(2))
    second = None
    if pair:
        left = random.random() < 0.5
        x = random.randint(extent // 2, 36) if left else random.randint(92, SIZE - extent // 2)
        other = random.randint(44, 60)
        ox = random.randint(92, SIZE - other // 2) if left else random.randint(other // 2, 36)
        second = (random.randrange(concepts), other, (ox, random.randint(other // 2, SIZE - other // 2)))
    colors = list(BACKGROUNDS)
    return Layout(
        canonical=False,
        extent=extent,
        center=(x, y),
        mirrored=random.random() < 0.3,
        turn=random.choice((-20, -12, 12, 20)) if random.random() < 0.25 else 0,
        background=random.choice(colors),
        gradient=random.choice(colors) if random.random() < 0.25 else None,
        second=second,
    )


def _paste(canvas: Image.Image, thing: Image.Image, extent: int, center: tuple[int, int]) -> None:
    small = thing.convert("RGBa").resize((extent, extent), Image.Resampling.LANCZOS).convert("RGBA")
    canvas.paste(small, (center[0] - extent // 2, center[1] - extent // 2), small)


def compose(layout: Layout, thing: Image.Image, second: Image.Image | None = None) -> Image.Image:
    """Draw one training picture, RGB ``SIZE`` square."""
    canvas = Image.new("RGB", (SIZE, SIZE), BACKGROUNDS[layout.background])
    if layout.gradient:
        ramp = np.linspace(0, 1, SIZE)[:, None, None]
        ends = (np.array(BACKGROUNDS[c], float) for c in (layout.background, layout.gradient))
        top, bottom = ends
        rows = top * (1 - ramp) + bottom * ramp
        canvas = Image.fromarray(np.broadcast_to(rows, (SIZE, SIZE, 3)).astype(np.uint8))
    if layout.mirrored:
        thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if layout.turn:
        thing = thing.convert("RGBa").rotate(layout.turn, Image.Resampling.BICUBIC, expand=True).convert("RGBA")
    _paste(canvas, thing, layout.extent, layout.center)
    if layout.second and second:
        _paste(canvas, second, *layout.second[1:])
    return canvas


def canonical_picture(thing: Image.Image) -> Image.Image:
    """The emoji centred on white: what a canonical caption asks for and what scores of recall compare with."""
    return compose(Layout(), thing)


def contact_sheet(pictures: list[Image.Image], columns: int, labels: list[str] | None = None) -> Image.Image:
    """Pictures side by side, with a 2-pixel gap and (if given) a caption line below each."""
    line = 14 if labels else 0
    w, h = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (w + 2), rows * (h + 2 + line)), (230, 230, 230))
    pen = ImageDraw.Draw(sheet)
    for i, picture in enumerate(pictures):
        x, y = (i % columns) * (w + 2), (i // columns) * (h + 2 + line)
        sheet.paste(picture.convert("RGB"), (x, y))
        if labels:
            pen.text((x + 2, y + h), labels[i][: w // 6], fill=(20, 20, 20))
    return sheet
