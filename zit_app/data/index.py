"""The index of the caches: under which name a cached tensor lies, and whether it still belongs to its picture.

A cached file is named by the fingerprint of everything that its tensor depends on. So a changed picture, caption,
resolution or model is simply a file that is not there yet, and several resolutions or models live side by side.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from zit_app.core.errors import ZitError
from zit_app.core.files import content_hash, replacing
from zit_app.core.headers import read_header
from zit_app.data.buckets import Crop, crop_to_bucket
from zit_app.data.formats import Size
from zit_app.data.pictures import DatasetScan, Item

CACHE_FOLDER = ".zit_cache"

Parts = dict[str, Any]  # what a cached tensor depends on, by name


def latents_path(dataset: Path, fingerprint: str) -> Path:
    """Where the latents of this fingerprint lie."""
    return dataset / CACHE_FOLDER / "latents" / f"{fingerprint}.safetensors"


def text_path(dataset: Path, fingerprint: str) -> Path:
    """Where the text features of this fingerprint lie."""
    return dataset / CACHE_FOLDER / "text" / f"{fingerprint}.safetensors"


def fingerprint(parts: Parts) -> str:
    """The name of a cached tensor that depends on these parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def text_parts(caption: str, encoder: str, max_length: int, dtype: str) -> Parts:
    """Caption, text encoder with tokenizer and template, token limit, and the precision it is computed in."""
    return {"caption": caption, "encoder": encoder, "limit": max_length, "format": dtype}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it is encoded: one entry, a second one for its mirror image."""

    item: Item
    crop: Crop
    mirrored: bool
    background: str  # what is transparent is laid on it; "" for an opaque picture, which does not depend on it
    vae: str

    def parts(self) -> Parts:
        """Picture bytes, crop, bucket, mirroring, the colour behind transparency, and VAE."""
        crop = self.crop
        return {
            "picture": self.item.sha256,
            "bucket": list(crop.size),
            "crop": [round(edge, 3) for edge in crop.box],
            "mirrored": self.mirrored,
            "background": self.background,
            "vae": self.vae,
        }


def pictures(scan: DatasetScan, sizes: list[Size], vae: str, further: Sequence[list[Size]] = ()) -> Iterator[Picture]:
    """What is to be encoded of a dataset, picture by picture; mirror images follow their picture when asked for.

    ``sizes`` are the buckets of the resolution. Those of each of the ``further`` ones come behind, for pictures that
    they would not enlarge.
    """
    for item in scan.items:
        background = scan.options.background if item.transparent else ""
        others = [crop_to_bucket(item.size, each) for each in further]
        for crop in (crop_to_bucket(item.size, sizes), *(crop for crop in others if not crop.enlarges)):
            for mirrored in (False, True) if scan.options.flip else (False,):
                yield Picture(item, crop, mirrored, background, vae)


def whole(path: Path, fingerprint: str) -> bool:
    """Whether a cached file is there, of full length, and the one asked for. Its numbers are verified when read."""
    try:
        return bool(read_header(path)["__metadata__"]["fingerprint"] == fingerprint)
    except (ZitError, OSError, KeyError, TypeError, ValueError):
        return False


def component_fingerprint(*folders: Path) -> str:
    """Identify the parts of a model by content, wherever they lie.

    Small files (configurations, tokenizer, template) count in full. Of weights it takes the size, the head and 256
    blocks spread over the file: training touches all of them, and hashing 20 GB at every start would take a minute.
    """
    parts = []
    for folder in folders:
        files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        parts.append([(path.name, content_hash(path)) for path in sorted(files)])
    return fingerprint({"component": parts})


def load_known(dataset: Path) -> dict[str, Item]:
    """The pictures of the last scan, so that unchanged files are not decoded again. Empty when nothing fits."""
    known = {}
    try:
        for name, width, height, digest, length, time, transparent in _lines(_known_path(dataset)):
            known[name] = Item(dataset, name, (), (width, height), digest, (length, time), transparent)
    except (ValueError, TypeError):  # a damaged memory only costs one slow scan
        return {}
    return known


def save_known(scan: DatasetScan) -> None:
    """Remember the pictures of a scan for `load_known`; writes nothing when nothing changed."""
    _save_lines(
        _known_path(scan.folder),
        lambda: ([i.name, *i.size, i.sha256, *i.stamp, i.transparent] for i in scan.items),
    )


def load_built(dataset: Path) -> dict[str, dict[str, Any]]:
    """By picture name what its cache was last built from: {"latents": [parts, …], "texts": [parts, …]}."""
    try:
        return {name: {"latents": latents, "texts": texts} for name, latents, texts in _lines(_built_path(dataset))}
    except (ValueError, TypeError):
        return {}


def save_built(dataset: Path, built: Mapping[str, Mapping[str, Any]]) -> None:
    """Remember for `load_built`."""
    _save_lines(
        _built_path(dataset), lambda: ([name, entry["latents"], entry["texts"]] for name, entry in built.items())
    )


def why(before: Parts | None, now: Parts) -> list[str]:
    """The parts in which a tensor to be made differs from the one that was made last; ["new"] without one."""
    if before is None:
        return ["new"]
    return [name for name, value in now.items() if before.get(name) != value]


def _known_path(dataset: Path) -> Path:
    return dataset / CACHE_FOLDER / "pictures.jsonl"


def _built_path(dataset: Path) -> Path:
    return dataset / CACHE_FOLDER / "built.jsonl"


def _lines(path: Path) -> Iterator[Any]:
    """The lines of a JSONL file, none when it is not there."""
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def _save_lines(path: Path, rows: Callable[[], Iterable[Any]]) -> None:
    """Write a JSONL file unless it holds the same already. Line by line: a catalogue has 300,000 of them."""

    def lines() -> Iterator[str]:
        return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows())

    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            if all(old == new for old, new in zip_longest(file, lines())):
                return
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(lines())
