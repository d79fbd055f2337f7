"""The tab Train: a preset, a dataset, a name; then the curves of a training, and a LoRA to try."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from zit_app.core.errors import ZitError
from zit_app.core.memory import budget_of
from zit_app.core.models import POCKET
from zit_app.core.train_settings import TrainSettings
from zit_app.service import runs
from zit_app.service.estimates import Estimate, estimate
from zit_app.ui import cards
from zit_app.ui.advanced import PRESETS, QUICK, Advanced, preset_settings
from zit_app.ui.choices import (
    chooser,
    dataset_choices,
    default_model,
    first_dataset,
    followed,
    model_choices,
    read_items,
    require_model,
)
from zit_app.ui.generate import GenerateTab
from zit_app.ui.page import Page, Snapshot, asks
from zit_app.ui.sidebar import machine
from zit_app.ui.training import NEWEST, Training


class TrainTab:
    """Starts trainings; `training` shows them and hands their LoRAs to Generate and Compare."""

    def __init__(self, page: Page, generate: GenerateTab) -> None:
        self.page, self.w = page, page.w
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=5, min_width=320):
                self._controls()
            with gr.Column(scale=6, min_width=320):
                self.training = Training(page, generate)
        self._connect()

    def _controls(self) -> None:
        w, model = self.w, default_model()
        start = presets_of(model)[0]
        self.preset = gr.Radio(
            [(self._card(name, model, 0, []), name) for name in presets_of(model)],
            value=start,
            label=w("train.preset"),
            elem_classes="preset-cards",
            elem_id="preset",
        )
        with gr.Row():
            self.dataset = chooser(
                choices=dataset_choices(),
                value=first_dataset(),
                label=w("dataset"),
                info=w("train.dataset_help"),
                elem_id="train-dataset",
                min_width=150,
            )
            self.model = chooser(
                choices=model_choices(),
                value=model,
                label=w("model"),
                info=w("train.model_help"),
                elem_id="train-model",
                min_width=150,
            )
        with gr.Row():
            self.name = gr.Textbox(
                label=w("train.name"), info=w("train.name_help"), max_lines=1, min_width=150, elem_id="train-name"
            )
            self.trigger = gr.Textbox(
                label=w("train.trigger"), info=w("train.trigger_help"), max_lines=1, min_width=150, elem_id="trigger"
            )
        self.prompts = gr.Textbox(
            "", label=w("train.prompts"), info=w("train.prompts_help"), lines=2, max_lines=8, elem_id="train-prompts"
        )
        self.plan = gr.HTML(elem_id="plan", elem_classes="maybe")
        self.go = gr.Button(w("train.start"), variant="primary", size="lg", elem_id="train")
        self.advanced = Advanced(self.page, start)

    def _connect(self) -> None:
        page, controls = self.page, self.advanced.controls
        given = [self.preset, self.dataset, self.model, self.name, self.trigger, self.prompts, *controls]
        self.go.click(asks(self._submit), given, [self.training.run], api_visibility="private")
        self.advanced.connect(self.preset)
        shelves = [self.dataset, self.model]
        page.watch([*shelves, self.advanced.start], self._read_choices, shelves)
        page.watch([self.preset], self._read_presets, [self.preset, self.dataset, self.model])
        plan = [self.plan, self.advanced.changed]
        page.watch(plan, self._read_plan, [self.preset, self.dataset, self.model, self.prompts, *controls])

    def _submit(
        self, preset: str, dataset: str, model: str, name: str, trigger: str, prompts: str, *values: Any
    ) -> str:
        if not dataset:
            raise ZitError(self.w("train.no_dataset"), self.w("train.no_dataset_help"))
        settings = self.advanced.settings(values, trigger, prompts)
        folder = Path(dataset)
        runs.submit_train(settings, folder, require_model(self.w, model), name.strip() or folder.name, preset)
        return NEWEST

    # ------------------------------------------------------------ looking

    def _read_choices(self, now: Snapshot, dataset: str | None, model: str | None) -> Sequence[Any]:
        models = followed(model_choices(), model, default_model())
        return [followed(dataset_choices(), dataset), models, gr.update(choices=self.advanced.loras())]

    def _read_presets(self, now: Snapshot, preset: str, dataset: str | None, model: str | None) -> Sequence[Any]:
        """The cards with what each costs here; the quick one only for the models that it is made for."""
        count, known = pictures_in(dataset), presets_of(model)
        choices = [(self._card(name, model, count, now.of("train")), name) for name in known]
        return [followed(choices, preset)]

    def _card(self, name: str, model: str | None, count: int, done: Sequence[runs.RunView]) -> str:
        w = self.w
        try:
            found = self._estimate(preset_settings(name), model, count, done)
        except ZitError:  # the model has gone a moment ago: the next look has another one
            found = None
        costs = w("train.costs", **self._costs(found)) if found else ""
        return f"{w(f'preset.{name}')}\n{w(f'preset.{name}_help')}\n{costs}"

    def _costs(self, found: Estimate) -> dict[str, str]:
        w = self.w
        time = w("train.about", time=w.duration(found.seconds)) if found.seconds else w("train.time_unknown")
        return {"time": time, "memory": w.size(found.memory), "file": w.size(found.file)}

    def _estimate(
        self, settings: TrainSettings, model: str | None, count: int, done: Sequence[runs.RunView]
    ) -> Estimate | None:
        return estimate(settings, model, count, done, bool(machine().cards)) if model else None

    def _read_plan(
        self, now: Snapshot, preset: str, dataset: str | None, model: str | None, prompts: str, *values: Any
    ) -> Sequence[Any]:
        """How long the training will be, what it costs, and what differs from the preset."""
        w, changed, count = self.w, self.advanced.differences(preset, values), pictures_in(dataset)
        try:
            settings = self.advanced.settings(values, prompts=prompts)
            found = self._estimate(settings, model, count, now.of("train"))
        except ZitError as error:
            return [cards.note(w.error(error), "warning"), changed]
        if not count:
            return [cards.note(w("train.no_dataset_help")), changed]
        if found is None:
            return [cards.note(w("model.none_help")), changed]
        rank = settings.lora.network_dim
        plan = w("train.plan", pictures=count, steps=found.steps, rank=rank, **self._costs(found))
        lines = [cards.note(plan)]
        if settings.training.protection == "auto" and found.protection != "none":
            lines.append(cards.note(w(f"train.auto_{found.protection}")))
        room = max((card.total for card in machine().cards), default=machine().memory)
        if found.memory > budget_of(room):
            lines.append(cards.note(w("train.tight", memory=w.size(found.memory), room=w.size(room)), "warning"))
        return ["".join(lines), changed]


def presets_of(model: str | None) -> list[str]:
    """The presets that suit a model, the one to begin with first."""
    real = [name for name in PRESETS if name != QUICK]
    return [QUICK, *real] if model in POCKET else real


def pictures_in(dataset: str | None) -> int:
    """Pictures of a dataset that can be read."""
    return sum(item.size is not None for item in read_items(dataset)) if dataset else 0
