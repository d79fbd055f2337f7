"""Where things are: the user's home folder and what ships with the project."""

import os
from pathlib import Path

import platformdirs

PROJECT = Path(__file__).resolve().parents[2]


def home() -> Path:
    """The user's folder for models and runs: `ZIT_HOME`, else the system's folder for application data."""
    chosen = os.environ.get("ZIT_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(platformdirs.user_data_path("zit-studio", appauthor=False))


def models() -> Path:
    """Model folders, one a model."""
    return home() / "models"


def captioners() -> Path:
    """Folders of models that describe pictures, one a model."""
    return home() / "captioners"


def runs(kind: str) -> Path:
    """The run folders of one kind (`train`, `generate`, …)."""
    return home() / "runs" / kind


def guest_runs() -> Path:
    """The run folders of guests, `<time>_<guest>-<random>`: pictures and comparisons of whoever has the shared link."""
    return runs("guest")


def inputs() -> Path:
    """Copies of the pictures that pictures started from, named by their hash."""
    return home() / "inputs"


def wildcards() -> Path:
    """Text files of which prompts take a line, `NAME.txt`."""
    return home() / "wildcards"


def assets() -> Path:
    """The pocket model and the demo pictures that ship with the project."""
    return PROJECT / "assets"


def presets() -> Path:
    """The training presets that ship with the project, `NAME.toml`."""
    return PROJECT / "presets"
