"""Start workers, one a card, ask them to stop, and see to it that neither a waiting run nor a deaf one is forgotten."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from functools import lru_cache
from pathlib import Path

from zit_app.core import process, queue, workers
from zit_app.core.errors import ZitError
from zit_app.core.run import Run

PATIENCE_SECONDS = 60.0  # between a request to stop, or the last sign of life after it, and the end by force
_TEND_SECONDS = 2.0


@lru_cache(maxsize=1)
def cards() -> range:
    """The graphics cards by number; a machine without one has a worker 0 all the same. Asked once: it takes a while."""
    return range(max(1, len(workers.all_cards())))


def ensure_workers() -> None:
    """Start detached workers for the runs that wait and that no idle worker will take, on cards that nobody holds."""
    waiting = len(queue.order())
    if waiting:
        records = [workers.record(card) for card in cards()]
        ready = sum(record is not None and record["state"] == "idle" for record in records)
        for card in cards():
            ready += ready < waiting and workers.start_if_needed(card)


def prepare_worker() -> None:
    """Let a worker load its libraries while a person is still writing, so that the first picture comes seconds sooner.

    Not when one is there or a command waits for the card; it ends like any other that stays without work. What stands
    in its way is told when something is asked for.
    """
    with contextlib.suppress(ZitError, OSError):
        if not (workers.is_held(0) or workers.yield_wanted(0)):
            workers.spawn(0, ready=True)


def stop_run(run: Run) -> None:
    """Ask for a stop: the worker finishes its step and saves. A run that only waits is cancelled.

    `tend` ends the process of a run that has given no sign of life for 60 s since.
    """
    if not queue.cancel(run) and "stop" not in run.control():
        run.request(stop=time.time())


def save_now(run: Run) -> None:
    """Ask a training for a checkpoint after its current step."""
    run.request(save=time.time())


def sample_now(run: Run) -> None:
    """Ask a training for previews after its current step."""
    run.request(sample=time.time())


def resume_run(run: Run) -> None:
    """Let a run that was stopped, interrupted or failed go on from what it has.

    Raises ZitError when it is done or being worked on.
    """
    if run.state() == "done":
        raise ZitError(f"{run.folder.name} is done.", "Start a new run instead.")
    queue.enqueue(Run.open(run.folder))
    ensure_workers()


def tend() -> None:
    """What has to be looked after from time to time: start workers for waiting runs, end those that ignore a stop."""
    for card in cards():
        _end_if_deaf(card)
    ensure_workers()


def _end_if_deaf(card: int) -> None:
    record = workers.record(card)
    if record is not None and record["run"]:
        run = Run(Path(record["run"]))
        asked = run.control().get("stop")
        status = run.status()
        if asked and status.get("pid") == record["pid"]:
            silent_since = max(float(asked), float(status.get("heartbeat", 0)))
            if time.time() - silent_since > PATIENCE_SECONDS:
                end_worker(card)


def keep_tending() -> threading.Thread:
    """Tend every two seconds for as long as this process lives."""

    def work() -> None:
        while True:
            with contextlib.suppress(ZitError, OSError):  # a full disk or memory now may be a free one later
                tend()
            time.sleep(_TEND_SECONDS)

    thread = threading.Thread(target=work, name="tend", daemon=True)
    thread.start()
    return thread


def end_worker(card: int = 0) -> None:
    """End the process that holds the card and its children by force; its run is interrupted then."""
    record = workers.record(card)
    if record is None:
        return
    pid = int(record["pid"])
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(pid)], capture_output=True, check=False)
    else:
        leads = os.getpgid(pid) == pid  # a worker leads its own group; a command may share one with a shell
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL) if leads else os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while process.started(pid) == record["started"] and time.monotonic() < deadline:
        time.sleep(0.05)


def tail(file: Path, lines: int) -> str:
    """The last lines of a text file, empty when there is none."""
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - 400 * lines))
        return "\n".join(opened.read().decode(errors="replace").splitlines()[-lines:])
