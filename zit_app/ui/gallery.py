"""What is being drawn, step by step, and every picture that ever was, with the ways that lead on from it."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from zit_app.core.errors import ZitError
from zit_app.core.run import PREVIEW
from zit_app.service import gallery
from zit_app.service.gallery import Restored
from zit_app.ui import cards
from zit_app.ui.actions import Actions
from zit_app.ui.links import url
from zit_app.ui.page import AT_WORK, Page, Snapshot, asks
from zit_app.ui.text import Words
from zit_app.ui.welcome import Welcome

BUSY = ("queued", *AT_WORK)
BROKEN = ("failed", "interrupted")
SHOWN = 60  # pictures, the newest; older ones are found by searching
MILLISECONDS = 600  # between two looks at the picture that is being drawn; the worker writes one each half second
MILLISECONDS_AFTER_FAILURE = 2000  # it may have gone, which the page sees by then


class Gallery:
    """The right side of the tab Generate."""

    def __init__(self, page: Page) -> None:
        self.page, self.w = page, page.w
        w = self.w
        Welcome(page)
        self.status = Actions(page).html(elem_id="generate-status", elem_classes="maybe")
        self.preview = gr.HTML(elem_id="step-preview", elem_classes="maybe")
        self.search = gr.Textbox(
            label=w("generate.search"), placeholder=w("generate.search_help"), max_lines=1, container=False
        )
        self.pictures = gr.Gallery(
            label=w("generate.gallery"),
            show_label=False,
            columns=4,
            object_fit="contain",
            height=460,
            interactive=False,
            buttons=["download", "fullscreen"],
            elem_id="gallery",
        )
        self.none = gr.HTML(elem_classes="maybe")
        self.chosen = gr.State("")
        with gr.Column(visible=False, elem_id="picture") as self.about:
            self.recipe = gr.HTML()
            with gr.Row():
                self.again = gr.Button(w("generate.reuse"), size="sm", elem_id="reuse", min_width=120)
                self.vary = gr.Button(w("generate.vary"), size="sm", elem_id="vary", min_width=120)
                self.compare = gr.Button(w("generate.to_compare"), size="sm", elem_id="to-compare", min_width=120)
        self.pictures.select(
            asks(self._select), outputs=[self.chosen, self.about, self.recipe], queue=False, api_visibility="private"
        )
        page.watch([self.status, self.preview], self._read_status)
        page.watch([self.pictures, self.none], self._read_pictures, [self.search])

    def _select(self, event: gr.SelectData) -> list[Any]:
        picture = gallery.picture(Path(event.value["image"]["path"]))
        w = self.w
        pairs = [
            (w("generate.prompt"), picture.prompt),
            *([(w("generate.template"), picture.template)] if picture.template else []),
            (w("generate.seed"), str(picture.seed)),
            (w("model"), picture.model),
            (w("generate.size"), f"{picture.width} × {picture.height}"),
        ]
        return [str(picture.path), gr.update(visible=True), cards.facts(pairs)]

    def _read_status(self, now: Snapshot) -> Sequence[Any]:
        own = now.of("generate")
        busy = [run for run in own if run.state in BUSY]
        at_work = next((run for run in busy if run.state in AT_WORK), None)
        if busy:
            shown = "".join(cards.run_card(self.w, run) for run in reversed(busy[-2:]))
        elif own and own[0].state in BROKEN:
            shown = cards.run_card(self.w, own[0])
        else:
            shown = ""
        return [shown, step_preview(at_work.folder, self.w("generate.preview")) if at_work else ""]

    def _read_pictures(self, now: Snapshot, search: str) -> Sequence[Any]:
        found = [str(picture.path) for picture in gallery.pictures(search, SHOWN)]
        none = self.w("generate.none_found", words=search) if search.strip() else self.w("generate.none")
        return [gr.update(value=found, visible=bool(found)), "" if found else cards.empty(none)]


def step_preview(run: Path, label: str) -> str:
    """The picture that is being drawn, as soon as there is a first glance of it. It looks again by itself.

    The text stays the same while the picture changes, so that the page does not write it anew.
    """
    if not (run / PREVIEW).is_file():
        return ""
    address = url(run / PREVIEW)
    again = f"setTimeout(() => {{ if (this.isConnected) this.src = '{address}?' + Date.now() }}, %d)"
    events = f'onload="{escape(again % MILLISECONDS)}" onerror="{escape(again % MILLISECONDS_AFTER_FAILURE)}"'
    return f'<figure class="glance"><img src="{address}" alt="{escape(label)}" {events}></figure>'


def whole(w: Words, picture: str) -> Restored:
    """What made a picture. Raises ZitError when a part of it is not on this machine."""
    restored = gallery.restore(Path(picture))
    if restored.missing or not restored.model:
        names = ", ".join(restored.missing)
        raise ZitError(w("generate.missing", names=names), w("generate.missing_help"))
    return restored
