"""One process a graphics card: who holds it, who would like to, and how a worker is started.

<home>/workers/0.lock    locked by the process that uses card 0: a worker, or a command of the command line
<home>/workers/0.json    who that is and what it does
<home>/workers/0.yield   touched by a command that waits for the card; a worker gives way between two runs
<home>/workers/0.log     what a worker prints
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zit_app.core import lock, paths, process, queue
from zit_app.core.errors import ZitError
from zit_app.core.files import read_json, write_json, writing

POLL_SECONDS = 0.5
_WAITING_SECONDS = 10.0  # a request that was not renewed for so long comes from a command that is gone
_LOG_LIMIT = 1 << 20  # bytes
_OWN_CARD, _ALL_CARDS = "ZIT_CARD", "ZIT_ALL_CARDS"  # what a worker remembers while it sees its own card only


def file_of(card: int, ending: str) -> Path:
    """`<home>/workers/<card>.<ending>`."""
    return paths.home() / "workers" / f"{card}.{ending}"


def choose_card(card: int) -> None:
    """Let torch see this card only, numbered as nvidia-smi numbers them; before torch is imported."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ |= {_OWN_CARD: str(card), _ALL_CARDS: "all" if visible is None else visible}
    names = [name for name in (visible or "").split(",") if name]
    if names:
        os.environ["CUDA_VISIBLE_DEVICES"] = names[card] if card < len(names) else ""
    elif visible is None:
        os.environ |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(card)}


def own_card() -> int:
    """The card that this process was given, as a place in `all_cards`; the first unless it is a worker."""
    return int(os.environ.get(_OWN_CARD, 0))


def all_cards() -> list[str]:
    """The cards that CUDA may use on this machine, by the names it knows them by: "0", "1" …"""
    visible = os.environ.get(_ALL_CARDS, os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    if visible != "all":
        return [name for name in visible.split(",") if name]
    tool = shutil.which("nvidia-smi")
    ran = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False) if tool else None
    lines = ran.stdout.splitlines() if ran and ran.returncode == 0 else []
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in lines))]


@contextmanager
def holding(card: int) -> Iterator[bool]:
    """Hold the card within the block; gives False when another process has it."""
    path = file_of(card, "lock")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with lock.held(path) as taken:
        yield taken


def is_held(card: int) -> bool:
    """Whether any process uses the card."""
    return lock.is_held(file_of(card, "lock"))


def write_record(card: int, state: str, run: Path | None = None) -> None:
    """Say what the holder of the card does: "idle" or "working", and on which run."""
    fields = {"state": state, "run": str(run) if run else None, "since": time.time()}
    write_json(file_of(card, "json"), {**process.own_identity(), **fields}, durable=False)


def record(card: int) -> dict[str, Any] | None:
    """What the holder of the card does, None when nobody holds it or its process is gone."""
    try:
        found: dict[str, Any] = read_json(file_of(card, "json"))
        alive = process.started(int(found["pid"]))
    except (ZitError, KeyError, TypeError, ValueError):
        return None
    return found if alive and alive == found.get("started") and is_held(card) else None


def yield_wanted(card: int) -> bool:
    """Whether a command waits for the card right now."""
    try:
        return time.time() - file_of(card, "yield").stat().st_mtime < _WAITING_SECONDS
    except FileNotFoundError:
        return False


@contextmanager
def card_for_command(run: Path | None, note: Callable[[str], None], card: int = 0) -> Iterator[None]:
    """Hold the card for a command of the command line that works on `run`; waits for whoever has it and says so once.

    Afterwards a worker goes on with what waits in the queue.
    """
    said = False
    while True:
        with holding(card) as taken:
            if taken:
                file_of(card, "yield").unlink(missing_ok=True)
                write_record(card, "working", run)
                yield
                break
        if not said:
            holder = record(card) or {}
            busy = Path(holder["run"]).name if holder.get("run") else "another process"
            note("Waiting for the card." if holder.get("state") == "idle" else f"Waiting: {busy} uses the card.")
            said = True
        with writing(file_of(card, "yield")):
            file_of(card, "yield").touch()
        time.sleep(POLL_SECONDS)
    start_if_needed(card)


def start_if_needed(card: int) -> bool:
    """Start a worker when runs wait and nobody holds the card; whether one was started."""
    if not queue.order() or is_held(card) or yield_wanted(card):
        return False
    spawn(card)
    return True


def spawn(card: int, ready: bool = False) -> int:
    """Start a detached worker, which outlives this process and its terminal; returns its process number.

    With `ready` it loads its libraries before there is work for it. Two at once do no harm: the one that comes too late
    finds the lock taken and ends.
    """
    log = file_of(card, "log")
    with writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _LOG_LIMIT:
            os.replace(log, log.with_suffix(".old.log"))
        command = [sys.executable, "-m", "zit_app.engine.worker", "--card", str(card), *["--ready"] * ready]
        with log.open("ab") as output:
            started = subprocess.Popen(
                command,
                cwd=paths.PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **detached(),
            )
    return started.pid


def detached() -> dict[str, Any]:
    """What lets a process that is started outlive this one and its terminal."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
