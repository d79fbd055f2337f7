"""uv, which makes environments and installs packages: found, or installed inside the project. Standard library only."""

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from zit_app.core.errors import ZitError
from zit_app.service.environment import Layout
from zit_app.service.torch_source import PATIENCE_SECONDS, TorchSource

OLDEST_UV = (0, 8)  # knows UV_TORCH_BACKEND and --clear


def find_uv(layout: Layout) -> Path | None:
    """A uv that works and is new enough: the one on the path, else the one installed here before."""
    name = "uv.exe" if os.name == "nt" else "uv"
    on_path = shutil.which("uv")
    own = [layout.own_uv / name, layout.own_uv / "pip" / "bin" / name]
    for candidate in filter(None, [on_path, *(str(path) for path in own if path.is_file())]):
        ran = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        version = re.match(r"uv (\d+)\.(\d+)", ran.stdout)
        if ran.returncode == 0 and version and tuple(map(int, version.groups())) >= OLDEST_UV:
            return Path(candidate)
    return None


def install_uv(layout: Layout) -> Path:
    """Install uv inside the project: its own installer, else the package of the registry that pip is set up for."""
    layout.own_uv.mkdir(parents=True, exist_ok=True)
    try:
        run_installer(layout)
    except (OSError, subprocess.CalledProcessError):
        # --target asks for no virtual environment: Debian's Python comes without ensurepip, and pip may not touch it.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
        surroundings = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
        subprocess.run([*pip, "--target", str(layout.own_uv / "pip"), "uv"], env=surroundings, check=False)
    uv = find_uv(layout)
    if uv is None:
        remedy = "Check the network, or install uv yourself: docs.astral.sh/uv."
        raise ZitError("uv, which installs the rest, could not be installed.", remedy)
    return uv


def run_installer(layout: Layout) -> None:
    """Astral's installer, told to touch nothing outside `.zit/uv`. Raises OSError when it cannot be reached."""
    if os.name == "nt":
        raise OSError("the installer for Windows wants PowerShell scripts allowed; the registry's package does not")
    with urllib.request.urlopen("https://astral.sh/uv/install.sh", timeout=PATIENCE_SECONDS) as answer:
        script = answer.read()
    surroundings = {**os.environ, "UV_UNMANAGED_INSTALL": str(layout.own_uv)}
    subprocess.run(["sh"], input=script, env=surroundings, check=True, capture_output=True)


def make_environment(layout: Layout, uv: Path) -> None:
    """`.venv` with the Python that runs this, which the launcher found to be new enough; a broken one is made again.

    Broken is also one whose Python the system has replaced by a newer one: its packages lie in another folder.
    """
    whole = "import os, sys, sysconfig; sys.exit(not os.path.isdir(sysconfig.get_paths()['purelib']))"
    if layout.python.exists() and subprocess.run([layout.python, "-c", whole], check=False).returncode == 0:
        return
    command = [str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(layout.environment)]
    if subprocess.run(command, check=False).returncode != 0:
        remedy = "Check free disk space and rights in this folder."
        raise ZitError("The Python environment could not be made.", remedy)


def python_tag(python: Path) -> str:
    """Such as cp311, the name of an interpreter in wheel files."""
    code = "import sys; print('cp%d%d' % sys.version_info[:2])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def uv_install(layout: Layout, uv: Path, source: TorchSource, extras: Sequence[str]) -> bool:
    """One `uv pip install`; its own progress shows on a terminal only."""
    constraints = str(layout.project / "constraints.txt")
    project = f"{layout.project}[{','.join(extras)}]" if extras else str(layout.project)
    command = [str(uv), "pip", "install", "--python", str(layout.python), "--constraints", constraints]
    command += ["--build-constraints", constraints, *source.arguments, source.requirement, "--editable", project]
    if not sys.stderr.isatty():
        command.insert(1, "--quiet")
    surroundings = dict(os.environ)
    surroundings.pop("UV_TORCH_BACKEND", None)
    if source.backend:
        surroundings["UV_TORCH_BACKEND"] = source.backend
    mirror = pip_index()
    if mirror:
        surroundings.setdefault("UV_DEFAULT_INDEX", mirror)
    return subprocess.run(command, env=surroundings, check=False).returncode == 0


def pip_index(environment: Mapping[str, str] = os.environ) -> str:
    """The registry that pip is set up for, a mirror or a company's own; empty for the usual one."""
    if environment.get("PIP_INDEX_URL"):
        return environment["PIP_INDEX_URL"]
    pip = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    return subprocess.run(pip, capture_output=True, text=True, check=False).stdout.strip()
