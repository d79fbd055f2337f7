"""What a preview shows and how it is drawn: a prompt and, behind it, the options of other trainers' sample prompts.

a red boat --w 832 --h 1216 --d 7 --s 12 --n blurry
"""

import re
from dataclasses import dataclass
from typing import Any

from zit_app.core.errors import ZitError

OPTIONS = "--w WIDTH, --h HEIGHT, --d SEED, --s STEPS, --n NEGATIVE PROMPT"
# Option: field, least, most, step.
_NUMBERS = {
    "w": ("width", 16, 4096, 16),
    "h": ("height", 16, 4096, 16),
    "d": ("seed", 0, 2**63 - 1, 1),
    "s": ("steps", 1, 200, 1),
}
_OPTION = re.compile(r"(?:^|\s)--(?=\S)")
_SIZE = re.compile(r"\s--[wh]\s+\d+(?=\s|$)")


@dataclass(frozen=True)
class PreviewLine:
    """One line. 0, -1 and "" stand for what the line leaves open."""

    prompt: str
    width: int = 0  # pixels; 0 = the training's resolution
    height: int = 0
    seed: int = -1  # -1 = its place in the list
    steps: int = 0  # 0 = the training's nodes, for a guided model its own
    negative: str = ""  # counts for a guided model


def read_preview(line: str) -> PreviewLine:
    """Read a line. Raises ZitError for an unknown option, a value that is none, and a line without a prompt."""
    prompt, *options = _OPTION.split(line.strip())
    found: dict[str, Any] = {}
    for letter, _, value in (option.strip().partition(" ") for option in options):
        if letter == "n":
            found["negative"] = value.strip()
        elif letter in _NUMBERS:
            name, least, most, step = _NUMBERS[letter]
            found[name] = _number(letter, value.strip(), least, most, step)
        else:
            raise ZitError(f"Preview prompts have no option --{letter}.", f"Known: {OPTIONS}.")
    if not prompt.strip():
        raise ZitError(f"The preview {line.strip()!r} has no prompt.", "Write what it shows before its options.")
    return PreviewLine(prompt.strip(), **found)


def at_training_size(line: str) -> str:
    """The line without a size of its own."""
    return _SIZE.sub("", line)


def _number(letter: str, text: str, least: int, most: int, step: int) -> int:
    if text.isascii() and text.isdigit() and least <= int(text) <= most and int(text) % step == 0:
        return int(text)
    raise ZitError(
        f"--{letter} {text} in a preview prompt is not understood.",
        f"Give a whole number from {least} to {most}, a multiple of {step}.",
    )
