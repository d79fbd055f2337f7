"""Datasets in `<home>/datasets/`: bring pictures in. Originals are copied, never changed."""

import hashlib
import os
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from zit_app.core import paths
from zit_app.core.errors import ZitError
from zit_app.core.files import sha256_of, write_atomic, writing
from zit_app.data.captions import TABLES
from zit_app.data.formats import EXTENSIONS
from zit_app.data.options import FILE as OPTIONS
from zit_app.service.archives import Offered, offered

_FORBIDDEN = '<>:"/\\|?*'  # in file names, by Windows
_LONGEST_NAME = 200  # bytes of a file name here; file systems take 255, and captions and numbers are added


@dataclass(frozen=True)
class Imported:
    """What came of an import; `skipped` are (file name, reason)."""

    folder: Path
    added: int
    skipped: tuple[tuple[str, str], ...]


def list_datasets() -> list[Path]:
    """The dataset folders, by name."""
    return sorted(folder for folder in (paths.home() / "datasets").glob("*/") if not folder.name.startswith("."))


def import_files(name: str, files: Sequence[Path]) -> Imported:
    """Copy pictures, captions and `dataset.toml` into `<home>/datasets/<name>/`; folders and zips are looked through.

    A picture that is there already is not copied again; one of the same name and other bytes gets a number, and its
    caption with it. A zip with an entry that would leave the folder is refused as a whole.
    """
    folder = paths.home() / "datasets" / folder_name(name)
    with ExitStack() as archives:
        found = [one for file in files for one in offered(file, archives)]
        skipped = [(one.place.name, "neither a picture nor a caption") for one in found if not _wanted(one.place)]
        captions = {one.place.with_suffix(""): one for one in found if one.place.suffix.lower() == ".txt"}
        pictures = [one for one in found if one.place.suffix.lower() in EXTENSIONS]
        if not pictures and not folder.is_dir():
            raise ZitError("There is no picture among these files.", f"Give {', '.join(sorted(EXTENSIONS))} or a zip.")
        added = sum(_add(folder, one, captions) for one in pictures)
        for place, caption in captions.items():  # for pictures that came earlier, and further captions NAME.2.txt
            write_atomic(folder / _short(place.with_suffix(".txt")), _bytes(caption))
        for one in found:
            if one.place.name in (OPTIONS, *TABLES):
                skipped += _keep(folder, one)
    return Imported(folder, added, tuple(skipped))


def folder_name(name: str) -> str:
    """A name for a folder that every system takes; raises ZitError when nothing is left of it."""
    cleaned = "".join("-" if letter in _FORBIDDEN or ord(letter) < 32 else letter for letter in name).strip(" .-")
    if not cleaned:
        raise ZitError("The dataset has no name.", "Give it one.")
    return cleaned[:80]


def _wanted(place: PurePosixPath) -> bool:
    return place.suffix.lower() in EXTENSIONS | {".txt"} or place.name in (OPTIONS, *TABLES)


def _add(folder: Path, one: Offered, captions: dict[PurePosixPath, Offered]) -> int:
    """Put a picture and its caption into the dataset; 1 when it was not there before."""
    caption = captions.pop(one.place.with_suffix(""), None)
    place, number = _short(one.place), 2
    temporary = folder / f".coming.{secrets.token_hex(4)}"
    with writing(folder / place):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        try:
            digest = _copy(one, temporary)
            target = folder / place
            while (known := target.exists()) and sha256_of(target) != digest:
                target = folder / place.with_name(f"{place.stem}-{number}{place.suffix}")
                number += 1
            if not known:
                os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    if caption is not None and not (known and target.with_suffix(".txt").exists()):
        write_atomic(target.with_suffix(".txt"), _bytes(caption))
    return int(not known)


def _keep(folder: Path, one: Offered) -> list[tuple[str, str]]:
    """Take a table or options along; what is there already and says something else stays."""
    target, data = folder / one.place, _bytes(one)
    if target.exists() and target.read_bytes() != data:
        return [(one.place.name, "the dataset has another one already")]
    write_atomic(target, data)
    return []


def _copy(one: Offered, target: Path) -> str:
    """Copy through a buffer, whatever the size, with the time of writing kept at now; the SHA-256 of it."""
    try:
        with one.open() as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ZitError(f"{one.place.name} cannot be unpacked: {error}.", "Pack the zip again.") from error
    return sha256_of(target)


def _bytes(one: Offered) -> bytes:
    try:
        with one.open() as source:
            return source.read()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ZitError(f"{one.place.name} cannot be unpacked: {error}.", "Pack the zip again.") from error


def _short(place: PurePosixPath) -> PurePosixPath:
    """The place with names that leave room for numbers and captions; a cut name ends in a digest of the whole."""

    def cut(name: str) -> str:
        stem, dot, suffix = name.rpartition(".")
        if len(name.encode()) <= _LONGEST_NAME:
            return name
        digest = hashlib.sha256((stem or suffix).encode()).hexdigest()[:8]
        kept = (stem or suffix).encode()[: _LONGEST_NAME - 40].decode(errors="ignore")
        return f"{kept}-{digest}{dot}{suffix if dot else ''}"

    return PurePosixPath(*(cut(part) for part in place.parts))
