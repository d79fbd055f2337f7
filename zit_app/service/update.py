"""Updates of the program: offered, never forced, only forward. The network is asked only when the user asks."""

import os
import subprocess
from pathlib import Path

from zit_app.core import paths, workers
from zit_app.core.errors import ZitError

FETCH_SECONDS = 120
ANOTHER_WAY = "Download the new version into a folder of its own; pictures, runs and models lie in the home folder."


def look(project: Path = paths.PROJECT) -> tuple[str, ...]:
    """Ask where this copy came from what is new: the titles of the commits that would come, oldest first.

    Raises ZitError when this is no git clone, when its origin cannot be asked, or when it has commits of its own.
    """
    try:
        _git(project, "rev-parse", "--git-dir")
    except (OSError, subprocess.CalledProcessError) as error:
        raise ZitError("This copy of the program is no git clone, or git is not installed.", ANOTHER_WAY) from error
    try:
        _git(project, "rev-parse", "@{upstream}")
    except subprocess.CalledProcessError as error:
        raise ZitError("This copy follows no branch of another one.", "Update it with git.") from error
    try:
        _git(project, "fetch", "--quiet")
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = str(getattr(error, "stderr", "") or "no answer").strip().splitlines()[-1]
        raise ZitError(f"Where this copy came from could not be asked: {said}", "Check the network.") from error
    if _git(project, "rev-list", "@{upstream}..HEAD"):
        raise ZitError("This copy has commits of its own.", "Bring both together with git.")
    return tuple(_git(project, "log", "--reverse", "--format=%s", "HEAD..@{upstream}").splitlines())


def take(project: Path = paths.PROJECT) -> None:
    """Move to what `look` found, forward only.

    Raises ZitError, with nothing changed, when files of the program were edited or a run is being worked on.
    """
    for file in (paths.home() / "workers").glob("*.lock"):
        if (workers.record(int(file.stem)) or {}).get("state") == "working":
            raise ZitError("A run is being worked on.", "Wait for it or stop it, then update.")
    edited = _git(project, "status", "--porcelain", "--untracked-files=no").splitlines()
    if edited:
        raise ZitError(f"Files of the program were edited: {edited[0][3:]}.", "Put them back, or use git yourself.")
    try:
        _git(project, "merge", "--quiet", "--ff-only", "@{upstream}")
    except subprocess.CalledProcessError as error:
        said = str(error.stderr).strip().splitlines()[-1]
        raise ZitError(f"git could not update: {said}", ANOTHER_WAY) from error


def _git(project: Path, *words: str) -> str:
    quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}  # a question nobody sees would wait for ever
    command = ["git", "-C", str(project), *words]
    ran = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=FETCH_SECONDS, check=True)
    return ran.stdout.rstrip()
