"""The browser of the tests: Chromium or a relative of it; Debian's is installed when there is none and we may.

Standard library only: `launch.sh test` sees to it before the tests start.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "msedge", "chrome")
APT_SECONDS = 600
MISSING = "There is no browser: install Chromium (apt-get install chromium) or name one with ZIT_CHROMIUM."


def find_browser(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The browser that ZIT_CHROMIUM names, else one on the path; None without one."""
    named = environment.get("ZIT_CHROMIUM")
    if named:
        return Path(named) if Path(named).is_file() else None
    found = (shutil.which(name, path=environment.get("PATH")) for name in NAMES)
    return next((Path(path) for path in found if path), None)


def provide_browser() -> None:
    """Install Chromium with apt, as root or with a sudo that asks nothing; else say what will be skipped."""
    if find_browser() is not None or os.environ.get("ZIT_CHROMIUM"):
        return
    rights = _rights()
    if shutil.which("apt-get") is None or rights is None:
        print(f"{MISSING} The browser tests are skipped.", file=sys.stderr, flush=True)
        return
    print("Installing Chromium (apt) for the browser tests.", file=sys.stderr, flush=True)
    quiet = [*rights, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Acquire::http::Timeout=20"]
    try:
        subprocess.run([*quiet, "update"], stdout=sys.stderr, timeout=APT_SECONDS, check=False)
        install = [*quiet, "install", "--yes", "--no-install-recommends", "chromium"]
        subprocess.run(install, stdout=subprocess.DEVNULL, timeout=APT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        print("apt takes too long.", file=sys.stderr)
    if find_browser() is None:
        print(f"{MISSING} The browser tests are skipped.", file=sys.stderr, flush=True)


def _rights() -> list[str] | None:
    """What to put before a command that only root may run; None when this user may not."""
    if sys.platform == "win32":
        return None
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None or subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode:
        return None
    return [sudo, "-n"]
