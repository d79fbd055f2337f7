"""Everything that is measured of one picture, and where it is remembered.

Measures are kept by the content of the file, so a picture is decoded for them once; its thumbnail, made on the way,
serves the grid and the search for duplicates.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zit_app.core.files import replacing
from zit_app.data.formats import open_picture, to_rgb
from zit_app.data.health.borders import bars
from zit_app.data.health.compression import blockiness, jpeg_quality
from zit_app.data.health.sharpness import edge_width
from zit_app.data.index import CACHE_FOLDER
from zit_app.data.pictures import Item

VERSION = 1  # of the measures; others are taken anew
THUMBNAIL = 384  # pixels
_LOOK = 1024  # pixels: side of a square of the area at which sharpness and bars are looked at
_GRID = 1536  # pixels a side of the middle in which blocks are looked for, at full size
_THREADS = min(4, os.cpu_count() or 1)
_AT_ONCE = 64


@dataclass(frozen=True)
class Measures:
    """One picture. Levels are 0 … 255; bars are shares of the side: left, top, right, bottom."""

    format: str
    quality: int | None  # of a JPEG, as its tables say
    edges: float  # width of the sharpest, pixels; 0 = no contrast, infinite = no edges
    blocks: float
    bars: tuple[float, float, float, float]
    bar_kind: str
    darkest: float  # first and last percentile of the brightness
    brightest: float


def measure(path: Path, thumbnail: Path) -> Measures:
    """Measure a picture that is known to be readable, and write its thumbnail."""
    with open_picture(path) as image:
        kind, quality, transparent = str(image.format), jpeg_quality(image), image.has_transparency_data
        picture = to_rgb(image)
    left, top = max(0, picture.width - _GRID) // 2, max(0, picture.height - _GRID) // 2
    middle = picture.crop((left, top, left + min(_GRID, picture.width), top + min(_GRID, picture.height)))
    blocks = blockiness(_grey(middle))
    scale = min(1.0, _LOOK / math.sqrt(picture.width * picture.height))
    if scale < 1:
        picture = picture.resize(
            (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS
        )
    grey_HW = _grey(picture)
    found = bars(np.asarray(picture, np.int16))
    darkest, brightest = (float(level) for level in np.percentile(grey_HW, (1, 99)))
    edges = edge_width(grey_HW)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    with replacing(thumbnail, durable=False) as temporary:
        picture.save(temporary, "WEBP", quality=88)
    sides = (found.left, found.top, found.right, found.bottom)
    none = (0.0, 0.0, 0.0, 0.0)
    shown = found.kind and not transparent  # what is transparent ends where its picture ends
    return Measures(
        kind, quality, edges, blocks, sides if shown else none, found.kind if shown else "", darkest, brightest
    )


def thumbnail_path(item: Item) -> Path:
    """Where the small copy of a picture lies."""
    return item.folder / CACHE_FOLDER / "thumbnails" / f"{item.sha256[:32]}.webp"


def load_measures(dataset: Path) -> dict[str, Measures]:
    """What is known already, by SHA-256; empty when the file is damaged or of another version."""
    known = {}
    path = _path(dataset)
    if path.is_file():
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                version, digest, values = json.loads(line)
                if version == VERSION:
                    left, top, right, bottom = values.pop("bars")
                    known[digest] = Measures(bars=(left, top, right, bottom), **values)
        except (ValueError, TypeError):
            return {}
    return known


def measure_all(
    dataset: Path, items: Iterable[Item], told: Callable[[int], None] = lambda done: None
) -> dict[str, Measures]:
    """The measures of all items, taking those that are not known yet; `told` hears how many of them are done."""
    known = load_measures(dataset)
    wanted = {item.sha256: item for item in items}
    todo = iter([i for i in wanted.values() if i.sha256 not in known or not thumbnail_path(i).is_file()])
    done = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(islice(todo, _AT_ONCE)):
            for item, found in zip(batch, pool.map(_measured, batch), strict=True):
                known[item.sha256] = found
                done += 1
                told(done)
            _save(dataset, known)
    return {digest: known[digest] for digest in wanted}


def _measured(item: Item) -> Measures:
    return measure(item.path, thumbnail_path(item))


def _grey(picture: Image.Image) -> "np.typing.NDArray[np.float32]":
    return np.asarray(picture.convert("L"), np.float32)


def _path(dataset: Path) -> Path:
    return dataset / CACHE_FOLDER / "health.jsonl"


def _save(dataset: Path, known: Mapping[str, Measures]) -> None:
    def lines() -> Iterator[str]:
        for digest, measures in known.items():
            values: dict[str, Any] = asdict(measures)
            yield json.dumps([VERSION, digest, values]) + "\n"

    with replacing(_path(dataset), durable=False) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(lines())
