"""All captions of a dataset: a table to write in, and changes for many of them, seen before they are made."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from zit_app.service import edits
from zit_app.service.edits import Change, Edit
from zit_app.service.shelf import shelf
from zit_app.ui import cards
from zit_app.ui.choices import default_pixels
from zit_app.ui.page import Page, Snapshot, asks

ROWS = 500  # of the table; a larger set is edited by searching for what is to change
SEEN = 12  # changes that the preview spells out
KINDS = ("replace", "regex", "prepend", "append", "remove", "trigger_in", "trigger_out", "shuffle")
TWO_TEXTS = ("replace", "regex")
WITH_CASE = ("replace", "regex", "remove", "trigger_out")


class CaptionTable:
    """Bulk editing with preview and undo above a table of all captions."""

    def __init__(self, page: Page, dataset: gr.Dropdown, tab: gr.Tab) -> None:
        self.w, self.dataset = page.w, dataset
        w = self.w
        with gr.Row():
            self.kind = gr.Dropdown(
                [(w("bulk." + kind), kind) for kind in KINDS],
                value="replace",
                label=w("bulk.title"),
                filterable=False,
                min_width=170,
                elem_id="bulk-kind",
            )
            self.text = gr.Textbox(label=w("bulk.text"), max_lines=1, min_width=150, elem_id="bulk-text")
            self.to = gr.Textbox(label=w("bulk.to"), max_lines=1, min_width=150, elem_id="bulk-to")
        with gr.Row():
            self.case = gr.Checkbox(False, label=w("bulk.case"), container=False, min_width=190, scale=2)
            self.preview = gr.Button(w("bulk.preview"), size="sm", min_width=110, elem_id="bulk-preview")
            self.go = gr.Button(w("bulk.apply"), size="sm", variant="primary", min_width=110, elem_id="bulk-apply")
            self.undo = gr.Button(w("bulk.undo"), size="sm", min_width=110, interactive=False, elem_id="bulk-undo")
        self.seen = gr.HTML(elem_id="bulk-seen", elem_classes="maybe")
        self.table = gr.Dataframe(
            headers=[w("bulk.name"), w("dataset.caption")],
            datatype=["str", "str"],
            static_columns=[0],
            interactive=True,
            column_widths=["30%", "70%"],
            wrap=True,
            max_height=420,
            buttons=[],
            show_label=False,
            elem_id="caption-table",
        )
        # The table as it was loaded leaves the page together with the table as it is: what differs was written there.
        self.loaded = gr.JSON([], visible="hidden")
        self._connect(page, tab)

    def _connect(self, page: Page, tab: gr.Tab) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        asked = [self.dataset, self.kind, self.text, self.to, self.case]
        self.kind.change(self._fields, [self.kind], [self.text, self.to, self.case], **quiet)
        self.preview.click(asks(self._preview), asked, [self.seen], **quiet)
        shown = [self.table, self.loaded]
        self.go.click(asks(self._apply), asked, [self.seen, *shown], **quiet)
        self.undo.click(asks(self._undo), [self.dataset], [self.seen, *shown], **quiet)
        self.table.change(asks(self._write), [self.dataset, *shown], [self.loaded], trigger_mode="always_last", **quiet)
        for happened in (tab.select, self.dataset.change):
            happened(asks(self._load), [self.dataset], shown, **quiet)
        page.watch([self.undo], self._read, [self.dataset])

    # ------------------------------------------------------------ events

    def _fields(self, kind: str) -> list[Any]:
        """Only the fields that this change reads."""
        label = "bulk.first" if kind == "shuffle" else "bulk.added" if kind in ("prepend", "append") else "bulk.text"
        return [
            gr.update(label=self.w(label)),
            gr.update(visible=kind in TWO_TEXTS),
            gr.update(visible=kind in WITH_CASE),
        ]

    def _changes(self, folder: str, kind: str, text: str, to: str, case: bool) -> list[Change]:
        return edits.changes(items(folder), Edit(kind, text, to, case)) if folder else []

    def _preview(self, folder: str, kind: str, text: str, to: str, case: bool) -> str:
        return self._shown(self._changes(folder, kind, text, to, case))

    def _apply(self, folder: str, kind: str, text: str, to: str, case: bool) -> list[Any]:
        w = self.w
        found = self._changes(folder, kind, text, to, case)
        changed = edits.apply(Path(folder), found, " ".join(filter(None, [w("bulk." + kind), text]))) if found else 0
        return [cards.note(w("bulk.done", n=changed)), *self._load(folder)]

    def _undo(self, folder: str) -> list[Any]:
        restored = edits.undo(Path(folder))
        return [cards.note(self.w("bulk.undone", n=restored)), *self._load(folder)]

    def _write(self, folder: str, table: Any, loaded: list[list[str]]) -> Any:
        """Save what was written into the table since it was loaded."""
        before = dict(loaded)
        written = {str(name): str(caption) for name, caption in table.values.tolist()}
        changed = {name: text for name, text in written.items() if name in before and text != before[name]}
        for name, caption in changed.items():
            edits.save_caption(Path(folder), name, caption)
        return [[name, written.get(name, caption)] for name, caption in loaded] if changed else gr.skip()

    def _load(self, folder: str | None) -> list[Any]:
        found = rows(folder) if folder else []
        return [found, found]

    def _shown(self, found: list[Change]) -> str:
        w = self.w
        if not found:
            return cards.note(w("bulk.nothing"))
        lines = "".join(
            f"<tr><th>{escape(one.name)}</th><td><del>{escape(' / '.join(one.before))}</del><br>"
            f"<ins>{escape(' / '.join(one.after))}</ins></td></tr>"
            for one in found[:SEEN]
        )
        more = cards.note(w("bulk.more", n=len(found) - SEEN)) if len(found) > SEEN else ""
        return f'{cards.note(w("bulk.would", n=len(found)))}<div class="table"><table>{lines}</table></div>{more}'

    # ------------------------------------------------------------ looking

    def _read(self, now: Snapshot, folder: str | None) -> Sequence[Any]:
        last = edits.history(Path(folder))[:1] if folder else []
        label = self.w("bulk.undo_what", what=last[0][:24]) if last else self.w("bulk.undo")
        return [gr.update(interactive=bool(last), value=label)]


def items(folder: str) -> list[Any]:
    """The pictures of a dataset with all their captions."""
    return shelf(Path(folder), default_pixels()).items()


def rows(folder: str) -> list[list[str]]:
    """Names and first captions, for the table."""
    return [[item.name, item.caption or ""] for item in items(folder)[:ROWS]]
