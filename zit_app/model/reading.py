"""Text in pictures, read by RapidOCR: an optional package (`ocr`) that brings its models for English and Chinese along.

P prompts.
"""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zit_app.core.errors import ZitError

PACKAGE = "rapidocr_onnxruntime"
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|‘([^’]+)’|「([^」]+)」|《([^》]+)》')


def asked_texts(prompt: str) -> tuple[str, ...]:
    """What a prompt wants written: everything in quotation marks, of either language."""
    return tuple("".join(groups) for groups in _QUOTED.findall(prompt))


def is_installed() -> bool:
    """Whether text can be read here."""
    return importlib.util.find_spec(PACKAGE) is not None


def texts_found(prompts: Sequence[str], files: Sequence[Sequence[Path]]) -> torch.Tensor:
    """(P,) shares of the pictures in which everything asked for stands whole; NaN at prompts that ask for no text.

    Case, spaces and marks do not count. Raises ZitError when the package cannot be loaded.
    """
    try:
        from rapidocr_onnxruntime import RapidOCR

        reader = RapidOCR()
    except (ImportError, OSError) as error:
        raise ZitError(
            f"The package rapidocr-onnxruntime cannot be loaded: {error}.", "Install what it lacks, or remove it."
        ) from error
    found = torch.full((len(prompts),), torch.nan)
    for number, (prompt, shown) in enumerate(zip(prompts, files, strict=True)):
        wanted = [letters(text) for text in asked_texts(prompt)]
        if wanted:
            read = [letters(read_text(reader, file)) for file in shown]
            found[number] = sum(all(text in one for text in wanted) for one in read) / len(read)
    return found


def read_text(reader: Any, file: Path) -> str:
    """Everything that stands in a picture, line by line."""
    with Image.open(file) as picture:
        pixels_HW3 = np.asarray(picture.convert("RGB"))
    lines, _ = reader(np.ascontiguousarray(pixels_HW3[:, :, ::-1]))  # it expects BGR, as OpenCV has it
    return "\n".join(text for _, text, _ in lines or [])


def letters(text: str) -> str:
    """Letters, characters and digits alone, in one case."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())
