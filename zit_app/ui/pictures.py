"""The pictures of a dataset as a grid with flags, page by page, and an editor for one caption at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from zit_app.service import edits
from zit_app.service.shelf import DatasetItem
from zit_app.ui import cards
from zit_app.ui.choices import chooser, read_items
from zit_app.ui.page import Page, Snapshot, asks

PAGE = 60  # pictures a page of the grid
SAID = 60  # letters of a caption below its picture
ALL, FLAGGED = "", "flagged"


class PictureGrid:
    """Grid, filter by flag, pages, editor."""

    def __init__(self, page: Page, dataset: gr.Dropdown) -> None:
        self.page, self.w, self.dataset = page, page.w, dataset
        w = self.w
        with gr.Row():
            self.flag = chooser(
                [(w("grid.all"), ALL)], ALL, label=w("grid.show"), min_width=160, scale=2, elem_id="grid-flag"
            )
            with gr.Row(visible=False, scale=2) as self.pager:
                self.back = gr.Button("◀", size="sm", min_width=40, elem_id="grid-back")
                self.number = gr.Number(
                    1, label=w("grid.page"), precision=0, minimum=1, min_width=90, elem_id="grid-page"
                )
                self.on = gr.Button("▶", size="sm", min_width=40, elem_id="grid-on")
        self.help = gr.HTML(cards.note(w("dataset.pictures")))
        self.pictures = gr.Gallery(
            label=w("dataset.count"),
            show_label=False,
            columns=5,
            height=400,
            object_fit="contain",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="dataset-pictures",
        )
        self._editor()
        self._connect()

    def _editor(self) -> None:
        w = self.w
        # Not a State: name and caption must leave the page together, or a late event writes into the next picture.
        self.name = gr.Textbox("", visible="hidden")
        # The caption as it was shown or last saved: what differs was written here. A captioner may have written the
        # file meanwhile, and a field that was only looked at must not put the old words back.
        self.loaded = gr.Textbox("", visible="hidden")
        self.seen = gr.Textbox("", visible="hidden")  # the dataset that the grid was opened with
        with gr.Row(visible=False, elem_id="editor") as self.editor:
            self.picture = gr.Image(
                show_label=False, interactive=False, height=260, buttons=[], type="filepath", min_width=200, scale=2
            )
            with gr.Column(scale=3, min_width=260):
                self.title = gr.HTML(elem_id="editor-title")
                self.caption = gr.Textbox(
                    label=w("dataset.caption"), info=w("dataset.caption_help"), lines=4, elem_id="caption"
                )
                with gr.Row():
                    self.previous = gr.Button(w("dataset.previous"), size="sm", min_width=90)
                    self.next = gr.Button(
                        w("dataset.next"), size="sm", variant="primary", min_width=90, elem_id="caption-next"
                    )

    def _connect(self) -> None:
        shown = [self.name, self.editor, self.picture, self.title, self.caption, self.loaded]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        where = [self.dataset, self.flag, self.number]
        self.pictures.select(asks(self._select), where, shown, **quiet)
        written = [self.dataset, self.name, self.caption, self.loaded]
        self.previous.click(asks(self._previous), [*written, self.flag], shown, **quiet)
        self.next.click(asks(self._next), [*written, self.flag], shown, **quiet)
        # Every change, pasted ones too; what is typed while an event is on its way is saved by the next one.
        self.caption.change(asks(self._save), written, [self.loaded], trigger_mode="always_last", **quiet)
        self.caption.blur(asks(self._save), written, [self.loaded], **quiet)
        self.back.click(lambda number: max(1, int(number or 1) - 1), [self.number], [self.number], **quiet)
        self.on.click(lambda number: int(number or 1) + 1, [self.number], [self.number], **quiet)
        self.flag.input(_nothing, outputs=[self.number, *shown], **quiet)
        # Gradio tells of a change also when only the choices are new; the editor must not close under somebody's hands.
        entered = [self.seen, self.number, *shown]
        self.dataset.change(self._enter, [self.dataset, self.seen], entered, queue=False, **quiet)
        self.page.watch([self.pictures, self.flag, self.pager, self.number], self._read, where)

    # ------------------------------------------------------------ events

    def _enter(self, folder: str | None, seen: str) -> list[Any]:
        return [gr.skip()] * 8 if folder == seen else [folder or "", *_nothing()]

    def _select(self, folder: str, flag: str, number: int, event: gr.SelectData) -> list[Any]:
        found = chosen(folder, flag)
        return self._show(found, (clamp(number, len(found)) - 1) * PAGE + int(event.index))

    def _previous(self, folder: str, name: str, caption: str, loaded: str, flag: str) -> list[Any]:
        self._save(folder, name, caption, loaded)
        return self._turn(folder, flag, name, -1)

    def _next(self, folder: str, name: str, caption: str, loaded: str, flag: str) -> list[Any]:
        self._save(folder, name, caption, loaded)
        return self._turn(folder, flag, name, 1)

    def _turn(self, folder: str, flag: str, name: str, by: int) -> list[Any]:
        """The picture after (or before) this one, which may have left the filter meanwhile."""
        found = chosen(folder, flag)
        names = [item.name for item in found]
        if name in names:
            return self._show(found, names.index(name) + by)
        after = sum(other < name for other in names)
        return self._show(found, after if by > 0 else after - 1)

    def _save(self, folder: str, name: str, caption: str, loaded: str) -> str:
        """Save what was written here; the caption as it is saved now."""
        if name and caption != loaded:
            edits.save_caption(Path(folder), name, caption)
        return caption

    def _show(self, found: list[DatasetItem], position: int) -> list[Any]:
        if not found:
            return ["", gr.update(visible=False), None, "", "", ""]
        position %= len(found)
        item, w = found[position], self.w
        size = "" if item.size is None else f"{item.size[0]} × {item.size[1]}"
        title = cards.facts([(w("dataset.of", n=position + 1, total=len(found)), f"{item.name} · {size}")])
        advice = [cards.note(self._advice(item, flag), "warning") for flag in item.flags if flag != "no_caption"]
        picture = str(item.shown) if item.shown else None
        return [item.name, gr.update(visible=True), picture, title + "".join(advice), item.caption, item.caption]

    def _advice(self, item: DatasetItem, flag: str) -> str:
        text = self.w("advice." + flag)
        return text.format(other=item.duplicate_of) if flag == "duplicate_of" else text

    # ------------------------------------------------------------ looking

    def _read(self, now: Snapshot, folder: str | None, flag: str, number: int | None) -> Sequence[Any]:
        w = self.w
        items = read_items(folder) if folder else ()
        flags = list(dict.fromkeys(one for item in items if item.size for one in item.flags))
        choices = [(w("grid.all"), ALL), *([(w("grid.flagged"), FLAGGED)] if flags else [])]
        choices += [(w("flag." + one), one) for one in flags]
        found = chosen(folder, flag) if folder else []
        pages = (len(found) + PAGE - 1) // PAGE
        page = clamp(number, len(found))
        shown = [
            (str(item.shown), " · ".join([*(w("flag." + one) for one in item.flags), item.caption[:SAID]]).strip(" ·"))
            for item in found[(page - 1) * PAGE : page * PAGE]
            if item.shown
        ]
        kept = flag if flag in [value for _, value in choices] else ALL
        return [
            shown,
            gr.update(choices=choices, value=kept),
            gr.update(visible=pages > 1),
            gr.update(value=page, maximum=max(1, pages), label=w("grid.page_of", n=max(1, pages))),
        ]


def _nothing() -> list[Any]:
    """The first page, and no picture in the editor."""
    return [1, "", gr.update(visible=False), None, "", "", ""]


def chosen(folder: str, flag: str) -> list[DatasetItem]:
    """The readable pictures with a flag, with any flag, or all; in the order of their names."""
    return [
        item
        for item in read_items(folder)
        if item.size and (flag == ALL or flag in item.flags or (flag == FLAGGED and item.flags))
    ]


def clamp(number: int | None, count: int) -> int:
    """A page that exists."""
    return max(1, min(int(number or 1), (count + PAGE - 1) // PAGE))
