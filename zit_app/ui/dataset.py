"""The tab Dataset: drop pictures, see what is wrong with them, write what they show."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from zit_app.core import paths
from zit_app.core.errors import ZitError
from zit_app.service import datasets
from zit_app.service.shelf import View
from zit_app.ui import cards
from zit_app.ui.captioning import CaptionAll
from zit_app.ui.captions import CaptionTable
from zit_app.ui.choices import chooser, dataset_choices, first_dataset, followed, read_view
from zit_app.ui.dataset_options import OptionsForm
from zit_app.ui.page import Page, Snapshot, asks
from zit_app.ui.pictures import PictureGrid

DEMO = "demo"
FEW, MANY = 9, 25  # pictures; with fewer a LoRA learns the pictures and not what they have in common


class DatasetTab:
    """One dataset at a time: bring pictures in on the left, look and write on the right."""

    def __init__(self, page: Page) -> None:
        self.page, self.w = page, page.w
        w = self.w
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=4, min_width=300):
                self.name = chooser(dataset_choices(), value=first_dataset(), label=w("dataset"), elem_id="dataset")
                self.new = gr.Textbox(
                    label=w("dataset.new"), placeholder=w("dataset.new_help"), max_lines=1, elem_id="dataset-new"
                )
                self.drop = gr.File(
                    label=w("dataset.drop"),
                    file_count="multiple",
                    type="filepath",
                    height=150,
                    elem_id="dataset-drop",
                )
                self.folder = gr.Textbox(
                    label=w("dataset.folder"), placeholder=w("dataset.folder_help"), max_lines=1, submit_btn=True
                )
                self.demo = gr.Button(w("dataset.demo"), size="sm", elem_id="dataset-demo")
                self.summary = gr.HTML(elem_id="dataset-summary")
                self.captioning = CaptionAll(page, self.name)
                self.options = OptionsForm(page, self.name)
            with gr.Column(scale=7, min_width=320), gr.Tabs(elem_id="dataset-views"):
                with gr.Tab(w("dataset.grid"), id="grid"):
                    self.grid = PictureGrid(page, self.name)
                with gr.Tab(w("dataset.table"), id="table") as table:
                    self.table = CaptionTable(page, self.name, table)
        self._connect()

    def _connect(self) -> None:
        taken = [self.name, self.drop, self.new]
        self.drop.upload(asks(self._import), [self.drop, self.new, self.name], taken, api_visibility="private")
        self.folder.submit(
            asks(self._import_folder),
            [self.folder, self.new],
            [self.name, self.folder, self.new],
            api_visibility="private",
        )
        self.demo.click(asks(self._import_demo), outputs=[self.name], api_visibility="private")
        self.page.watch([self.summary, self.name, self.demo], self._read, [self.name])

    # ------------------------------------------------------------ events

    def _import(self, files: list[str], new: str, current: str | None) -> list[Any]:
        name = new.strip() or (Path(current).name if current else self.w("dataset.first_name"))
        return [self._take(name, [Path(file) for file in files]), None, ""]

    def _import_folder(self, folder: str, new: str) -> list[Any]:
        source = Path(folder.strip()).expanduser()
        if not folder.strip() or not source.exists():
            raise ZitError(self.w("dataset.no_folder", folder=folder), self.w("dataset.no_folder_help"))
        return [self._take(new.strip() or source.stem, [source]), "", ""]

    def _import_demo(self) -> Any:
        return self._take(DEMO, [paths.assets() / "demo" / "pictures"])

    def _take(self, name: str, files: list[Path]) -> Any:
        """Bring files in, say how many pictures came and which did not, and choose the dataset."""
        done = datasets.import_files(name, files)
        gr.Info(self.w("dataset.imported", n=done.added, name=done.folder.name))
        if done.skipped:
            gr.Warning(self.w("dataset.skipped", names=", ".join(name for name, _ in done.skipped[:5])))
        return gr.update(choices=dataset_choices(), value=str(done.folder))

    # ------------------------------------------------------------ looking

    def _read(self, now: Snapshot, folder: str | None) -> Sequence[Any]:
        known = dataset_choices()
        choices, demo = followed(known, folder), gr.update(visible=DEMO not in [name for name, _ in known])
        view = read_view(folder) if folder else View()
        return [self._summary(view), choices, demo]

    def _summary(self, view: View) -> str:
        w, found = self.w, view.summary
        if not view.items:
            return cards.empty(w("dataset.none")) + cards.note(w.message(view.problem), "warning")
        good = [item for item in view.items if item.size]
        flags = [flag for item in view.items for flag in item.flags]
        lines = [(w("dataset.count"), str(len(good)))]
        lines += [(w("flag." + flag), str(flags.count(flag))) for flag in dict.fromkeys(flags)]
        lines += [(item.name, w.message(item.note)) for item in view.items if not item.size][:20]
        notes = [w("dataset.few" if len(good) < FEW else "dataset.good" if len(good) <= MANY else "dataset.many")]
        if view.total:
            notes.append(w("dataset.examining", n=view.examined, total=view.total))
        if found.get("duplicates"):
            notes.append(w("dataset.repeats", n=found["duplicates"]))
        return cards.facts(lines) + "".join(cards.note(note) for note in notes)
