"""The head of a GGUF file: names, shapes and storage types of its tensors (ggml's specification, version 2 and 3)."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from zit_app.core.errors import ZitError
from zit_app.core.headers import cut_short

MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST = 1 << 28  # bytes of a text, entries of a list: more means a damaged file
TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS", 30: "BF16",
}  # fmt: skip


@dataclass(frozen=True)
class GgufTensor:
    """One entry: shape as torch has it (outputs first), the type's number, and where its bytes begin in the data."""

    shape: tuple[int, ...]
    type: int
    offset: int


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    """Metadata and tensors. Raises ZitError when the file is no GGUF file or cut short within its head."""
    with path.open("rb") as file:
        try:
            if file.read(4) != MAGIC:
                raise ZitError(f"{path} is not a GGUF file.", "Give a .gguf or .safetensors file.")
            version, tensors, pairs = _numbers(file, "<IQQ")
            if version not in (2, 3) or tensors > _LONGEST or pairs > _LONGEST:
                raise ZitError(f"{path} is a GGUF file of a version that is not read.", "Get a newer conversion of it.")
            metadata = {_text(file): _value(file, _numbers(file, "<I")[0]) for _ in range(pairs)}
            return metadata, dict(_tensor(file) for _ in range(tensors))
        except (struct.error, UnicodeDecodeError, KeyError, MemoryError, OverflowError) as error:
            raise cut_short(path) from error


def _tensor(file: BinaryIO) -> tuple[str, GgufTensor]:
    name = _text(file)
    (count,) = _numbers(file, "<I")
    shape = tuple(reversed(_numbers(file, f"<{count}Q")))
    kind, offset = _numbers(file, "<IQ")
    return name, GgufTensor(shape, kind, offset)


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind == _ARRAY:
        inner, count = _numbers(file, "<IQ")
        if inner in _SCALARS and count <= _LONGEST:
            return list(_numbers(file, f"<{count}{_SCALARS[inner]}"))
        return [_value(file, inner) for _ in range(count)]
    return _numbers(file, f"<{_SCALARS[kind]}")[0]


def _text(file: BinaryIO) -> str:
    (length,) = _numbers(file, "<Q")
    if length > _LONGEST:
        raise OverflowError
    return file.read(length).decode()


def _numbers(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))
