"""What a newcomer reads first: four steps from a look at the machine to the first own LoRA, ticked as they are done."""

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from zit_app.service import model_files
from zit_app.service.runs import RunView
from zit_app.ui import cards
from zit_app.ui.actions import LISTEN
from zit_app.ui.page import Page, Snapshot
from zit_app.ui.sidebar import machine
from zit_app.ui.text import Words

AT_HOME = 3  # runs of pictures, after which nobody needs a welcome any more


class Welcome:
    """The card above the pictures, until a LoRA was trained or the person is at home here."""

    def __init__(self, page: Page) -> None:
        self.w = page.w
        self.card = gr.HTML(js_on_load=LISTEN, elem_id="welcome", elem_classes="maybe")
        self.card.click(_open, outputs=[page.tabs], show_progress="hidden", api_visibility="private")
        page.watch([self.card], self._read)

    def _read(self, now: Snapshot) -> Sequence[Any]:
        drawn, trained = now.of("generate"), now.of("train")
        if any(run.adapter for run in trained) or len(drawn) > AT_HOME:
            return [""]
        return [welcome(self.w, drawn)]


def welcome(w: Words, drawn: Sequence[RunView]) -> str:
    """The card as it is now."""
    cards_here = [card.name for card in machine().cards]
    check = w("welcome.card", name=cards_here[0]) if cards_here else w("welcome.no_card")
    full = any(model.name == "turbo" and model.state == "ready" for model in model_files.models())
    model = w("welcome.has_turbo") if full else w("welcome.has_pocket")
    to_turbo = "" if full else cards.button("open", "settings", w("welcome.get_turbo"))
    steps = (
        _step(w("welcome.check"), check, True),
        _step(w("welcome.model"), model, True, to_turbo),
        _step(w("welcome.draw"), w("welcome.draw_help"), any(run.state == "done" for run in drawn)),
        _step(w("welcome.train"), w("welcome.train_help"), False, cards.button("open", "dataset", w("tab.dataset"))),
    )
    return f'<div class="card welcome"><h2>{escape(w("welcome.title"))}</h2><ol>{"".join(steps)}</ol></div>'


def _step(name: str, help: str, done: bool, button: str = "") -> str:
    mark = ' class="done"' if done else ""
    return f"<li{mark}><b>{escape(name)}</b> <span>{escape(help)}</span> {button}</li>"


def _open(event: gr.EventData) -> Any:
    return gr.update(selected=event.on)
