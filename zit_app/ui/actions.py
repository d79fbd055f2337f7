"""Buttons inside cards: HTML whose buttons tell the app what to do, and on which run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from zit_app.core import queue
from zit_app.core.run import Run
from zit_app.service import remedies, runs, worker
from zit_app.ui.page import Page, asks
from zit_app.ui.text import Words

# One listener on what stays; the buttons are written anew whenever the card changes.
LISTEN = """element.addEventListener('click', event => {
  const button = event.target.closest('button[data-do]');
  if (button) trigger('click', {do: button.dataset.do, on: button.dataset.on});
});"""


class Actions:
    """What the buttons of `cards.button` do to runs: retry, stop, sooner, later, cancel."""

    def __init__(self, page: Page) -> None:
        self.w: Words = page.w

    def html(self, then: Callable[..., Any] | None = None, outputs: list[Any] | None = None, **more: Any) -> gr.HTML:
        """HTML whose buttons act; afterwards `then()` gives values for `outputs`."""
        shown = gr.HTML(js_on_load=LISTEN, **more)
        event = shown.click(asks(self.act), show_progress="hidden", api_visibility="private")
        if then is not None:
            event.success(then, outputs=outputs, show_progress="hidden", api_visibility="private")
        return shown

    def act(self, event: gr.EventData) -> None:
        """Do to a run what its button says. Raises ZitError where that cannot be."""
        run = Run(Path(event.on))
        if event.do == "retry":
            remedies.apply_remedy(runs.view(run.folder))
            gr.Info(self.w("failure.retrying"))
        elif event.do in ("stop", "cancel"):
            worker.stop_run(run)
        else:
            places = [waiting.folder for waiting in queue.order()]
            if run.folder in places:
                queue.move(run, places.index(run.folder) + {"sooner": -1, "later": 1}[event.do])
