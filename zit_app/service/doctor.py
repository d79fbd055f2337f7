"""One page about this machine that a stranger can read: what is fine, what is not, and what to do about it."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zit_app.core import paths
from zit_app.core.errors import ZitError
from zit_app.core.files import write_atomic
from zit_app.core.machine import memory_bytes
from zit_app.core.models import POCKET, list_models
from zit_app.service.probe import probe

GIB = 1 << 30
PACKAGES = (
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "bitsandbytes",
    "optimum-quanto",
    "safetensors",
    "gradio",
)
REINSTALL = "Delete the folder .venv in the project and run `bash launch.sh` again."
_LIST_WIDTH = 10


@dataclass(frozen=True)
class Check:
    """One line of the page; a `remedy` means that something is wrong."""

    name: str
    found: str
    remedy: str = ""


def examine() -> list[Check]:
    """Look at everything that the project needs. Takes as long as importing torch."""
    facts = probe(sys.executable)
    return [
        _python(),
        *torch_checks(facts),
        *card_checks(facts),
        _memory(),
        _disk(),
        home_check(),
        *model_checks(),
        *_versions(),
        *torchvision_checks(facts),
    ]


def page(checks: list[Check]) -> str:
    """The checks as text: one line each, the remedy below what is wrong."""
    lines = []
    for check in checks:
        mark = "problem" if check.remedy else "ok"
        lines.append(f"{mark:<8} {check.name:<{_LIST_WIDTH}} {check.found}")
        if check.remedy:
            lines.append(f"{'':<8} {'':<{_LIST_WIDTH}} → {check.remedy}")
    problems = sum(bool(check.remedy) for check in checks)
    lines.append("Everything is fine." if not problems else f"{problems} of {len(checks)} need attention, see →.")
    return "\n".join(lines)


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})"
    return Check("python", found)


def torch_checks(facts: dict[str, Any]) -> list[Check]:
    if "error" in facts:
        return [Check("torch", f"does not work: {facts['error']}", REINSTALL)]
    build = f"CUDA {facts['cuda']}" if facts["cuda"] else f"ROCm {facts['hip']}" if facts["hip"] else "CPU only"
    found = f"{facts['version']}, {build}, {facts['threads']} threads, imported in {facts['seconds']:.1f} s"
    return [Check("torch", found, "" if facts["product"] else f"It computes wrong products. {REINSTALL}")]


def card_checks(facts: dict[str, Any]) -> list[Check]:
    cards = facts.get("cards", [])
    if not cards:
        driver = _nvidia_driver()
        if driver is None:
            return [Check("card", "none; the pocket model runs well on the CPU, the full one needs a card with 12 GB")]
        remedy = f"Update the graphics driver. {REINSTALL}"
        return [Check("card", f"{driver} is here, but torch cannot use it", remedy)]
    checks = []
    for card in cards:
        if "error" in card:
            checks.append(
                Check("card", f"{card['name']} does not work: {card['error']}", "Update the graphics driver.")
            )
            continue
        found = f"{card['name']}, {card['memory'] / GIB:.1f} GiB, {card['free'] / GIB:.1f} GiB free"
        checks.append(
            Check("card", found, "" if card["product"] else "It computes wrong products; check the hardware.")
        )
    return checks


def _nvidia_driver() -> str | None:
    """Name and driver version of the first NVIDIA card, None without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stdout.splitlines()[0] if ran.returncode == 0 and ran.stdout.strip() else None


def _memory() -> Check:
    total = memory_bytes()
    found = f"{total / GIB:.1f} GiB, {os.cpu_count()} processors"
    return Check("memory", found, "" if total > 3 * GIB else "Training needs at least 4 GB; close other programs.")


def _disk() -> Check:
    folder = paths.home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.0f} GiB free at {folder}"
    if free < 2 * GIB:
        return Check("disk", found, "Free some space, or move the home folder with ZIT_HOME.")
    return Check("disk", found if free > 40 * GIB else f"{found}; the full model needs 20 GB, its training more")


def home_check() -> Check:
    home = paths.home()
    try:
        write_atomic(home / ".writable", "")
        (home / ".writable").unlink()
    except ZitError as error:
        return Check("home", error.what, "Choose another folder with the environment variable ZIT_HOME.")
    return Check("home", str(home))


def model_checks() -> list[Check]:
    checks = []
    for model in list_models():
        if model.ready:
            size = f", {_gigabytes(model.path)}" if model.path.is_dir() else ""
            checks.append(Check("model", f"{model.name}: ready at {model.path}{size}"))
        elif model.name in POCKET:
            remedy = "Clone the project again; assets/pocket is incomplete."
            checks.append(Check("model", f"{model.name}: the embedded model is missing", remedy))
        else:
            checks.append(Check("model", f"{model.name}: not here; its place is {model.path}"))
    return checks


def _gigabytes(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / GIB:.2f} GiB"


def _versions() -> list[Check]:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    checks = [Check("packages", ", ".join(found))] if found else []
    return checks + [Check("packages", f"{name} is not installed", REINSTALL) for name in missing]


def torchvision_checks(facts: dict[str, Any]) -> list[Check]:
    """torchvision is no dependency; one that fits another torch breaks the import of transformers' processors."""
    if not facts.get("torchvision"):
        return []
    return [Check("torchvision", f"does not fit this torch: {facts['torchvision']}", "Uninstall torchvision.")]
