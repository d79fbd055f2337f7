"""Files that are either the old one or the new one, never half of one."""

import errno
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from zit_app.core.errors import ZitError

# What an operating system says when nothing more fits: disk, quota, file size limit (FAT32's 4 GiB, ulimit -f).
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
_FULL_ON_WINDOWS = 112  # ERROR_DISK_FULL
_SAMPLES, _SAMPLE_BYTES = 256, 4096  # of a large file: 1 MiB of 12 GB, read in milliseconds
_RENAME_TRIES = 20  # Windows refuses to replace a file for as long as a reader holds it open: 20 × 10 ms


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well it takes the place of `path` at once.

    For writers that want a file name (safetensors, Pillow). When the block fails, the old file stays whole and the
    temporary one is removed. `durable` waits until the disk has it: for results, not for a status ten times a second.

    Raises ZitError when the disk is full or the folder cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name may fill all 255 bytes that file systems allow: only its beginning is repeated here.
        temporary = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}{path.suffix[:16]}")
        try:
            yield temporary
            if durable:
                _flush_to_disk(temporary)
            _replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write `path` into a ZitError with its remedy."""
    try:
        yield
    except ZitError:
        raise
    except Exception as error:
        if _is_full(error):
            raise ZitError(
                f"The disk is full: {path} could not be written.",
                "Free some space and start again; what was saved before is whole.",
                "disk",
            ) from error
        if isinstance(error, OSError) and error.errno in _REFUSED:
            raise ZitError(
                f"{path} could not be written: {error.strerror}.", "Choose a folder that you may write to."
            ) from error
        raise


def write_atomic(path: Path, data: bytes | str, durable: bool = True) -> None:
    """Write a whole file or nothing: temporary file in the same folder, fsync, rename. Text is UTF-8."""
    with replacing(path, durable) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def append_line(path: Path, line: str) -> None:
    """Append a line (or several) to a file that only grows; what a killed process left half ends before it."""
    with writing(path), path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        begun = file.read(1) not in (b"", b"\n")
        file.write((b"\n" if begun else b"") + line.encode() + b"\n")


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write a JSON file that people may read too: indented, UTF-8, keys in their order."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", durable)


def read_json(path: Path) -> Any:
    """Read a JSON file; raises ZitError naming the file when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ZitError(f"{path} does not exist.", "Check the path.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ZitError(f"{path} is not a JSON file ({error}).", "Delete it or restore it from a copy.") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@lru_cache(maxsize=512)
def sha256_of_known(path: Path, stamp: int) -> str:
    """SHA-256 of a file, computed once for each time of change ``stamp``."""
    return sha256_of(path)


def content_hash(path: Path) -> str:
    """Identify a file by its content without reading gigabytes: size, and up to 256 blocks spread over it.

    Training touches all weights, so two versions of a model differ in every block.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            digest.update(file.read())
        else:
            for i in range(_SAMPLES):
                file.seek(i * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _is_full(error: Exception) -> bool:
    # safetensors reports the system's error inside a text of its own: "… (os error 28)"
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(f"(os error {number})" in str(error) for number in (*_FULL, _FULL_ON_WINDOWS))


def _flush_to_disk(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _replace(source: Path, target: Path) -> None:
    for attempt in range(_RENAME_TRIES):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if os.name != "nt" or attempt == _RENAME_TRIES - 1:
                raise
            time.sleep(0.01)
