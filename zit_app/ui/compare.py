"""The tab Compare: the same prompts and seeds, drawn in several ways, side by side and in numbers."""

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from zit_app.core.compare_settings import CompareSettings, Variant, parse_seeds
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import LoraUse
from zit_app.service import runs, worker
from zit_app.ui import cards
from zit_app.ui.choices import chooser, default_model, followed, lora_choices, model_choices, require_model
from zit_app.ui.comparison import NEWEST, Comparison
from zit_app.ui.gallery import whole
from zit_app.ui.page import Page, Snapshot, asks

ROWS, ROW = 4, 5  # variants; controls of one: name, model, LoRA, weight, steps
SHOWN_ROWS = 2  # at first
SEEDS = 4  # of a picture that is sent here: its own and the next ones


class CompareTab:
    """Starts comparisons; what came of them stands beside."""

    def __init__(self, page: Page) -> None:
        self.page, self.w = page, page.w
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=4, min_width=320):
                self._controls()
            with gr.Column(scale=7, min_width=320):
                self.comparison = Comparison(page)
        self._connect()

    def _controls(self) -> None:
        w = self.w
        self.prompts = gr.Textbox(
            w("generate.example"),
            label=w("compare.prompts"),
            info=w("compare.prompts_help"),
            lines=3,
            elem_id="compare-prompts",
        )
        with gr.Row():
            self.seeds = gr.Textbox(
                "0-3",
                label=w("compare.seeds"),
                placeholder=w("compare.seeds_help"),
                max_lines=1,
                min_width=130,
                elem_id="compare-seeds",
            )
            self.model = chooser(
                model_choices(), value=default_model(), label=w("model"), min_width=130, elem_id="compare-model"
            )
        gr.HTML(f"<h3>{w('compare.variants')}</h3>" + cards.note(w("compare.variants_help")))
        self.variants: list[Component] = []
        self.rows = [self._variant(number) for number in range(ROWS)]
        self.shown = gr.State(SHOWN_ROWS)
        self.add = gr.Button(w("compare.add"), size="sm", elem_id="compare-add")
        self.go = gr.Button(w("compare.start"), variant="primary", size="lg", elem_id="compare-start")

    def _variant(self, number: int) -> gr.Column:
        w = self.w
        names = (w("compare.without"), w("compare.with"))
        with gr.Column(visible=number < SHOWN_ROWS, elem_classes="lora-row", elem_id=f"variant-{number + 1}") as row:
            with gr.Row():
                name = gr.Textbox(
                    names[number] if number < len(names) else "",
                    label=w("compare.name", n=number + 1),
                    max_lines=1,
                    min_width=120,
                )
                lora = chooser(lora_choices(w("lora.none")), value="", label=w("compare.lora"), min_width=120)
            with gr.Accordion(w("compare.more_controls"), open=False):
                weight = gr.Slider(-1, 2, 1, step=0.05, label=w("lora.weight"), buttons=[])
                with gr.Row():
                    model = chooser(
                        [(w("compare.same_model"), ""), *model_choices()], value="", label=w("model"), min_width=110
                    )
                    steps = gr.Number(0, label=w("compare.steps"), precision=0, minimum=0, min_width=110)
        self.variants += [name, model, lora, weight, steps]
        return row

    def _connect(self) -> None:
        page = self.page
        given = [self.prompts, self.seeds, self.model, *self.variants]
        self.go.click(asks(self._submit), given, [self.comparison.run], api_visibility="private")
        self.prompts.focus(worker.prepare_worker, queue=False, show_progress="hidden", api_visibility="private")
        self.add.click(
            self._more_rows, [self.shown], [self.shown, self.add, *self.rows], queue=False, api_visibility="private"
        )
        page.watch([self.model, *self.variants[1::ROW], *self.variants[2::ROW]], self._read_choices, [self.model])

    @property
    def filled(self) -> list[Component]:
        """What `take` gives values for."""
        first_two = self.variants[: 2 * ROW]
        return [self.prompts, self.seeds, self.model, *first_two[2::ROW], *first_two[3::ROW]]

    # ------------------------------------------------------------ events

    def take(self, picture: str) -> list[Any]:
        """Prompt, seeds and model of a picture, and its first LoRA in the second variant, for `filled`."""
        restored = whole(self.w, picture)
        settings = restored.settings
        use = next(iter(settings.loras), LoraUse(""))
        seeds = f"{settings.seed}-{settings.seed + SEEDS - 1}"
        return [settings.prompts[0], seeds, restored.model, "", use.file, 1.0, use.weight]

    def _submit(self, prompts: str, seeds: str, model: str, *rows: Any) -> str:
        variants = []
        for i in range(0, len(rows), ROW):
            name, own_model, lora, weight, steps = rows[i : i + ROW]
            if name.strip():
                uses = (LoraUse(lora, float(1 if weight is None else weight)),) if lora else ()
                variants.append(Variant(name.strip(), own_model, uses, int(steps or 0)))
        if len(variants) > 1 and len({(one.model, one.loras, one.steps) for one in variants}) < len(variants):
            raise ZitError(self.w("compare.same"), self.w("compare.same_help"))
        lines = tuple(line.strip() for line in prompts.splitlines() if line.strip())
        settings = CompareSettings(
            model=require_model(self.w, model), prompts=lines, seeds=parse_seeds(seeds), variants=tuple(variants)
        )
        runs.submit_compare(settings)
        return NEWEST

    def _more_rows(self, shown: int) -> list[Any]:
        count = min(ROWS, shown + 1)
        return [count, gr.update(visible=count < ROWS), *[gr.update(visible=i < count) for i in range(ROWS)]]

    # ------------------------------------------------------------ looking

    def _read_choices(self, now: Snapshot, model: str | None) -> Sequence[Any]:
        models, loras = model_choices(), lora_choices(self.w("lora.none"))
        own = [(self.w("compare.same_model"), ""), *models]
        return [
            followed(models, model, default_model()),
            *[gr.update(choices=own)] * ROWS,
            *[gr.update(choices=loras)] * ROWS,
        ]
