"""The queue of runs that wait for a worker.

`<home>/queue.json` holds the order, the run folders hold the truth: a run waits as long as its phase is "queued". A run
that the command line works on itself is never in the order. When the file is lost, the order is rebuilt from the
folders by the time they were queued, the owner's first.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zit_app.core import lock, paths
from zit_app.core.errors import ZitError
from zit_app.core.files import read_json, write_json, writing
from zit_app.core.run import Run


def enqueue(run: Run) -> None:
    """Put a run at the end of the queue: a new one, or one that ended and is to go on. The owner's go before guests'.

    Raises ZitError when a process works in it. What was asked of an earlier worker is forgotten.
    """
    with exclusive():
        state = run.state()
        if state in ("running", "not responding"):
            raise ZitError(f"{run.folder.name} is being worked on.", "Wait for it or stop it first.")
        if state != "queued":
            (run.folder / "control.json").unlink(missing_ok=True)
        waiting = [other.folder for other in order() if other.folder != run.folder]
        place = len(waiting)
        if not is_guests(run.folder):  # behind the owner's last one
            place = max((i + 1 for i, folder in enumerate(waiting) if not is_guests(folder)), default=0)
        _save([*waiting[:place], run.folder, *waiting[place:]])
        run.write_status("queued", message="", queued=time.time())  # killed before: in the order, but not waiting


def is_guests(folder: Path) -> bool:
    """Whether a run belongs to a guest of the shared page."""
    return folder.parent == paths.guest_runs()


def order() -> list[Run]:
    """The waiting runs, the next one first."""
    try:
        folders = [Path(text) for text in read_json(paths.home() / "queue.json")]
    except (ZitError, TypeError):
        folders = _from_folders()
    found = [Run(folder) for folder in folders if (folder / "settings.toml").is_file()]
    return [run for run in found if run.status().get("phase") == "queued"]


def move(run: Run, position: int) -> None:
    """Put a waiting run at `position`, 0 = next."""
    with exclusive():
        folders = [other.folder for other in order()]
        if run.folder in folders:
            folders.remove(run.folder)
            folders.insert(max(0, position), run.folder)
            _save(folders)


def cancel(run: Run) -> bool:
    """Take a waiting run out of the queue; false when it waits no more (a worker has it)."""
    with exclusive():
        waiting = [other.folder for other in order()]
        if run.folder not in waiting:
            return False
        Run.open(run.folder).write_status("stopped", message="Cancelled before it began.")
        _save([folder for folder in waiting if folder != run.folder])
        return True


@contextmanager
def exclusive() -> Iterator[None]:
    """Nobody else changes the queue within the block. A worker takes its next run inside one."""
    path = paths.home() / "queue.lock"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    while True:
        with lock.held(path) as taken:
            if taken:
                yield
                return


def _save(folders: list[Path]) -> None:
    write_json(paths.home() / "queue.json", [str(folder) for folder in folders])


def _from_folders() -> list[Path]:
    runs = [Run(file.parent) for file in (paths.home() / "runs").glob("*/*/status.json")]
    queued = [(run.status().get("queued"), run.folder) for run in runs if run.status().get("phase") == "queued"]
    waiting = sorted((is_guests(folder), when, folder) for when, folder in queued if when)
    return [folder for _, _, folder in waiting]
