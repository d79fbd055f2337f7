"""A run is a folder: the whole contract between who asks for work, who does it and who shows it.

    settings.toml   frozen input
    status.json     replaced atomically: phase, pid, start time and heartbeat of the process, step, total, message
    metrics.jsonl   one JSON object a line, appended; a resume cuts it back to where it begins
    log.txt         for people
    preview.jpg     replaced atomically: what the pictures will be, while they are drawn
    control.json    owner → worker, such as {"stop": true}
    lock            locked by the operating system while a process works in the folder

State is derived from these, never believed.
"""

import json
import re
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zit_app.core import lock, paths, process
from zit_app.core.errors import ZitError, did_you_mean, explain, reason_of
from zit_app.core.files import append_line, read_json, write_atomic, write_json, writing

PREVIEW = "preview.jpg"
ENDED = ("stopped", "done", "failed", "ready")
STALE_SECONDS = 60.0  # a worker reports at least once a step; the slowest step of a real model takes some 10 s


class Run:
    """One run folder, for its worker (writes) and for everybody else (reads, requests)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locked = False
        self._working = False
        self._entrusted = False
        self._status: dict[str, Any] = {}

    @classmethod
    def create(cls, kind: str, name: str, settings_toml: str, folder: Path | None = None) -> "Run":
        """Make a queued run in `folder`, else in `<home>/runs/<kind>/<time>_<slug>/`.

        Raises ZitError when `folder` already holds a run; one that failed before its first checkpoint is replaced.
        """
        folder = _new_folder(kind, name) if folder is None else folder
        run = cls(folder)
        if (folder / "settings.toml").exists():
            if run.state() != "failed" or (folder / "checkpoints").exists():
                raise ZitError(f"{folder} already holds a run.", "Choose another folder or remove that one.")
            (folder / "metrics.jsonl").unlink(missing_ok=True)
        # The settings last: with them it is a run. Until the queue has it, it lives as long as this process.
        run.write_status("queued", kind=kind, name=name, created=time.time(), **process.own_identity())
        write_atomic(folder / "settings.toml", settings_toml)
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """A run that exists; raises ZitError when the folder holds none."""
        if not (folder / "settings.toml").is_file():
            raise ZitError(f"{folder} holds no run.", "Give the folder of a run, the one with settings.toml in it.")
        run = cls(folder)
        run._status = run.status()
        return run

    @classmethod
    def entrusted(cls, folder: Path) -> "Run":
        """The run of the process that started this one, waits for it and holds its lock."""
        run = cls.open(folder)
        run._locked = run._entrusted = True
        return run

    def reread(self) -> dict[str, Any]:
        """Take over the status that a process wrote to which this run was entrusted."""
        self._status = self.status()
        return self._status

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run's lock within the block; within this process it may be taken again by the same object.

        Raises ZitError when another process works in the run.
        """
        if self._locked:
            yield
            return
        with lock.held(self.folder / "lock") as taken:
            if not taken:
                raise ZitError(f"Another process works in {self.folder}.", "Wait for it or stop it first.")
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    @contextmanager
    def working(self) -> Iterator[None]:
        """Lock the run and keep its phase honest: running, then done, stopped or failed with the reason.

        The block may write another ended phase itself (a training that was asked to stop). Blocks may be nested within
        this object: only the outermost one counts.
        """
        if self._working:
            yield
            return
        with self.lock(), self._as_working():
            # A request to stop was meant for the worker before.
            if self.status().get("phase") != "queued" and not self._entrusted:
                (self.folder / "control.json").unlink(missing_ok=True)
            self.write_status("running", message="", step=0, total=0, left=None, cause="", remedy="", reason="")
            try:
                yield
            except KeyboardInterrupt:
                self.write_status("stopped", message="Stopped by the keyboard.")
                raise
            except Exception as error:
                cause, remedy = explain(error)
                self.log(str(error) if isinstance(error, ZitError) else traceback.format_exc())
                fields = {"cause": cause, "remedy": remedy, "reason": reason_of(error)}
                self.write_status("failed", message=f"{cause} {remedy}", **fields)
                raise
            if self._status["phase"] not in ENDED:
                self.write_status("done")

    @contextmanager
    def _as_working(self) -> Iterator[None]:
        self._working = True
        try:
            yield
        finally:
            self._working = False

    def write_status(self, phase: str, **fields: Any) -> None:
        """Replace `status.json`; fields not named keep their value. It is also the heartbeat."""
        identity = process.own_identity() if phase == "running" else {}
        self._status = {**self._status, "phase": phase, **identity, "heartbeat": time.time(), **fields}
        write_json(self.folder / "status.json", self._status, durable=phase in ENDED)

    def status(self) -> dict[str, Any]:
        """The last status, empty when there is none that can be read (a power cut)."""
        try:
            found = read_json(self.folder / "status.json")
        except ZitError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def kind(self) -> str:
        """train, generate …; where a power cut took the status, the folder tells."""
        return str(self.status().get("kind") or self.folder.parent.name)

    def state(self) -> str:
        """queued, running, not responding, interrupted, or one of `ENDED`."""
        status = self.status()
        phase = status.get("phase")
        if phase in ENDED or (phase == "queued" and "queued" in status):
            return str(phase)
        alive = process.started(int(status.get("pid", 0))) if status.get("pid") else None
        if alive is None or alive != status.get("started"):
            return "interrupted"
        if phase == "queued":  # by a command that waits for the card
            return "queued"
        if not lock.is_held(self.folder / "lock"):
            return "interrupted"
        return "running" if time.time() - float(status["heartbeat"]) < STALE_SECONDS else "not responding"

    def append_metrics(self, **fields: Any) -> None:
        """Append one line to `metrics.jsonl`."""
        append_line(self.folder / "metrics.jsonl", json.dumps(fields, ensure_ascii=False))

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of `metrics.jsonl`; a line that a killed worker left half written is not among them."""
        found: list[dict[str, Any]] = []
        for line in self._metrics_text().splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def cut_metrics(self, step: int) -> None:
        """Forget what was measured after `step`, which a resumed training measures again, and half lines."""
        kept = [json.dumps(line, ensure_ascii=False) for line in self.metrics() if line["step"] <= step]
        if len(kept) < len(self._metrics_text().splitlines()):
            write_atomic(self.folder / "metrics.jsonl", "".join(f"{line}\n" for line in kept))

    def _metrics_text(self) -> str:
        file = self.folder / "metrics.jsonl"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def log(self, text: str) -> None:
        """Append to `log.txt`, with the time."""
        append_line(self.folder / "log.txt", f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text.rstrip()}")

    def control(self) -> dict[str, Any]:
        """What the owner asks of the worker, such as {"stop": True}."""
        file = self.folder / "control.json"
        return dict(read_json(file)) if file.exists() else {}

    def request(self, **commands: Any) -> None:
        """Ask the worker for something; earlier requests stay."""
        write_json(self.folder / "control.json", {**self.control(), **commands})

def find_run(kind: str, text: str) -> Run:
    """The run that a user names by its folder, or by the folder's name under home."""
    folder = Path(text).expanduser()
    if folder.is_dir():
        return Run.open(folder)
    known = {entry.name: entry for entry in paths.runs(kind).glob("*") if entry.is_dir()}
    if text in known:
        return Run.open(known[text])
    remedy = did_you_mean(text, known) if known else "Give the folder of a run."
    raise ZitError(f"There is no {kind} run {text!r}.", remedy)


def _new_folder(kind: str, name: str) -> Path:
    slug = re.sub(r"[^\w]+", "-", name.lower()).strip("-")[:40].strip("-") or kind
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}_{slug}"
    parent = paths.runs(kind)
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = parent / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
