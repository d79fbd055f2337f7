"""What `launch.sh` and `launch.bat` do: make the environment inside the project, check it, hand over to the program.

Needs only the standard library of Python 3.10, because it runs before there is anything else.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from zit_app.core.errors import ZitError
from zit_app.service.browser import provide_browser
from zit_app.service.environment import Layout, is_ready, read_stamp, write_stamp
from zit_app.service.torch_source import TorchSource, choose_torch, find_links, has_card, index_reachable, verify
from zit_app.service.uv import find_uv, install_uv, make_environment, python_tag, uv_install

PROJECT = Path(__file__).resolve().parents[2]
# Left over from other environments, these make an interpreter or uv look in the wrong place. The last one, which Docker
# images set to stay small, makes every start compile its libraries again: half a minute instead of ten seconds.
HOSTILE = (
    "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "UV_PROJECT_ENVIRONMENT", "PYTHONDONTWRITEBYTECODE"
)  # fmt: skip


def main(words: Sequence[str], project: Path = PROJECT) -> int:
    """Make sure of the environment, then run what `words` ask for."""
    layout = Layout(project)
    extras = ("dev",) if words[:1] == ["test"] else ()
    for name in HOSTILE:
        os.environ.pop(name, None)
    try:
        if not is_ready(layout, extras):
            install(layout, extras)
        if words[:1] == ["test"]:
            provide_browser()
    except ZitError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; start again to go on.", file=sys.stderr)
        return 130
    return hand_over(layout, words)


def command_for(layout: Layout, words: Sequence[str]) -> list[str]:
    """No word opens the app, `test` runs the tests (further words go to pytest), anything else goes to `zit`."""
    python, project = str(layout.python), str(layout.project)
    if words[:1] == ["test"]:  # -rs: what is skipped is named, with its reason
        everything = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", str(layout.project / "tests")]
        return [python, "-m", "pytest", "-rs", "--rootdir", project, *(words[1:] or everything)]
    return [python, str(layout.project / "app.py"), *words]


def hand_over(layout: Layout, words: Sequence[str]) -> int:
    """Become the program (Windows cannot, there it is waited for)."""
    command = command_for(layout, words)
    if os.name == "nt":
        return subprocess.call(command)
    os.execv(command[0], command)


def install(layout: Layout, extras: Sequence[str]) -> None:
    """Find uv, make the environment, install, verify, stamp. May be interrupted and repeated at any point."""
    extras = sorted({*extras, *read_stamp(layout).get("extras", ())})
    layout.stamp.unlink(missing_ok=True)
    tell("1/4 uv, which installs the rest")
    uv = find_uv(layout) or install_uv(layout)
    tell("2/4 Python environment in .venv")
    make_environment(layout, uv)
    chosen = os.environ.get("UV_TORCH_BACKEND", "")
    source = choose_torch(python_tag(layout.python), has_card(), find_links(), index_reachable, chosen)
    tell(f"3/4 packages; torch from {source.words}. The first time this takes minutes and gigabytes.")
    source = install_packages(layout, uv, source, extras)
    tell("4/4 a first product with torch")
    found = verify(layout.python)
    tell(f"    {found}")
    write_stamp(layout, extras, found, source.words)


def install_packages(layout: Layout, uv: Path, source: TorchSource, extras: Sequence[str]) -> TorchSource:
    """Install the project, editable, in the versions of the constraints; returns the source that it came to."""
    if uv_install(layout, uv, source, extras):
        return source
    if source.backend:
        plain = TorchSource("the plain registry, as torch's own index did not serve")
        tell(f"    torch comes from {plain.words}.")
        if uv_install(layout, uv, plain, extras):
            return plain
    remedy = "Check network and disk space, then start again."
    raise ZitError("The packages could not be installed (see above).", remedy)


def tell(text: str) -> None:
    """Progress for people; standard output belongs to the program."""
    print(text, file=sys.stderr, flush=True)
