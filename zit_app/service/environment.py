"""The project's own Python environment: where it lies, and whether it still fits the project.

A stamp in it tells so, so that the next start asks nobody and needs no network. Standard library only, because it is
read before there is anything else.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Layout:
    """Where everything lies inside the project."""

    project: Path

    @property
    def environment(self) -> Path:
        return self.project / ".venv"

    @property
    def python(self) -> Path:
        return self.environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def stamp(self) -> Path:
        return self.environment / "zit-stamp.json"

    @property
    def own_uv(self) -> Path:
        """Where uv is installed when the machine has none."""
        return self.project / ".zit" / "uv"


def wanted_hash(project: Path) -> str:
    """What an environment depends on: the dependencies, their versions, and the folder (paths stand in its scripts)."""
    digest = hashlib.sha256(str(project).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((project / name).read_bytes())
    return digest.hexdigest()


def is_ready(layout: Layout, extras: Sequence[str]) -> bool:
    """Whether the environment carries the stamp of these dependencies and its Python is still the same one."""
    stamp = read_stamp(layout)
    return (
        layout.python.exists()
        and stamp.get("python") == os.path.realpath(layout.python)
        and stamp.get("hash") == wanted_hash(layout.project)
        and set(extras) <= set(stamp.get("extras", ()))
    )


def read_stamp(layout: Layout) -> dict[str, Any]:
    """The stamp of the last finished installation, empty without one."""
    try:
        return dict(json.loads(layout.stamp.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def write_stamp(layout: Layout, extras: Sequence[str], found: str, source: str) -> None:
    """Note what the environment was made for; the last act of an installation."""
    stamp = {"hash": wanted_hash(layout.project), "python": os.path.realpath(layout.python), "extras": list(extras)}
    layout.stamp.write_text(json.dumps({**stamp, "torch": found, "source": source}, indent=1), encoding="utf-8")
