"""Product catalogues as datasets: many views of one item, a description written for customers, categories.

Read are JSONL and CSV tables that name picture files, and HDF5 files that hold the pixels, in the form of Fashion-Gen
(Rostamzadeh et al. 2018): `input_image` (N, H, W, 3) with `input_description`, `input_category`, `input_productID`.
"""

import html
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from zit_app.core.errors import ZitError
from zit_app.core.files import replacing
from zit_app.data.captions import first_of, table_rows, texts_of
from zit_app.data.formats import EXTENSIONS

_FILES = ("file_name", "file", "filename", "image", "image_path", "img_path", "path", "picture")
_CATEGORIES = ("category", "input_category", "class")
_ITEMS = ("group", "item", "product_id", "input_productID", "item_id", "id")
_HDF5_TEXTS = ("input_description", "description", "caption", "text", "input_name")


@dataclass(frozen=True)
class Entry:
    """One picture of a catalogue: its description, category and item, and how to write it to a file."""

    caption: str
    category: str
    group: str
    suffix: str
    write: Callable[[Path], None]


@dataclass(frozen=True)
class Brought:
    """What came of an import; `skipped` are (line or number, reason)."""

    added: int
    items: int
    categories: dict[str, int]
    skipped: tuple[tuple[str, str], ...]


def entries(path: Path, pictures: Path | None = None) -> Iterator[Entry | tuple[str, str]]:
    """The pictures of a catalogue one by one, or (where, reason) for one that cannot be used.

    pictures  the folder that a table's file names are relative to; default: the table's own

    Raises ZitError for a file of another kind.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise ZitError(f"There is no catalogue {path}.", "Check the path.")
    if suffix in (".jsonl", ".csv"):
        return _from_table(path, (pictures or path.parent).resolve())
    if suffix in (".h5", ".hdf5"):
        return _from_hdf5(path)
    raise ZitError(f"{path.name} is no catalogue.", "Give a .jsonl, .csv, .h5 or .hdf5 file.")


def bring(
    found: Iterator[Entry | tuple[str, str]],
    folder: Path,
    wanted: frozenset[str] = frozenset(),
    told: Callable[[int], None] = lambda done: None,
) -> Brought:
    """Write a catalogue into a dataset folder: `CATEGORY/ITEM_VIEW.png` and one `captions.jsonl` for all.

    Views of an item lie beside each other under its name and share their group. `wanted` limits the categories.
    """
    counts: Counter[str] = Counter()
    views: dict[str, int] = defaultdict(int)
    skipped: list[tuple[str, str]] = []
    with replacing(folder / "captions.jsonl") as temporary, temporary.open("w", encoding="utf-8") as table:
        for one in found:
            if isinstance(one, tuple):
                skipped.append(one)
                continue
            if wanted and one.category not in wanted:
                continue
            group = one.group or f"item{sum(counts.values()):06d}"
            place = PurePosixPath(_slug(one.category) or "other", f"{_slug(group)}_{views[group]}{one.suffix}")
            views[group] += 1
            with replacing(folder / place, durable=False) as picture:
                one.write(picture)
            row = {"file_name": str(place), "caption": one.caption, "category": one.category, "group": group}
            table.write(json.dumps(row, ensure_ascii=False) + "\n")
            counts[one.category] += 1
            told(sum(counts.values()))
        if not counts:
            raise ZitError("The catalogue holds no picture that can be used.", "Check its columns and categories.")
    return Brought(sum(counts.values()), len(views), dict(counts.most_common()), tuple(skipped))


def clean(description: str) -> str:
    """A description for customers as a caption: no markup, no entities, no size tables, whole sentences."""
    text = re.sub(r"<\s*(br|/p|/li|li)\b[^>]*>", ". ", description, flags=re.IGNORECASE)
    text = html.unescape(re.sub(r"<[^>]+>", " ", text))
    text = re.sub(r"(?i)\b(model (is|wears)|size guide|shipping|free returns|sku|item code)\b[^.]*\.?", " ", text)
    text = re.sub(r"https?://\S+|[\w.]+@[\w.]+", " ", text)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([.,;:!?])", r"\1", text)
    text = re.sub(r"([.,;:!?])(?:\s*[.;,])+", r"\1", text).strip(" .,;:-")
    return f"{text}." if text and text[-1] not in ".!?。！？" else text


def _from_table(path: Path, pictures: Path) -> Iterator[Entry | tuple[str, str]]:
    for number, row in table_rows(path):
        name = first_of(row, _FILES)
        source = pictures / name
        if not name:
            yield f"line {number}", "no picture is named"
        elif not source.resolve().is_relative_to(pictures):
            yield f"line {number}", "its picture lies outside the catalogue's folder"
        elif not source.is_file() or source.suffix.lower() not in EXTENSIONS:
            yield f"line {number}", f"there is no picture {name}"
        else:
            caption, kind = clean(" ".join(texts_of(row)[:1])), source.suffix.lower()
            yield Entry(caption, first_of(row, _CATEGORIES), first_of(row, _ITEMS), kind, _copy(source))


def _from_hdf5(path: Path) -> Iterator[Entry | tuple[str, str]]:
    try:
        import h5py
    except ImportError as error:
        raise ZitError("HDF5 catalogues need the package h5py.", "Install it: pip install h5py.") from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ZitError(f"{path.name} is not a whole HDF5 file.", "Copy or download it again.") from error
    with file:
        if "input_image" not in file:
            raise ZitError(f"{path.name} holds no input_image.", "Give a catalogue in the form of Fashion-Gen.")
        pixels = file["input_image"]
        told = next((file[name] for name in _HDF5_TEXTS if name in file), None)
        for i in range(len(pixels)):
            row = {name: _text(file[name][i]) for name in (*_CATEGORIES, *_ITEMS) if name in file}
            caption = clean(_text(told[i])) if told is not None else ""
            image = Image.fromarray(pixels[i])
            yield Entry(caption, first_of(row, _CATEGORIES), first_of(row, _ITEMS), ".png", _saved(image))


def _copy(source: Path) -> Callable[[Path], None]:
    def write(target: Path) -> None:
        target.write_bytes(source.read_bytes())

    return write


def _saved(image: Image.Image) -> Callable[[Path], None]:
    return lambda target: image.save(target, "PNG", compress_level=1)


def _text(value: Any) -> str:
    """A cell of an HDF5 table as text; Fashion-Gen writes Latin-1 in arrays of length one."""
    cell = value.ravel()[0] if hasattr(value, "ravel") else value
    return cell.decode("latin-1") if isinstance(cell, bytes) else str(cell)


def _slug(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name, flags=re.UNICODE).strip("-")[:80]
