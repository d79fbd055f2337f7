"""The options of a dataset for the app's form: `dataset.toml` in its folder."""

import re
from pathlib import Path

from PIL import ImageColor

from zit_app.data.options import DatasetOptions, read_options, write_options


def read(folder: Path) -> DatasetOptions:
    """What the dataset says of itself. Raises ZitError for a file with mistakes."""
    return read_options(folder)[0]


def save(folder: Path, trigger_word: str, repeats: int, background: str, flip: bool) -> None:
    """Write what changed; everything else in the file stays."""
    colour = hexadecimal(background)
    named = "white" if colour == "#ffffff" else colour
    write_options(folder, {"trigger_word": trigger_word, "repeats": repeats, "background": named, "flip": flip})


def hexadecimal(colour: str) -> str:
    """A colour as #rrggbb, from a name, #rgb, or the rgba(…) that a colour picker gives."""
    numbers = re.fullmatch(r"rgba?\(([\d.]+),\s*([\d.]+),\s*([\d.]+).*\)", colour)
    levels = [round(float(each)) for each in numbers.groups()] if numbers else ImageColor.getrgb(colour)[:3]
    return "#" + "".join(f"{level:02x}" for level in levels)
