"""Which undistilled model a few-step model came from, and which protection a training of either should have."""

from pathlib import Path

from zit_app.core import paths
from zit_app.core.machine import memory_bytes
from zit_app.core.models import FOLDERS, list_models, read_flavour, weight_files

UNDISTILLED = {"turbo": "base", "pocket": "pocket-base"}
ROOM = 2  # times the undistilled weights: 12.3 GB of them wait in memory, so 32 GB are enough and 16 are not


def origin_of(model: Path) -> str | None:
    """Name of the model that the one in folder ``model`` was distilled from; None when that is not known."""
    for name, base in UNDISTILLED.items():
        places = (paths.models() / FOLDERS.get(name, name), paths.assets() / "pocket" / name)
        if model.resolve() in (place.resolve() for place in places):
            return base
    return None


def best_protection(model: Path, named_base: str = "") -> str:
    """What ``training.protection = "auto"`` stands for with the model in this folder, on this machine.

    Nothing for a model that is not distilled; learning on the undistilled weights where they are here (or
    ``named_base`` says which they are) and the memory can hold them beside all else; else staying near the few-step
    model (docs/protection.md has the figures).
    """
    if read_flavour(model).guidance > 0:
        return "none"
    if named_base:
        return "base"
    places = {info.name: info.path for info in list_models() if info.ready}
    place = places.get(origin_of(model) or "")
    if place is None:
        return "tether"
    weights = place / "transformer" if place.is_dir() else paths.assets() / "pocket" / place.name / "transformer"
    return "base" if ROOM * sum(file.stat().st_size for file in weight_files(weights)) <= memory_bytes() else "tether"
