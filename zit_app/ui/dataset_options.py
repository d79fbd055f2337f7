"""What belongs to a dataset, whatever is trained on it: its `dataset.toml` as a small form that saves itself."""

from pathlib import Path
from typing import Any

import gradio as gr

from zit_app.service import options
from zit_app.ui.page import Page, asks


class OptionsForm:
    """Trigger word, repeats, background and mirroring of the chosen dataset."""

    def __init__(self, page: Page, dataset: gr.Dropdown) -> None:
        self.w, self.dataset = page.w, dataset
        w = self.w
        with gr.Accordion(w("options.title"), open=False, elem_id="dataset-options") as box:
            self.trigger = gr.Textbox(label=w("options.trigger"), info=w("options.trigger_help"), max_lines=1)
            with gr.Row():
                self.repeats = gr.Number(
                    1, label=w("options.repeats"), info=w("options.repeats_help"), precision=0, minimum=1, min_width=120
                )
                self.background = gr.ColorPicker(
                    "#ffffff", label=w("options.background"), info=w("options.background_help"), min_width=120
                )
            self.flip = gr.Checkbox(False, label=w("options.flip"), info=w("options.flip_help"))
        fields: list[Any] = [self.trigger, self.repeats, self.background, self.flip]
        given = [dataset, *fields]
        for happened in (self.trigger.blur, self.repeats.blur, self.background.blur, self.flip.input):
            happened(asks(self._save), given, show_progress="hidden", api_visibility="private")
        for happened in (dataset.change, box.expand):
            happened(asks(self._load), [dataset], fields, show_progress="hidden", api_visibility="private")

    def _load(self, folder: str | None) -> list[Any]:
        if not folder:
            return [gr.skip()] * 4
        found = options.read(Path(folder))
        return [found.trigger_word, found.repeats, options.hexadecimal(found.background), found.flip]

    def _save(self, folder: str | None, trigger: str, repeats: int | None, background: str, flip: bool) -> None:
        if folder:
            options.save(Path(folder), trigger.strip(), int(repeats or 1), background, flip)
