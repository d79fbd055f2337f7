"""Reading the headers of safetensors files that a user brought along: whole, and nothing but safetensors."""

import json
import struct
from pathlib import Path
from typing import Any

from zit_app.core.errors import ZitError

HEADER_LIMIT = 25_000_000  # bytes; checkpoints need about 100 kB, and a header of the library's 100 MB takes seconds
PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # torch.save: a zip archive, formerly a bare pickle


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, checked against the file's size; nothing else is read.

    Raises ZitError when the file is missing, a pickle, no safetensors file or cut short.
    """
    if not path.is_file():
        raise ZitError(f"{path} does not exist.", "Check the path.")
    try:
        return _read(path)
    except PermissionError as error:
        raise ZitError(f"{path} may not be read.", "Allow it in the file's properties.") from error


def _read(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if start.startswith(PICKLE_STARTS) and length > HEADER_LIMIT:
            raise ZitError(
                f"{path} is a pickle, which can run code when it is read, so it is never opened.",
                "Get the safetensors version of this file.",
            )
        if not 2 <= length <= HEADER_LIMIT:
            raise ZitError(f"{path} is not a safetensors file.", "Give a .safetensors file.")
        text = file.read(length)
    if len(text) < length:
        raise cut_short(path)
    try:
        header = json.loads(text)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        noted = header.get("__metadata__", {}).values()
        if not all(isinstance(value, str) for value in noted) or any("dtype" not in one for one in entries.values()):
            raise ValueError("not of the form that the format asks for")
        sides = [int(side) for entry in entries.values() for side in entry["shape"]]
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        if min(sides, default=0) < 0:
            raise ValueError("a negative size")
    except (ValueError, AttributeError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise ZitError(f"{path} is not a safetensors file.", "Give a .safetensors file.") from error
    if size < 8 + length + end:
        raise cut_short(path)
    return header


def cut_short(path: Path) -> ZitError:
    """The error for a file whose end is missing."""
    return ZitError(f"{path} is cut short: its end is missing.", "Copy or download it again.")
