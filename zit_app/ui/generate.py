"""The tab Generate: words in, pictures out."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from zit_app.core.flags import fields
from zit_app.core.flavours import read_flavour, sees_pictures
from zit_app.core.generate_settings import GenerateSettings, enlarged
from zit_app.core.run import Run
from zit_app.core.settings import from_mapping
from zit_app.service import gallery, runs, worker
from zit_app.service.estimates import model_place
from zit_app.ui import cards, forms
from zit_app.ui.choices import (
    attention_choices,
    chooser,
    default_model,
    followed,
    model_choices,
    precision_choices,
    recommended,
    require_model,
)
from zit_app.ui.gallery import BUSY, Gallery, whole
from zit_app.ui.loras import ROW, ROWS, LoraStack, lora_uses, stack_values
from zit_app.ui.memory import MemoryNote
from zit_app.ui.page import Page, Snapshot, asks
from zit_app.ui.shapes import ASPECTS, SIDES, pixels_of, side_choices, size_of, without_defaults
from zit_app.ui.starting import StartFrom, mask_file, shown_again
from zit_app.ui.templates import filled, template_choices

MORE = (
    "steps", "guidance", "negative_prompt", "width", "height", "precision", "text_precision", "solver", "sigmas",
    "max_sequence_length", "attention", "strength", "image", "mask", "mask_blur", "larger", "larger_strength",
    "larger_steps",
)  # fmt: skip
DECIDE_MEMORY = (
    "steps", "guidance", "width", "height", "precision", "text_precision", "solver", "max_sequence_length", "larger",
)  # fmt: skip
LARGEST_SEED = 10**9 - 1  # nine digits fit the box
COUNT = 4  # pictures at first
LARGER = {"larger": (1.0, 2.0, 0.25), "larger_strength": (0.05, 1.0, 0.05)}  # from, to, step of a slider


class GenerateTab:
    """The controls that other tabs reach into: Try it fills in the prompt and the first LoRA."""

    def __init__(self, page: Page) -> None:
        self.page, self.w = page, page.w
        self.known = fields(GenerateSettings)
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=5, min_width=320):
                self._controls()
            with gr.Column(scale=6, min_width=320):
                self.gallery = Gallery(page)
        self._connect()

    def _controls(self) -> None:
        w = self.w
        help = w("generate.prompt_help", choice="`{red|blue}`")  # Gradio takes the underscores of a file's name away
        self.prompt = gr.Textbox(
            w("generate.example"), label=w("generate.prompt"), lines=3, elem_id="prompt", info=help
        )
        with gr.Row():
            self.model = chooser(
                model_choices(), value=default_model(), label=w("model"), elem_id="model", min_width=150
            )
            precision = self._format("precision", elem_id="precision", min_width=150)
            self.template = gr.Dropdown(
                template_choices(w), value="", label=w("template.label"), elem_id="template", min_width=150
            )
        with gr.Group():
            self.aspect = gr.Radio(
                [(w("aspect.square") if name == "square" else name, name) for name in ASPECTS],
                value="square",
                label=w("generate.aspect"),
                elem_classes="chips",
            )
            self.side = gr.Radio(
                self._sides(default_model()),
                value=SIDES[0],
                label=w("generate.side"),
                elem_classes="chips",
                elem_id="side",
            )
            self.pixels = gr.HTML(elem_id="pixels", elem_classes="inside")
        self.memory = MemoryNote(self.page)
        with gr.Row():
            self.count = gr.Number(COUNT, label=w("generate.count"), precision=0, minimum=1, min_width=90)
            self.seed = gr.Number(0, label=w("generate.seed"), precision=0, minimum=0, min_width=110, elem_id="seed")
            self.lock = gr.Checkbox(False, label=w("generate.lock"), min_width=110, elem_classes="low")
        with gr.Row():
            self.go = gr.Button(w("generate.start"), variant="primary", size="lg", scale=3, elem_id="generate")
            self.stop = gr.Button(
                w("stop"), variant="stop", size="lg", scale=1, visible=False, min_width=90, elem_id="generate-stop"
            )
        with self._fold("lora.title", "loras") as self.stack_box:
            self.stack = LoraStack(self.page, self.prompt).controls
        with self._fold("generate.start_from", "generate-from") as self.image_box:
            own = StartFrom(w, self.known).controls
        with self._fold("generate.references", "generate-references", visible=False) as self.references_box:
            gr.HTML(cards.note(w("generate.references_help")))
            self.references = gr.File(
                file_count="multiple",
                file_types=["image"],
                height=140,
                label=w("generate.references"),
                elem_id="generate_references",
                type="filepath",
            )
        with self._fold("generate.larger", "generate-larger") as self.larger_box:
            gr.HTML(cards.note(w("generate.larger_help")))
            own |= {name: self._slider(name, *span) for name, span in LARGER.items()}
            own["larger_steps"] = self._setting("larger_steps")
        with self._fold("generate.more", "generate-more", "grid-form"):
            attention = self._setting("attention", choices=attention_choices())
            text = self._format("text_precision", info=w.help(self.known["text_precision"]))
            own |= {"precision": precision, "text_precision": text, "attention": attention}
            self.more = [own.get(name) or self._setting(name) for name in MORE]
            self.negative = gr.HTML(elem_id="negative-note", elem_classes="maybe")
        self.drop = gr.File(
            file_types=[".png"], label=w("generate.restore"), height=110, elem_id="restore", type="filepath"
        )

    def _fold(self, title: str, name: str, *classes: str, visible: bool = True) -> gr.Accordion:
        own = ["prepared", *classes]
        return gr.Accordion(self.w(title), open=False, elem_id=name, elem_classes=own, visible=visible)

    def _setting(self, name: str, **more: Any) -> Component:
        return forms.control(self.w, self.known[name], self.known[name].default, elem_id=f"generate_{name}", **more)

    def _format(self, name: str, **more: Any) -> Component:
        """A choice of number formats; which one is best here, `_read_model` says."""
        return chooser([], "auto", label=self.w.label(self.known[name]), **more)

    def _slider(self, name: str, lowest: float, highest: float, step: float) -> Component:
        info = self.known[name]
        words: dict[str, Any] = {"label": self.w.label(info), "info": self.w.help(info), "elem_id": f"generate_{name}"}
        return gr.Slider(lowest, highest, info.default, step=step, buttons=[], **words)

    def _sides(self, model: str | None) -> list[tuple[str, float]]:
        return side_choices(model) if model else []

    def _connect(self) -> None:
        page, right = self.page, self.gallery
        for start in (self.go.click, self.prompt.submit):
            start(asks(self._submit), self.form, [self.seed], api_visibility="private")
        self.prompt.focus(worker.prepare_worker, queue=False, show_progress="hidden", api_visibility="private")
        self.stop.click(asks(self._stop), api_visibility="private")
        restored = [self.stack_box, self.image_box, self.references_box, self.larger_box, *self.form]
        self.drop.upload(asks(self._restore), [self.drop], restored, api_visibility="private")
        right.again.click(asks(self._restore), [right.chosen], restored, api_visibility="private")
        right.vary.click(asks(self._vary), [right.chosen, self.count], api_visibility="private")
        controls = dict(zip(MORE, self.more, strict=True))
        begun = [self.prompt, self.aspect, controls["negative_prompt"], controls["strength"], self.image_box]
        self.template.select(asks(self._begin), [self.template, self.model], begun, api_visibility="private")
        page.watch([self.stop], lambda now: [gr.update(visible=any(run.state in BUSY for run in now.of("generate")))])
        chosen = [self.model, controls["precision"], controls["text_precision"]]
        page.watch(chosen, self._read_model, chosen)
        page.watch([self.references_box], lambda now, model: [gr.update(visible=looks(model))], [self.model])
        page.watch([self.side], lambda now, model: [gr.update(choices=self._sides(model))], [self.model])
        sizes = [self.model, self.aspect, self.side, controls["width"], controls["height"], controls["larger"]]
        page.watch([self.pixels], self._read_pixels, sizes)
        first = {"model": self.model, "aspect": self.aspect, "side": self.side, "count": self.count}
        self.memory.connect(first | {name: controls[name] for name in DECIDE_MEMORY}, self.stack[1::ROW])
        page.watch([self.negative], self._read_negative, [self.model, controls["guidance"]])

    @property
    def form(self) -> list[Component]:
        """Everything that decides the pictures, in the order that `_submit` takes it."""
        first = [self.prompt, self.model, self.aspect, self.side, self.count, self.seed, self.lock]
        return [*first, *self.stack, self.references, *self.more]

    @property
    def kept(self) -> list[Component]:
        """The form without pictures, whose files do not stay."""
        return [control for control in self.form if not isinstance(control, gr.Image | gr.ImageEditor | gr.File)]

    # ------------------------------------------------------------ events

    def _begin(self, template: str, model: str | None) -> list[Any]:
        return filled(self.w, template, model)

    def _submit(
        self, prompt: str, model: str, aspect: str, side: float, count: int | None, seed: int | None, locked: bool,
        *rest: Any,
    ) -> int:  # fmt: skip
        chosen = int(seed or 0) if locked else random.randint(0, LARGEST_SEED)
        stack, (references, *more) = rest[: ROW * ROWS], rest[ROW * ROWS :]
        values = {name: forms.read(self.w, self.known[name], value) for name, value in zip(MORE, more, strict=True)}
        width, height = size_of(require_model(self.w, model), aspect, side)
        values |= {"image": values["image"] or "", "mask": mask_file(values["mask"])}
        values |= {"width": values["width"] or width, "height": values["height"] or height}
        values |= {"prompts": [prompt.strip()] if prompt.strip() else [], "seed": chosen}
        values |= {"count": forms.read(self.w, self.known["count"], count)}
        values |= {"references": list(references or []) if looks(model) else []}
        values |= {"loras": [vars(use) for use in lora_uses(stack)]}
        runs.submit_generate(from_mapping(GenerateSettings, values, "[generate]"), model)
        return chosen

    def _stop(self) -> None:
        stop_all("generate")

    def _restore(self, picture: str) -> list[Any]:
        """Every control as it was when the picture was drawn; what is not on this machine is named and left out."""
        restored = gallery.restore(Path(picture))
        if restored.missing:
            gr.Warning(self.w("generate.missing", names=", ".join(restored.missing)))
        settings, aspect, side = restored.settings, "square", SIDES[0]
        if restored.model:
            aspect, side, settings = without_defaults(settings, restored.model)
        more = [forms.shown(self.known[name], getattr(settings, name)) for name in MORE]
        model = restored.model or gr.skip()
        stack = stack_values(settings.loras)
        more[MORE.index("image")] = settings.image or None
        more[MORE.index("mask")], more[MORE.index("mask_blur")] = shown_again(settings)
        folds = (settings.loras, settings.image, settings.references, settings.larger > 1)
        opened = [gr.update(open=bool(one)) for one in folds]
        first = [settings.prompts[0], model, aspect, side, 1, settings.seed, True]
        return [*opened, *first, *stack, list(settings.references) or None, *more]

    def _vary(self, picture: str, count: int | None) -> None:
        """The same again with other seeds, whatever the controls hold."""
        restored = whole(self.w, picture)
        number = forms.read(self.w, self.known["count"], count)
        settings = replace(restored.settings, seed=random.randint(0, LARGEST_SEED), count=number)
        runs.submit_generate(settings, restored.model)

    # ------------------------------------------------------------ looking

    def _read_model(self, now: Snapshot, model: str | None, *chosen: str) -> Sequence[Any]:
        known, best = self.known["precision"].choices, recommended(model)
        choices = [precision_choices(self.w, known, one) for one in best]
        formats = [followed(each, value, "auto") for each, value in zip(choices, chosen, strict=True)]
        return [followed(model_choices(), model, default_model()), *formats]

    def _read_pixels(
        self, now: Snapshot, model: str | None, aspect: str, side: float, width: int | None, height: int | None,
        larger: float | None,
    ) -> Sequence[Any]:  # fmt: skip
        if not model:
            return [""]
        small = pixels_of(model, aspect, side, int(width or 0), int(height or 0))
        size = enlarged(small, larger or 1)
        words = self.w("generate.pixels", width=size[0], height=size[1])
        first = self.w("generate.pixels_first", width=small[0], height=small[1]) if size != small else ""
        return [cards.note(f"{words} {first}".strip())]

    def _read_negative(self, now: Snapshot, model: str | None, guidance: float | None) -> Sequence[Any]:
        own = read_flavour(model_place(model)).guidance if model else 0.0
        used = own if guidance is None or guidance < 0 else guidance
        return [cards.note(self.w("generate.no_negative")) if used == 0 else ""]


def looks(model: str | None) -> bool:
    """Whether a model looks at pictures that the prompt speaks of."""
    return bool(model) and sees_pictures(model_place(str(model)))


def stop_all(kind: str) -> None:
    """Stop the run of a kind that works, and cancel those that wait."""
    for run in runs.list_runs(kind):
        if run.can_stop:
            worker.stop_run(Run(run.folder))
