"""A training while it runs and after: curves, previews, what can be asked of it, and where its LoRA goes next."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import LoraUse
from zit_app.core.preview_lines import read_preview
from zit_app.core.run import Run
from zit_app.core.train_settings import load_job
from zit_app.service import runs, worker
from zit_app.service.remedies import find_remedy
from zit_app.service.runs import RunView
from zit_app.ui import cards
from zit_app.ui.actions import Actions
from zit_app.ui.choices import chooser
from zit_app.ui.curves import curves, previews
from zit_app.ui.generate import GenerateTab
from zit_app.ui.loras import stack_values, with_word
from zit_app.ui.page import Page, Snapshot, asks

NEWEST = ""


class Training:
    """One training under the eyes of its owner: the newest one, or one that is chosen."""

    def __init__(self, page: Page, generate: GenerateTab) -> None:
        self.page, self.w, self.generate = page, page.w, generate
        w = self.w
        self.run = chooser([(w("train.newest"), NEWEST)], value=NEWEST, label=w("train.run"), elem_id="train-run")
        self.status = Actions(page).html(lambda: NEWEST, [self.run], elem_id="train-status")
        with gr.Row():
            self.stop = self._button("stop", "train-stop", "stop")
            self.save = self._button("train.save", "train-save")
            self.sample = self._button("train.sample", "train-sample")
            self.resume = self._button("resume", "train-resume", "primary")
            self.try_it = self._button("train.try", "try-it", "primary")
            self.compare = self._button("train.compare", "train-compare")
        self.curves = gr.HTML(elem_id="loss", elem_classes="maybe")
        self.samples = gr.HTML(elem_id="samples", elem_classes="maybe")
        self.file = gr.HTML(elem_classes="maybe")
        self._connect()

    def _button(self, key: str, name: str, variant: Any = "secondary") -> gr.Button:
        return gr.Button(self.w(key), variant=variant, size="md", visible=False, elem_id=name, min_width=110)

    def _connect(self) -> None:
        page, generate = self.page, self.generate
        for button, ask in (
            (self.stop, self._stop),
            (self.save, self._save),
            (self.sample, self._sample),
            (self.resume, self._resume),
        ):
            button.click(asks(ask), [self.run], api_visibility="private")
        filled = [page.tabs, generate.prompt, generate.model, generate.stack_box, *generate.stack]
        self.try_it.click(asks(self._try), [self.run], filled, api_visibility="private")
        buttons = [self.stop, self.save, self.sample, self.resume, self.try_it, self.compare]
        page.watch([self.status, self.curves, self.samples, self.file, self.run, *buttons], self._read, [self.run])

    # ------------------------------------------------------------ events

    def _stop(self, chosen: str) -> None:
        worker.stop_run(self._run(chosen))

    def _save(self, chosen: str) -> None:
        worker.save_now(self._run(chosen))
        gr.Info(self.w("train.saving"))

    def _sample(self, chosen: str) -> None:
        worker.sample_now(self._run(chosen))
        gr.Info(self.w("train.sampling"))

    def _resume(self, chosen: str) -> None:
        worker.resume_run(self._run(chosen))

    def _try(self, chosen: str) -> list[Any]:
        adapter, model, prompt = self._trained(chosen)
        stack = stack_values([LoraUse(adapter)])
        return [gr.update(selected="generate"), prompt, model, gr.update(open=True), *stack]

    def to_compare(self, chosen: str) -> list[Any]:
        """The tab Compare with the bare model beside this LoRA."""
        adapter, model, prompt = self._trained(chosen)
        return [gr.update(selected="compare"), prompt, model, "", adapter]

    def _run(self, chosen: str) -> Run:
        view = chosen_run(Snapshot(runs.list_runs("train")), chosen)
        if view is None:
            raise ZitError(self.w("train.gone"), self.w("train.gone_help"))
        return Run(view.folder)

    def _trained(self, chosen: str) -> tuple[str, str, str]:
        """The LoRA of a training, its model, and a prompt like those that it saw, with its trigger word."""
        view = chosen_run(Snapshot(runs.list_runs("train")), chosen)
        if view is None or view.adapter is None:
            raise ZitError(self.w("train.gone"), self.w("train.gone_help"))
        settings, job = load_job(view.folder / "settings.toml")
        asked = [read_preview(line).prompt for line in settings.training.sample_prompts]
        example = asked[0] if asked else example_caption(Path(job.dataset)) or self.w("generate.example")
        return str(view.adapter), job.model, with_word(example, settings.dataset.trigger_word)

    # ------------------------------------------------------------ looking

    def _read(self, now: Snapshot, chosen: str) -> Sequence[Any]:
        w = self.w
        choices = [
            (w("train.newest"), NEWEST),
            *((f"{run.name} · {run.folder.name[:15]}", str(run.folder)) for run in now.of("train")),
        ]
        listed = gr.update(choices=choices)
        view = chosen_run(now, chosen)
        if view is None:
            return [cards.empty(w("train.none")), "", "", "", listed, *[gr.update(visible=False)] * 6]
        at_work = view.state == "running"
        has_lora = view.adapter is not None and not view.can_stop
        goes_on = view.can_resume and find_remedy(view) is None  # as it is; a failed one may know a better way
        shown = (view.can_stop, at_work, at_work, goes_on, has_lora, has_lora)
        return [
            cards.run_card(w, view),
            curves(w, view.total, runs.metrics(view.folder)),
            previews(w, view.samples),
            cards.facts([(w("train.file"), str(view.adapter))]) if view.adapter else "",
            listed,
            *(gr.update(visible=each) for each in shown),
        ]


def chosen_run(now: Snapshot, chosen: str) -> RunView | None:
    """The training that is looked at: the newest one unless another is chosen."""
    return next((run for run in now.of("train") if chosen in (NEWEST, str(run.folder))), None)


def example_caption(dataset: Path) -> str:
    """A caption that the training saw: what a first prompt may look like."""
    for file in sorted(dataset.glob("*.txt")):
        text = file.read_text(encoding="utf-8", errors="replace").strip()
        if text:
            return text
    return ""
