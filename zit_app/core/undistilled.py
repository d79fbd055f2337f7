"""Which undistilled model a few-step model came from, and which protection a training of either should have."""

from pathlib import Path

from zit_app.core import paths
from zit_app.core.machine import memory_bytes
from zit_app.core.models import FOLDERS, read_flavour

UNDISTILLED = {"turbo": "base", "pocket": "pocket-base"}
ROOM = 2  # times the undistilled weights: 12.3 GB of them wait in memory, so 32 GB are enough and 16 are not


def origin_of(model: Path) -> str | None:
    """Name of the model that the one in folder ``model`` was distilled from; None when that is not known."""
    place = model.resolve()
    for name, base in UNDISTILLED.items():
        places = (paths.models() / FOLDERS.get(name, name), _place(name))
        if place in (each.resolve() for each in places):
            return base
    return None


def best_protection(model: Path, named_base: str = "") -> str:
    """What ``training.protection = "auto"`` stands for with the model in this folder, on this machine.

    Nothing for a model that is not distilled; learning on the undistilled weights where they are here (or
    ``named_base`` says which they are) and the memory can hold them beside all else; else learning on the few-step
    model's own ways (docs/protection.md and docs/training.md have the figures).
    """
    if read_flavour(model).guidance > 0:
        return "none"
    if named_base:
        return "base"
    origin = origin_of(model)
    place = None if origin is None else _place(origin)
    if place is None or not (place / "model_index.json").is_file():
        return "own_ways"
    size = sum(file.stat().st_size for file in (place / "transformer").glob("*.safetensors"))
    return "base" if ROOM * size <= memory_bytes() else "own_ways"


def _place(name: str) -> Path:
    """Where a model lies, found without listing the others: the app asks this at every look."""
    return paths.models() / FOLDERS[name] if name in FOLDERS else paths.assets() / "pocket" / name
