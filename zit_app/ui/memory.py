"""The memory plan in words: what drawing will take of this machine, and where the parts of the model will be."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from zit_app.core.generate_settings import enlarged, together
from zit_app.core.memory import Layout, Model, Request
from zit_app.service.planning import Choice, as_drawn, drawing_seconds, model_here, room_of
from zit_app.ui import cards
from zit_app.ui.choices import cards_here
from zit_app.ui.page import Page, Snapshot
from zit_app.ui.shapes import pixels_of
from zit_app.ui.sidebar import machine
from zit_app.ui.text import Words

SMALLEST = "nf4"  # the format that takes the least


class MemoryNote:
    """One line below the controls of Generate that follows what is entered; unfolded, a line for each part."""

    def __init__(self, page: Page) -> None:
        self.page, self.w = page, page.w
        self.html = gr.HTML(elem_id="memory-plan", elem_classes="maybe")

    def connect(self, controls: dict[str, Component], files: Sequence[Component]) -> None:
        """Follow these settings, by their names, and the files of the LoRA stack."""
        self.names = tuple(controls)
        self.page.watch([self.html], self._read, [*controls.values(), *files])

    def _read(self, now: Snapshot, *values: Any) -> Sequence[Any]:
        given, files = dict(zip(self.names, values, strict=False)), values[len(self.names) :]
        name = given["model"]
        if not name:
            return [""]
        model, flavour = model_here(name)
        small = pixels_of(name, given["aspect"], given["side"], int(given["width"] or 0), int(given["height"] or 0))
        size = enlarged(small, given["larger"] or 1)
        guidance = flavour.guidance if given["guidance"] is None or given["guidance"] < 0 else given["guidance"]
        request = Request(
            *size,
            max(1, min(int(given["count"] or 1), together(size))),
            guidance > 0,
            int(given["max_sequence_length"] or 512),
            sum(Path(file).stat().st_size for file in files if file and Path(file).is_file()),
        )
        choice = as_drawn(model, request, room_of(cards_here()), given["precision"], given["text_precision"])
        passes = int(given["steps"] or flavour.steps) * (1 + (guidance > 0)) * (1 + (given["solver"] == "heun"))
        formats = (choice.precision, "bf16" if cards_here() else "fp32")
        done = now.of("generate") if size == small else []  # a second pass is not measured apart
        return [plan_html(self.w, choice, model, drawing_seconds(name, formats, model, request, passes, done))]


def plan_html(w: Words, choice: Choice, model: Model, seconds: float | None = None) -> str:
    """How much at the most, of what, in how much time; then where each part is."""
    budget = choice.layout.budget
    need = max(phase.total for phase in choice.layout.phases)
    room = cards_here()[0].total if budget is not None else machine().memory
    line = w("memory.card" if budget is not None else "memory.none", need=w.size(need), room=w.size(room))
    line += " " + w("memory.time", time=w.duration(seconds)) if seconds else ""
    parts = "".join(f"<li>{escape(one)}</li>" for one in parts_in_words(w, choice, model))
    fits = choice.layout.fits if budget is not None else need <= room
    warning = "" if fits else cards.note(w("memory.too_much", name=SMALLEST), "warning")
    return f'<details class="plan"><summary>{escape(line)}</summary><ul>{parts}</ul></details>{warning}'


def parts_in_words(w: Words, choice: Choice, model: Model) -> list[str]:
    """One sentence each about transformer, text encoder and VAE."""
    layout, blocks = choice.layout, int(model.transformer["n_layers"])
    layers = int(model.text_encoder["num_hidden_layers"])
    transformer = {"n": layout.transformer_away, "all": blocks, "format": choice.precision}
    encoder = {"n": layout.encoder_away, "all": layers, "format": choice.text_precision}
    return [
        w(f"transformer.{_of_transformer(layout)}", **transformer),
        w(f"encoder.{_of_encoder(layout)}", **encoder),
        w(f"vae.{'tiles' if layout.tile else 'one' if layout.one_by_one else 'whole'}", n=layout.tile),
    ]


def _of_transformer(layout: Layout) -> str:
    if layout.budget is None:
        return "here"
    return "away" if layout.transformer_away else "stays"


def _of_encoder(layout: Layout) -> str:
    if layout.encoder_stays:
        return "here" if layout.budget is None else "stays"
    return "away" if layout.encoder_away else "reads"
