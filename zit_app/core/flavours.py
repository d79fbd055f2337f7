"""What a model is meant to be run at, and how far its positions reach."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zit_app.core.errors import ZitError
from zit_app.core.files import read_json


@dataclass(frozen=True)
class Flavour:
    """What a model is meant to be run at. ``guidance`` in diffusers' convention: pos + guidance (pos - neg)."""

    name: str
    steps: int
    guidance: float
    shift: float
    pixels: int


@dataclass(frozen=True)
class Limits:
    """How far a model's positions reach: caption tokens, pixels. ``references``: pictures that it can look at."""

    tokens: int
    width: int
    height: int
    references: int = 0


TURBO = Flavour("turbo", steps=8, guidance=0.0, shift=3.0, pixels=1024)
BASE = Flavour("base", steps=50, guidance=4.0, shift=6.0, pixels=1024)
OMNI = Flavour("omni", steps=50, guidance=4.0, shift=6.0, pixels=1024)
OMNI_CLASS = "ZImageOmniPipeline"
MOST_REFERENCES = 8  # of one drawing; each costs as much time and memory as a picture that is drawn


def read_flavour(folder: Path) -> Flavour:
    """What the model in ``folder`` is meant to be run at.

    From its ``flavour.json``; else from its class, its name and, where they tell nothing, its scheduler's shift, which
    counts in any case.
    """
    file = folder / "flavour.json"
    if file.is_file():
        given: dict[str, Any] = read_json(file)["zit_flavour"]
        return Flavour(**{**TURBO.__dict__, **given})
    shift, named = _shift(folder), OMNI
    if not sees_pictures(folder):
        origin = str(read_json(folder / "model_index.json").get("_name_or_path", ""))
        told = flavour_by_name(Path(origin or folder.resolve()).name)
        named = told or (BASE if shift == BASE.shift else TURBO)
    return replace(named, shift=shift or named.shift)


def read_limits(folder: Path) -> Limits:
    """The largest picture and caption of the model in ``folder``, from the reach of its rotary positions."""
    times, rows, columns = read_json(folder / "transformer" / "config.json")["axes_lens"]
    # Caption token i stands at time 1 + i, the picture at one more; captions are padded to multiples of 32.
    seen = MOST_REFERENCES if sees_pictures(folder) else 0
    return Limits(tokens=(times - 2) // 32 * 32, width=columns * 16, height=rows * 16, references=seen)


def check_size(size: tuple[int, int], limits: Limits) -> None:
    """Raises ZitError for a (width, height) in pixels that this model cannot draw."""
    if size[0] % 16 or size[1] % 16:
        raise ZitError(f"{size[0]}x{size[1]}: sides must be multiples of 16.", "Choose multiples of 16.")
    if size[0] > limits.width or size[1] > limits.height:
        raise ZitError(
            f"{size[0]}x{size[1]} is larger than this model can draw.", f"Stay within {limits.width}x{limits.height}."
        )


def sees_pictures(folder: Path) -> bool:
    """Whether the model in ``folder`` is an Omni, which looks at pictures that the prompt speaks of."""
    index = folder / "model_index.json"
    return index.is_file() and read_json(index).get("_class_name") == OMNI_CLASS


def _shift(folder: Path) -> float:
    """The shift of the model's scheduler, 3 for Turbo and 6 for Base; 0 when it tells none."""
    file = folder / "scheduler" / "scheduler_config.json"
    return float(read_json(file).get("shift", 0)) if file.is_file() else 0.0


def flavour_by_name(name: str) -> Flavour | None:
    """What a name tells: "Z-Image", "z-image-base" … or "…-turbo-…"; None when it tells nothing."""
    name = name.lower()
    if "turbo" in name:
        return TURBO
    return BASE if "base" in name or name in ("z-image", "z_image") else None
