"""What stands written in pictures: watermarks, dates, subtitles, signs. Read where the package `ocr` is installed.

Kept by the content of the file like the measures, in a file of its own: the package may come later.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from PIL import Image

from zit_app.core.files import replacing
from zit_app.data.formats import open_picture, to_rgb
from zit_app.data.index import CACHE_FOLDER
from zit_app.data.pictures import Item
from zit_app.data.reading import Reader, is_installed, letters

VERSION = 1  # of what is kept; another one is read anew
SURE, SHORTEST = 0.8, 3  # confidence and letters of a line that counts; below, patterns are taken for letters
_LOOK = 1024  # pixels: side of a square of the area at which is read
_AT_ONCE = 16  # pictures after which what was read is saved

Written = Mapping[str, tuple[str, ...]]  # by SHA-256 the lines of a picture; a picture that was not read is not in it


def load_written(dataset: Path) -> dict[str, tuple[str, ...]]:
    """What was read already; empty when the file is damaged or of another version."""
    path = _path(dataset)
    if not path.is_file():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {digest: tuple(texts) for version, digest, texts in lines if version == VERSION}
    except (ValueError, TypeError):
        return {}


def read_all(dataset: Path, items: Iterable[Item], told: Callable[[int], None] = lambda done: None) -> Written:
    """What stands in the pictures, those read now that are not known yet; `told` hears how many of them are done.

    Without the package: what was read earlier. Raises ZitError when the package is damaged.
    """
    known = load_written(dataset)
    todo = list({item.sha256: item for item in items if item.sha256 not in known}.values())
    if not todo or not is_installed():
        return known
    reader = Reader()
    for done, item in enumerate(todo, 1):
        known[item.sha256] = counted(reader.lines(_at_size(item.path)))
        told(done)
        if done % _AT_ONCE == 0 or done == len(todo):
            rows = (json.dumps([VERSION, *each], ensure_ascii=False) + "\n" for each in known.items())
            with replacing(_path(dataset), durable=False) as temporary, temporary.open("w", encoding="utf-8") as file:
                file.writelines(rows)
    return known


def counted(lines: Iterable[tuple[str, float]]) -> tuple[str, ...]:
    """Of the lines that a reader found, with how sure it is, those that are taken for writing."""
    return tuple(text for text, sure in lines if sure >= SURE and len(letters(text)) >= SHORTEST)


def unsaid(lines: Iterable[str], captions: Iterable[str]) -> list[str]:
    """The lines that no caption of the picture quotes."""
    said = letters(" ".join(captions))
    return [line for line in lines if letters(line) not in said]


def _at_size(path: Path) -> Image.Image:
    with open_picture(path) as image:
        picture = to_rgb(image)
    scale = _LOOK / math.sqrt(picture.width * picture.height)
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _path(dataset: Path) -> Path:
    return dataset / CACHE_FOLDER / "written.jsonl"
