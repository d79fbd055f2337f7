"""Text in pictures, read by RapidOCR: an optional package (`ocr`) that brings its models for both languages along."""

import importlib.util
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from zit_app.core.errors import ZitError
from zit_app.data.formats import open_picture, to_rgb

PACKAGE = "rapidocr_onnxruntime"
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|‘([^’]+)’|「([^」]+)」|《([^》]+)》')


def asked_texts(prompt: str) -> tuple[str, ...]:
    """What a prompt wants written: everything in quotation marks, of either language."""
    return tuple("".join(groups) for groups in _QUOTED.findall(prompt))


def is_installed() -> bool:
    """Whether text can be read here."""
    return importlib.util.find_spec(PACKAGE) is not None


class Reader:
    """The reader with its models in memory; one picture at a time."""

    def __init__(self) -> None:
        """Raises ZitError when the package cannot be loaded."""
        try:
            from rapidocr_onnxruntime import RapidOCR

            self._read = RapidOCR()
        except (ImportError, OSError) as error:
            raise ZitError(
                f"The package rapidocr-onnxruntime cannot be loaded: {error}.", "Install what it lacks, or remove it."
            ) from error

    def lines(self, picture: Image.Image) -> list[tuple[str, float]]:
        """Every line that stands in an RGB picture, and how sure it is, 0 … 1."""
        pixels_HW3 = np.asarray(picture)
        found, _ = self._read(np.ascontiguousarray(pixels_HW3[:, :, ::-1]))  # it expects BGR, as OpenCV has it
        return [(text, float(sure)) for _, text, sure in found or []]

    def everything(self, file: Path) -> str:
        """What stands in a picture, line by line."""
        with open_picture(file) as image:
            return "\n".join(text for text, _ in self.lines(to_rgb(image)))


def texts_found(prompts: Sequence[str], files: Sequence[Sequence[Path]]) -> list[float]:
    """By prompt the share of its pictures in which everything asked for stands whole; NaN where no text is asked for.

    Case, spaces and marks do not count. Raises ZitError when the package cannot be loaded.
    """
    reader = Reader()
    found = []
    for prompt, shown in zip(prompts, files, strict=True):
        wanted = [letters(text) for text in asked_texts(prompt)]
        read = [letters(reader.everything(file)) for file in shown] if wanted else []
        found.append(sum(all(text in one for text in wanted) for one in read) / len(read) if wanted else math.nan)
    return found


def letters(text: str) -> str:
    """Letters, characters and digits alone, in one case."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())
