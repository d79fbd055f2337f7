"""The LoRA stack: which files act, how strongly, in which steps, and the words that call them."""

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from zit_app.core.generate_settings import LoraUse
from zit_app.service import adapters
from zit_app.ui.choices import chooser, lora_choices
from zit_app.ui.page import Page, Snapshot

ROWS = 5
ROW = 5  # controls of a row: on, file, weight, first step, last step
EMPTY = (True, "", 1.0, 1, 0)


class LoraStack:
    """Rows that appear as they are needed. `controls` holds all of them, row after row."""

    def __init__(self, page: Page, prompt: gr.Textbox) -> None:
        self.w = page.w
        self.controls: list[Component] = []
        self.words: list[gr.Button] = []
        self.rows = [self._row(number) for number in range(ROWS)]
        files = self.controls[1::ROW]
        for word, file in zip(self.words, files, strict=True):
            word.click(self._say, [prompt, file], [prompt], show_progress="hidden", api_visibility="private")
        page.watch([*files, *self.rows, *self.words], self._read, files)

    def _row(self, number: int) -> gr.Column:
        w = self.w
        with gr.Column(visible=number == 0, elem_classes="lora-row", elem_id=f"lora-{number + 1}") as row:
            with gr.Row(elem_classes="lora-file"):
                on = gr.Checkbox(True, label=w("lora.on", n=number + 1), min_width=60, scale=0, elem_classes="switch")
                label = w("lora.file", n=number + 1)
                file = chooser(lora_choices(w("lora.none")), value="", label=label, show_label=False, min_width=160)
            with gr.Row():
                weight = gr.Slider(-1, 2, 1, step=0.05, label=w("lora.weight"), buttons=[], scale=3, min_width=180)
                first = gr.Number(1, label=w("lora.first"), precision=0, minimum=1, min_width=80)
                last = gr.Number(0, label=w("lora.last"), precision=0, minimum=0, min_width=80)
            self.words.append(gr.Button("", size="sm", visible=False, elem_classes="word"))
        self.controls += [on, file, weight, first, last]
        return row

    def _say(self, prompt: str, file: str) -> str:
        return with_word(prompt, trigger_of(file))

    def _read(self, now: Snapshot, *chosen: str) -> Sequence[Any]:
        choices = lora_choices(self.w("lora.none"))
        shown = [gr.update(visible=not i or bool(chosen[i] or chosen[i - 1])) for i in range(ROWS)]
        triggers = [trigger_of(file) for file in chosen]
        words = [gr.update(value=self.w("lora.say", word=word), visible=bool(word)) for word in triggers]
        return [*[gr.update(choices=choices)] * ROWS, *shown, *words]


def trigger_of(file: str) -> str:
    """The trigger word of a LoRA of the library, "" when it has none."""
    return next((one.trigger for one in adapters.library() if str(one.path) == file), "")


def with_word(prompt: str, word: str) -> str:
    """The prompt with a trigger word at its beginning, unless it holds that word already."""
    if not word or word.casefold() in prompt.casefold():
        return prompt
    return f"{word}, {prompt}" if prompt.strip() else word


def stack_values(uses: Sequence[LoraUse]) -> list[Any]:
    """What the rows' controls hold for a stack; what does not fit into the rows is left out."""
    rows = [(True, use.file, use.weight, use.first, use.last) for use in uses[:ROWS]]
    return [value for row in [*rows, *[EMPTY] * (ROWS - len(rows))] for value in row]


def lora_uses(stack: Sequence[Any]) -> list[LoraUse]:
    """The stack's rows (on, file, weight, first, last, on …) without those that are empty or off."""
    rows = [stack[i : i + ROW] for i in range(0, len(stack), ROW)]
    return [LoraUse(row[1], float(row[2]), int(row[3] or 1), int(row[4] or 0)) for row in rows if row[0] and row[1]]
