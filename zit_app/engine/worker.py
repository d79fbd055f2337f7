"""The worker: one process a card that takes queued runs in order.

    python -m zit_app.engine.worker [--card 0] [--idle 600] [--ready]

It stays warm after pictures, so that the next ones begin at once, and ends after a training, after an unexpected error
and after ten idle minutes, so that memory is truly free. Between two runs it gives way to a command that waits for
the card. SIGTERM and SIGINT let the current run save and stop. It knows nothing of the app: they meet in run folders.
"""

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from zit_app.core import queue, workers
from zit_app.core.errors import ZitError, did_you_mean
from zit_app.core.lean import importing
from zit_app.core.progress import Progress
from zit_app.core.quiet import quiet
from zit_app.core.run import Run

if TYPE_CHECKING:
    from zit_app.engine.jobs import Job
    from zit_app.engine.warm import Warm

IDLE_SECONDS = 600.0
POLL_SECONDS = 0.25


class Worker:
    """One worker: what it does now, and whether it was asked to end."""

    def __init__(self, card: int, idle: float) -> None:
        self.card = card
        self.idle = idle
        self.ending = False
        self._run: Run | None = None
        self._warm: Warm | None = None

    def end(self, number: int, frame: Any) -> None:
        """What signals call: take no further run, and let the current one stop as if its owner had asked."""
        self.ending = True
        if self._run is not None:
            self._run.request(stop=time.time())

    def work(self, ready: bool) -> None:
        """Take runs until there is a reason to end; with `ready`, load what they need before the first one comes."""
        workers.write_record(self.card, "idle")
        if ready:
            _libraries()
        since = time.monotonic()
        while not self.ending and time.monotonic() - since < self.idle and not workers.yield_wanted(self.card):
            stay = self._next()
            if stay is None:
                time.sleep(POLL_SECONDS)
                continue
            if not stay:
                return
            workers.write_record(self.card, "idle")
            since = time.monotonic()

    def _next(self) -> bool | None:
        """Work on the next run; whether this process is fit for another one after it. None when nothing waits."""
        try:
            with ExitStack() as inside:
                run = self._take(inside)
                if run is None:
                    return None
                kind = run.kind
                self._perform(kind, run)
            return kind != "train"
        except ZitError as error:  # a user's to mend, and in the run folder
            print(error, file=sys.stderr, flush=True)
            return True
        except Exception:  # in the run folder, too; what it left on the card nobody knows
            traceback.print_exc()
            return False
        finally:
            self._run = None

    def _take(self, inside: ExitStack) -> Run | None:
        """Make the first run of the queue ours before anyone can cancel or take it."""
        if not queue.order():
            return None
        with queue.exclusive():
            waiting = queue.order()
            if not waiting:
                return None
            run = Run.open(waiting[0].folder)
            inside.enter_context(run.working())
        self._run = run
        if self.ending:  # the signal came a moment ago
            run.request(stop=time.time())
        workers.write_record(self.card, "working", run.folder)
        return run

    def _perform(self, kind: str, run: Run) -> None:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {kind} {run.folder}", file=sys.stderr, flush=True)
        jobs, warm = _libraries()
        if kind not in jobs:
            raise ZitError(f"There is no kind of run {kind!r}.", did_you_mean(kind, jobs))
        self._warm = self._warm or warm()
        jobs[kind](run, Progress(run), self._warm)


def _libraries() -> "tuple[Mapping[str, Job], type[Warm]]":
    """What runs need, and with it torch: a worker that finds nothing to do needs none."""
    with importing():
        from zit_app.engine.jobs import JOBS
        from zit_app.engine.warm import Warm
    return JOBS, Warm


def main() -> int:
    """Hold the card, work, hand over to a fresh worker when runs still wait."""
    parser = argparse.ArgumentParser(prog="zit_app.engine.worker")
    parser.add_argument("--card", type=int, default=0)
    parser.add_argument("--idle", type=float, default=IDLE_SECONDS, help="seconds without work after which it ends")
    parser.add_argument("--ready", action="store_true", help="load the libraries before there is work")
    arguments = parser.parse_args()
    quiet()
    workers.choose_card(arguments.card)
    worker = Worker(arguments.card, arguments.idle)
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, worker.end)
    with workers.holding(arguments.card) as taken:
        if not taken:
            return 0
        worker.work(arguments.ready)
    if not worker.ending:
        workers.start_if_needed(arguments.card)
    return 0


if __name__ == "__main__":
    sys.exit(main())
