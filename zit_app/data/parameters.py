"""Pictures of other programs: what A1111's web interface, and many after it, write into a PNG's ``parameters``.

red apple on a table <lora:style:0.8>
Negative prompt: blurry
Steps: 20, Sampler: Euler, CFG scale: 4.5, Seed: 123, Size: 512x768, Model: z_image_turbo, Version: v1.10
"""

import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from zit_app.core.errors import ZitError

_NEGATIVE = "Negative prompt: "
_LORA = re.compile(r"\s*<lora:([^:>]+)(?::([-+]?\d*\.?\d+))?[^>]*>")
_FACT = re.compile(r'\s*([^:,"]+): *("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True)
class Parameters:
    """What such a text says; 0 and "" where it says nothing. `guidance` is in diffusers' convention."""

    prompt: str
    negative_prompt: str
    steps: int
    guidance: float
    seed: int
    width: int
    height: int
    model: str
    loras: tuple[tuple[str, float], ...]  # name and weight


def read_parameters(png: Path) -> Parameters:
    """The settings in a picture of another program. Raises ZitError when it holds none."""
    try:
        with Image.open(png) as picture:
            text = picture.info.get("parameters")
    except FileNotFoundError as error:
        raise ZitError(f"{png} does not exist.", "Check the path.") from error
    except (OSError, SyntaxError) as error:
        raise ZitError(f"{png.name} is no picture that can be read.", "Give a PNG as it was saved.") from error
    if not isinstance(text, str):
        raise ZitError(f"{png.name} holds no settings.", "Give a PNG as it was saved; messengers drop them.")
    return parse_parameters(text)


def parse_parameters(text: str) -> Parameters:
    """The settings in a text. Its last line holds the facts, `<lora:name:weight>` in the prompt the adapters."""
    lines = text.strip().splitlines()
    facts: dict[str, str] = {}
    if lines and lines[-1].startswith("Steps: "):
        facts = {key.strip(): value.strip().strip('"') for key, value in _FACT.findall(lines.pop())}
    body = "\n".join(lines)
    prompt, _, negative = body.partition(_NEGATIVE)
    size = _SIZE.fullmatch(facts.get("Size", ""))
    # Others count guidance from 1 (off): neg + cfg (pos - neg) = pos + (cfg - 1) (pos - neg).
    own = facts.get("Version", "").startswith("ZIT Studio")
    guidance = max(0.0, _number(facts.get("CFG scale", ""), 0.0 if own else 1.0) - (0 if own else 1))
    return Parameters(
        prompt=_LORA.sub("", prompt).strip(),
        negative_prompt=negative.strip(),
        steps=int(_number(facts.get("Steps", ""), 0)),
        guidance=guidance,
        seed=int(_number(facts.get("Seed", ""), 0)),
        width=int(size[1]) if size else 0,
        height=int(size[2]) if size else 0,
        model=facts.get("Model", ""),
        loras=tuple((name, float(weight or 1)) for name, weight in _LORA.findall(prompt)),
    )


def _number(text: str, otherwise: float) -> float:
    try:
        return float(text)
    except ValueError:
        return otherwise
