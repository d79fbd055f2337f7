"""Progress for people on the terminal and, where there is one, for the run folder."""

import json
import math
import sys
import time
from typing import Any, TextIO

from zit_app.core.run import Run

_STATUS_SECONDS = 0.5  # the app looks about once a second
_LINE_SECONDS = 5.0  # into a file or a pipe: a line now and then, not one a step


class Progress:
    """Tells how far a piece of work is: to a terminal (one line that changes), to a log (a line now and then), to the
    run's `status.json` (with its heartbeat). Results go to standard output, everything else to `stream`.
    """

    def __init__(self, run: Run | None = None, as_json: bool = False, stream: TextIO | None = None) -> None:
        self.run = run
        self.as_json = as_json
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._open_line = False
        self._shown = 0.0
        self._saved = -math.inf
        self._from: tuple[float, int] | None = None  # when the stage's first step was done, and its number

    def stage(self, text: str) -> None:
        """Begin a named part of the work."""
        self._end_line()
        print(text, file=self._stream, flush=True)
        self._from = None
        self._saved = -math.inf  # the stage's first step is told at once, or the run seems to prepare still
        if self.run is not None:
            self.run.write_status("running", message=text, step=0, total=0, left=None)
            self.run.log(text)

    def step(self, done: int, total: int, **figures: float) -> None:
        """`done` of `total` within the stage; figures such as loss=0.2 are shown beside it."""
        now = time.monotonic()
        last = done >= total
        left = self._left(done, total, now)
        if self.run is not None and (last or now - self._saved >= _STATUS_SECONDS):
            self.run.write_status("running", step=done, total=total, left=left, **figures)
            self._saved = now
        if last or now - self._shown >= (0.1 if self._live else _LINE_SECONDS):
            self._show(done, total, figures, left)
            self._shown = now

    def note(self, text: str) -> None:
        """Something a person should know: a skipped file, a fallback."""
        self._end_line()
        print(text, file=self._stream, flush=True)
        if self.run is not None:
            self.run.log(text)

    def stop_requested(self) -> bool:
        """Whether the owner of the run asked it to stop."""
        return self.run is not None and bool(self.run.control().get("stop"))

    def result(self, words: str, **fields: Any) -> None:
        """The outcome, on standard output: words for people, with `--json` one JSON object as the last line."""
        self._end_line()
        if self.as_json:
            print(json.dumps(fields, ensure_ascii=False, default=str), flush=True)
        elif words:
            print(words, flush=True)

    def _show(self, done: int, total: int, figures: dict[str, float], left: float | None) -> None:
        spoken = f", {_duration(left)} left" if left is not None and done < total else ""
        shown = "".join(f"  {name} {value:.4g}" for name, value in figures.items())
        line = f"  {done}/{total}{spoken}{shown}"
        if self._live:
            print(f"\r\033[K{line}", end="", file=self._stream, flush=True)
            self._open_line = True
            if done >= total:
                self._end_line()
        else:
            print(line, file=self._stream, flush=True)

    def _left(self, done: int, total: int, now: float) -> float | None:
        """Seconds to the end at the pace since the stage's first step; None while that is a guess.

        The first step is not counted: it waits for memory and kernels, and a resumed training begins in the middle.
        """
        if self._from is None:
            self._from = (now, done)
        begun, first = self._from
        if done == first or now - begun < 1:
            return None
        return (now - begun) / (done - first) * (total - done)

    def _end_line(self) -> None:
        if self._open_line:
            print(file=self._stream, flush=True)
            self._open_line = False


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
