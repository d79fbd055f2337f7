"""Model files and LoRAs of this machine, and the way to the large models: downloads that go on by themselves."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from zit_app.core import paths
from zit_app.core.captioners import KNOWN
from zit_app.core.run import Run
from zit_app.service import adapters, downloads, model_files
from zit_app.service.model_files import ModelFile
from zit_app.ui import cards
from zit_app.ui.choices import chooser
from zit_app.ui.page import Page, Snapshot, asks

BYTES = 20.5e9  # of either model, all parts in bf16
DOWNLOADING = ("queued", "preparing", "running", "stopping", "not responding")


class ModelShelf:
    """The left side of the tab Models & settings."""

    def __init__(self, page: Page) -> None:
        self.page, self.w = page, page.w
        w = self.w
        gr.HTML(f"<h3>{w('settings.models')}</h3>")
        self.models = gr.HTML(elem_id="models")
        gr.HTML(cards.note(w("settings.models_help", folder=paths.models())))
        gr.HTML(f"<h3>{w('download.title')}</h3>" + cards.note(w("download.help", size=w.size(BYTES))))
        names = [(w(f"download.{name}"), name) for name in downloads.MODELS]
        names += [
            (w("download.captioner", name=name, size=w.size(KNOWN[name].size)), name) for name in downloads.CAPTIONERS
        ]
        self.model = chooser(names, "turbo", label=w("model"), elem_id="download-model")
        with gr.Row():
            sources = [(w(f"source.{name}"), name) for name in downloads.SOURCES]
            self.source = chooser(sources, downloads.SOURCES[0], label=w("download.source"), min_width=150)
            self.mirror = gr.Textbox(label=w("download.mirror"), max_lines=1, min_width=150, elem_id="download-mirror")
        self.status = gr.HTML(elem_id="download-status", elem_classes="maybe")
        with gr.Row():
            self.go = gr.Button(w("download.start"), elem_id="download-start", min_width=120)
            self.stop = gr.Button(w("stop"), variant="stop", visible=False, elem_id="download-stop", min_width=120)
        gr.HTML(f"<h3>{w('settings.loras')}</h3>")
        self.loras = gr.HTML(elem_id="lora-files")
        gr.HTML(cards.note(w("settings.loras_help", folder=paths.home() / "loras")))
        self.go.click(asks(self._start), [self.model, self.source, self.mirror], api_visibility="private")
        self.stop.click(asks(self._stop), [self.model], api_visibility="private")
        page.watch([self.models, self.loras], self._read)
        page.watch([self.status, self.go, self.stop], self._read_download, [self.model])

    # ------------------------------------------------------------ events

    def _start(self, model: str, source: str, mirror: str) -> None:
        """Begin, or go on where the last download of this model stopped."""
        last = downloads.newest(model)
        if last is not None and last.can_resume:
            made = downloads.settings_of(Run(last.folder))
            if (made.source, made.endpoint) == (source, mirror.strip()):
                downloads.resume(Run(last.folder))
                return
        downloads.start(model, source, mirror.strip())

    def _stop(self, model: str) -> None:
        last = downloads.newest(model)
        if last is not None:
            downloads.stop(Run(last.folder))

    # ------------------------------------------------------------ looking

    def _read_download(self, now: Snapshot, model: str) -> Sequence[Any]:
        last = next((run for run in now.of("download") if run.name == model), None)
        busy = last is not None and last.state in DOWNLOADING
        card = cards.run_card(self.w, last) if last is not None and last.state != "done" else ""
        again = last is not None and last.can_resume
        name = self.w("download.go_on") if again else self.w("download.start")
        return [card, gr.update(value=name, visible=not busy), gr.update(visible=busy)]

    def _read(self, now: Snapshot) -> Sequence[Any]:
        w = self.w
        head = [w(f"settings.{name}") for name in ("name", "state", "size", "source", "use")]
        table = cards.table(head, [self._row(model) for model in model_files.models()])
        files = adapters.library()
        if not files:
            return [table, cards.empty(w("settings.no_loras"))]
        lora_head = [w(f"settings.{name}") for name in ("name", "trigger", "rank", "base", "size")]
        known = [(one.name, one.trigger, str(one.rank or ""), one.base, w.size(one.size)) for one in files]
        return [table, cards.table(lora_head, [[cell or "–" for cell in row] for row in known])]

    def _row(self, model: ModelFile) -> tuple[str, str, str, str, str]:
        w, ready = self.w, model.state == "ready"
        use = w("settings.use_as", pixels=model.pixels, steps=model.steps, guidance=f"{model.guidance:g}")
        source = " · ".join(filter(None, [w(f"source.{model.source}") if model.source else "", model.origin]))
        size = w.size(model.size) if model.size else "–"
        purpose = use if ready else w.message(model.note)
        return model.name, w(f"model.{model.state}"), size, source or "–", purpose or "–"
