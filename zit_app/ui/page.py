"""What all tabs share: the words, the timer that reads the disk, and errors shown once.

No work lives in an event: an event writes a file or asks the service, and returns. What is seen comes from the disk,
read by one timer, so a reload, a second tab and a restarted server all show the same.
"""

import functools
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component

from zit_app.core.errors import ZitError
from zit_app.service import runs
from zit_app.service.runs import RunView
from zit_app.ui.text import Words

AT_WORK = ("preparing", "running", "stopping", "not responding")
SECONDS = 2.0  # between two looks at the disk


@dataclass(frozen=True)
class Snapshot:
    """The runs as they are at one look, newest first."""

    runs: list[RunView]

    def of(self, kind: str) -> list[RunView]:
        """The runs of one kind."""
        return [run for run in self.runs if run.kind == kind]

    @property
    def current(self) -> RunView | None:
        """The run that a worker works on."""
        return next((run for run in self.runs if run.state in AT_WORK), None)


@dataclass(frozen=True)
class _Watch:
    inputs: Sequence[Component]
    outputs: Sequence[Any]  # components and columns
    read: Callable[..., Sequence[Any]]


@dataclass(frozen=True)
class _Seen:
    """A window's last look: what it was asked with, and a mark of each thing that it showed."""

    values: tuple[Any, ...]
    marks: tuple[int, ...]


@dataclass
class Page:
    """One language's page while it is built. `tabs` is set by whoever builds the tabs."""

    w: Words
    tabs: gr.Tabs = field(init=False)
    _watches: list[_Watch] = field(default_factory=list)

    def watch(
        self, outputs: Sequence[Any], read: Callable[..., Sequence[Any]], inputs: Sequence[Component] = ()
    ) -> None:
        """Keep `outputs` at what `read(snapshot, *inputs)` gives: one value or update each, sent only when changed."""
        self._watches.append(_Watch(inputs, outputs, read))

    def connect(self, blocks: gr.Blocks) -> None:
        """Look at once when a page opens, then with every tick of the timer, and when an input of a watch changes.

        One look at a time, and the last one asked for is never left out: were two on their way, the older answer could
        come last and stay on the page, while `seen` holds what the newer one said.

        Gradio searches the page from its beginning for each input and output of an event. So a tick carries nothing, as
        `seen` also holds the inputs, which cannot change without a look; what a tick needs comes first on the page.
        """
        seen = gr.State(None)
        due = gr.Number(0, visible="hidden")  # a State tells its changes only by way of the queue
        timer = gr.Timer(SECONDS)
        blocks.children[:] = blocks.children[-3:] + blocks.children[:-3]
        inputs: list[Any] = [seen, *(component for watch in self._watches for component in watch.inputs)]
        outputs = [seen, *(component for watch in self._watches for component in watch.outputs)]
        quietly: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        timer.tick(self._peek, seen, due, **quietly)
        triggers = [blocks.load, due.change, *(component.change for component in inputs[1:])]
        gr.on(triggers, self._look, inputs, outputs, trigger_mode="always_last", **quietly)

    def _peek(self, seen: _Seen | None) -> Any:
        """Whether another look is due."""
        if seen is not None and self._marks(self._read(seen.values)) == seen.marks:
            return gr.skip()
        return time.monotonic()

    def _look(self, seen: _Seen | None, *values: Any) -> list[Any]:
        found = self._read(values)
        marks = self._marks(found)
        old = seen.marks if seen is not None else (None,) * len(found)
        together = zip(found, marks, old, strict=True)
        return [_Seen(values, marks), *(gr.skip() if mark == before else value for value, mark, before in together)]

    def _read(self, values: Sequence[Any]) -> list[Any]:
        """What every watch gives now, one after the other."""
        snapshot = Snapshot(runs.list_runs())
        found: list[Any] = []
        given = iter(values)
        for watch in self._watches:
            own = [next(given) for _ in watch.inputs]
            try:
                found += watch.read(snapshot, *own)
            except ZitError:  # a file that changes just now, or is damaged; the next look tells
                found += [gr.skip()] * len(watch.outputs)
        return found

    @staticmethod
    def _marks(found: Sequence[Any]) -> tuple[int, ...]:
        return tuple(hash(repr(value)) for value in found)  # not the texts: they are kept for an hour a window


def asks(action: Callable[..., Any]) -> Callable[..., Any]:
    """An event whose ZitErrors become a message on the page, in the page's language, instead of a broken page.

    `action` is a method of something that has the page's words `w`, or a `functools.partial` of one.
    """
    method = action.func if isinstance(action, functools.partial) else action
    w: Words = method.__self__.w  # type: ignore[attr-defined]

    @functools.wraps(method)
    def guarded(*values: Any) -> Any:
        try:
            return action(*values)
        except ZitError as error:
            raise gr.Error(w.error(error), duration=15, print_exception=False) from error

    guarded.__signature__ = inspect.signature(action)  # type: ignore[attr-defined]  # what Gradio counts inputs by
    return guarded
