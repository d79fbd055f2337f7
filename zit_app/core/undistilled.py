"""Which undistilled model a few-step model came from, and which protection a training of either should have."""

from pathlib import Path

from zit_app.core import paths
from zit_app.core.models import FOLDERS, list_models, read_flavour

UNDISTILLED = {"turbo": "base", "pocket": "pocket-base"}


def origin_of(model: Path) -> str | None:
    """Name of the model that the one in folder ``model`` was distilled from; None when that is not known."""
    for name, base in UNDISTILLED.items():
        places = (paths.models() / FOLDERS.get(name, name), paths.assets() / "pocket" / name)
        if model.resolve() in (place.resolve() for place in places):
            return base
    return None


def best_protection(model: Path, named_base: str = "") -> str:
    """What ``training.protection = "auto"`` stands for with the model in this folder, on this machine.

    Nothing for a model that is not distilled; learning on the undistilled weights where they are here or ``named_base``
    says which they are; else staying near the few-step model (docs/protection.md has the figures).
    """
    if read_flavour(model).guidance > 0:
        return "none"
    here = {info.name for info in list_models() if info.ready}
    return "base" if named_base or origin_of(model) in here else "tether"
