"""What a person drops: files, folders and zips, each as places with their contents. Nothing here trusts a zip."""

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from zit_app.core.errors import ZitError

_SPARE = 1 << 30  # bytes that stay free when a zip is unpacked
_BOMB_BYTES, _BOMB_RATIO = 1 << 30, 200  # pictures hardly shrink in a zip: what grows like that is made to fill disks


@dataclass(frozen=True)
class Offered:
    """A file that could come into a dataset: where it would lie in it, and how to read it."""

    place: PurePosixPath
    open: Callable[[], IO[bytes]]


def offered(file: Path, archives: ExitStack) -> Iterator[Offered]:
    """What a dropped file, folder or zip brings; hidden files (macOS' `._x.jpg`, our cache) are not looked at.

    Raises ZitError for a zip that is damaged, too large, or would write outside the dataset.
    """
    if file.is_dir():
        for place, _, names in os.walk(file):
            for name in sorted(names):
                inner = Path(place, name)
                below = PurePosixPath(inner.relative_to(file).as_posix())
                if inner.is_file() and not _hidden(below):
                    yield Offered(below, partial(_opened, inner))
    elif file.suffix.lower() == ".zip":
        yield from _in_zip(file, archives)
    elif file.is_file():
        yield Offered(PurePosixPath(file.name), partial(_opened, file))
    else:
        raise ZitError(f"{file} does not exist.", "Check the path.")


def _opened(file: Path) -> IO[bytes]:
    return file.open("rb")


def _in_zip(file: Path, archives: ExitStack) -> Iterator[Offered]:
    try:
        archive = archives.enter_context(zipfile.ZipFile(file))
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ZitError(f"{file.name} is not a whole zip file.", "Copy or pack it again.") from error
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    unpacked, free = sum(entry.file_size for entry in entries), shutil.disk_usage(file.parent).free
    if unpacked > _BOMB_BYTES and unpacked > _BOMB_RATIO * file.stat().st_size:
        raise ZitError(f"{file.name} would unpack to {unpacked / 1e9:.1f} GB: a zip bomb.", "Do not trust this zip.")
    if unpacked > free - _SPARE:
        raise ZitError(
            f"{file.name} would unpack to {unpacked / 1e9:.1f} GB; {free / 1e9:.1f} GB are free.", "Free some space."
        )
    for entry in entries:
        place = PurePosixPath(entry.filename.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or ":" in entry.filename:
            raise ZitError(f"{file.name} holds a file that would lie outside the dataset.", "Do not trust this zip.")
        if not _hidden(place):
            yield Offered(place, partial(_unpacked, file, archive, entry))


def _unpacked(file: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
    try:
        return archive.open(entry)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
        raise ZitError(f"{entry.filename} in {file.name} cannot be unpacked: {error}.", "Pack it again.") from error


def _hidden(place: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in place.parts)
