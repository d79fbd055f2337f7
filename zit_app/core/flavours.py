"""What a model is meant to be run at, and how far its positions reach."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """How far a model's positions reach: caption tokens, pixels."""

    tokens: int
    width: int
    height: int


TURBO = Flavour("turbo", steps=8, guidance=0.0, shift=3.0, pixels=1024)
BASE = Flavour("base", steps=50, guidance=4.0, shift=3.0, pixels=1024)


def read_flavour(folder: Path) -> Flavour:
    """What the model in ``folder`` is meant to be run at: its ``flavour.json``, else told from its name."""
    file = folder / "flavour.json"
    if file.is_file():
        given: dict[str, Any] = read_json(file)["zit_flavour"]
        return Flavour(**{**TURBO.__dict__, **given})
    origin = str(read_json(folder / "model_index.json").get("_name_or_path", ""))
    return flavour_by_name(Path(origin or folder.resolve()).name) or TURBO


def read_limits(folder: Path) -> Limits:
    """The largest picture and caption of the model in ``folder``, from the reach of its rotary positions."""
    times, rows, columns = read_json(folder / "transformer" / "config.json")["axes_lens"]
    # Caption token i stands at time 1 + i, the picture at one more; captions are padded to multiples of 32.
    return Limits(tokens=(times - 2) // 32 * 32, width=columns * 16, height=rows * 16)


def flavour_by_name(name: str) -> Flavour | None:
    """What a name tells: "Z-Image", "z-image-base" … or "…-turbo-…"; None when it tells nothing."""
    name = name.lower()
    if "turbo" in name:
        return TURBO
    return BASE if "base" in name or name in ("z-image", "z_image") else None
