"""Which torch fits this machine, where it comes from, and whether it works. Standard library only."""

import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zit_app.core.errors import ZitError

TORCH_INDEX = "https://download.pytorch.org/whl/cpu/torch/"
PATIENCE_SECONDS = 8
PRODUCT = """
import torch
card = torch.cuda.is_available()
a = torch.ones(64, 64, device="cuda" if card else "cpu")
assert float((a @ a).sum()) == 64**3, "wrong product"
print(torch.__version__, "on", torch.cuda.get_device_name() if card else "the CPU")
"""


@dataclass(frozen=True)
class TorchSource:
    """Where torch comes from: arguments and environment for uv, and the words for the user."""

    words: str
    requirement: str = "torch"
    arguments: tuple[str, ...] = ()
    backend: str = ""


def choose_torch(
    tag: str, card: bool, folders: Sequence[Path], reachable: Callable[[], bool], chosen: str = ""
) -> TorchSource:
    """Which torch fits this machine, without asking the user.

    First a wheel that the machine's pip is pointed to (find-links): whoever set that up means it, and without a card
    the registry's build would bring gigabytes of CUDA along. Then torch's own index, where uv picks the build for the
    card. Where that cannot be reached, the registry.

    tag        of the interpreter, such as cp311
    card       whether the machine has one
    folders    what pip's find-links name
    reachable  asks torch's own index
    chosen     UV_TORCH_BACKEND, when the user has set it
    """
    if chosen:
        return TorchSource(f"its own index, build {chosen} as UV_TORCH_BACKEND says", backend=chosen)
    wheel = find_torch_wheel(folders, tag)
    if wheel is not None and not ("+cpu" in wheel.name and card):
        version = wheel.name.split("-")[1]
        return TorchSource(wheel.name, f"torch=={version}", ("--find-links", str(wheel.parent)))
    if reachable():
        return TorchSource("its own index, the build for this machine's card", backend="auto")
    return TorchSource(
        "the plain registry, as download.pytorch.org cannot be reached (on Linux that is the CUDA build)"
    )


def find_links(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The local folders that pip looks into: PIP_FIND_LINKS, else pip's own configuration."""
    text = environment.get("PIP_FIND_LINKS", "")
    if not text:
        pip = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
        text = subprocess.run(pip, capture_output=True, text=True, check=False).stdout
    return [Path(name) for name in text.replace("file://", "").split() if Path(name).is_dir()]


def find_torch_wheel(folders: Sequence[Path], tag: str) -> Path | None:
    """The newest torch wheel for this interpreter and machine in those folders."""
    system = {"Linux": "linux", "Darwin": "macosx", "Windows": "win"}[platform.system()]
    machine = platform.machine().lower()

    def fits(wheel: Path) -> bool:
        parts = wheel.stem.split("-")
        return parts[2] == tag and system in parts[-1] and parts[-1].lower().endswith(machine)

    def version(wheel: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", wheel.name.split("-")[1])]

    return max((w for folder in folders for w in folder.glob("torch-*.whl") if fits(w)), key=version, default=None)


def has_card() -> bool:
    """Whether an NVIDIA or AMD driver is loaded."""
    return any(Path(path).exists() for path in ("/proc/driver/nvidia/version", "/dev/kfd")) or bool(
        shutil.which("nvidia-smi")
    )


def index_reachable(address: str = TORCH_INDEX) -> bool:
    """Whether torch's own package index answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE_SECONDS):
            return True
    except (OSError, urllib.error.URLError):
        return False


def verify(python: Path) -> str:
    """A tiny product with the torch that is now installed, on the card if there is one; returns where it ran."""
    ran = subprocess.run([python, "-W", "ignore", "-c", PRODUCT], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        last = (ran.stderr.strip().splitlines() or [f"code {ran.returncode}"])[-1]
        remedy = "Update the graphics driver, or set UV_TORCH_BACKEND=cpu."
        raise ZitError(f"torch does not work here: {last}.", remedy)
    return ran.stdout.strip()
