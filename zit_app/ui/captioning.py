"""Caption all: a captioner describes every picture of a dataset that nobody has described."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from zit_app.core.caption_settings import LANGUAGES, STYLES, CaptionSettings
from zit_app.core.captioners import ENDPOINTS, KNOWN, POCKET, best_here, is_here, recommended
from zit_app.core.errors import ZitError
from zit_app.service import runs
from zit_app.ui import cards
from zit_app.ui.actions import Actions
from zit_app.ui.choices import cards_here, chooser, followed
from zit_app.ui.generate import stop_all
from zit_app.ui.page import Page, Snapshot, asks
from zit_app.ui.text import Words


class CaptionAll:
    """Captioner, kind of captions, language, and the run at work. `kept` is what a browser remembers."""

    def __init__(self, page: Page, dataset: gr.Dropdown) -> None:
        self.page, self.w, self.dataset = page, page.w, dataset
        w = self.w
        with gr.Accordion(w("caption.title"), open=True, elem_id="captioning"):
            self.captioner = chooser(
                captioner_choices(w),
                first_captioner(),
                label=w("caption.captioner"),
                info=w("caption.captioner_help"),
                elem_id="captioner",
            )
            with gr.Row(visible=False, elem_id="caption-service") as self.service:
                self.endpoint = gr.Textbox(
                    label=w("caption.endpoint"), info=w("caption.endpoint_help"), max_lines=1, min_width=180,
                    elem_id="caption-endpoint",
                )  # fmt: skip
                self.model = gr.Textbox(
                    label=w("caption.model"), info=w("caption.model_help"), max_lines=1, min_width=140
                )
            with gr.Row():
                self.style = gr.Dropdown(
                    [(w(f"captionkind.{name}"), name) for name in STYLES],
                    value="free",
                    label=w("caption.style"),
                    info=w("caption.style_help"),
                    filterable=False,
                    min_width=150,
                    elem_id="caption-style",
                )
                self.language = gr.Dropdown(
                    [(w(f"language.{name}"), name) for name in LANGUAGES],
                    value=w.language,
                    label=w("caption.language"),
                    filterable=False,
                    min_width=110,
                    elem_id="caption-language",
                )
            self.overwrite = gr.Checkbox(False, label=w("caption.overwrite"), info=w("caption.overwrite_help"))
            with gr.Row():
                self.go = gr.Button(w("caption.start"), variant="primary", scale=2, elem_id="caption-all")
                self.stop = gr.Button(w("stop"), variant="stop", visible=False, min_width=90, elem_id="caption-stop")
            self.status = Actions(page).html(elem_id="caption-status", elem_classes="maybe")
        self.kept = [self.captioner, self.endpoint, self.model, self.style, self.language]
        self._connect()

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.captioner.change(
            lambda name: gr.update(visible=name in ENDPOINTS), [self.captioner], [self.service], **quiet
        )
        asked = [self.dataset, *self.kept, self.overwrite]
        self.go.click(asks(self._submit), asked, [self.overwrite], api_visibility="private")
        self.stop.click(asks(self._stop), api_visibility="private")
        self.page.watch([self.status, self.stop, self.captioner], self._read, [self.captioner])

    # ------------------------------------------------------------ events

    def _submit(
        self, dataset: str | None, captioner: str, endpoint: str, model: str, style: str, language: str, overwrite: bool
    ) -> bool:
        """Ask for the run. Replacing what a person wrote is asked for once, not kept."""
        if not dataset:
            raise ZitError(self.w("train.no_dataset"), self.w("train.no_dataset_help"))
        runs.submit_caption(
            CaptionSettings(
                dataset=dataset,
                captioner=captioner.strip(),
                endpoint=endpoint.strip() if captioner in ENDPOINTS else "",
                endpoint_model=model.strip() if captioner in ENDPOINTS else "",
                style_of_prompt=style,
                language=language,
                overwrite=overwrite,
            )
        )
        return False

    def _stop(self) -> None:
        stop_all("caption")

    # ------------------------------------------------------------ looking

    def _read(self, now: Snapshot, captioner: str | None) -> Sequence[Any]:
        own = now.of("caption")
        outcome = cards.note(self.w.message(own[0].message)) if own and own[0].state == "done" else ""
        choices = captioner_choices(self.w)
        if captioner and Path(captioner).is_dir():  # a folder of one's own, written into the field
            choices = [*choices, (Path(captioner).name, captioner)]
        return [
            cards.run_card(self.w, own[0]) + outcome if own else "",
            gr.update(visible=any(run.can_stop for run in own)),
            followed(choices, captioner, first_captioner()),
        ]


def captioner_choices(w: Words) -> list[tuple[str, str]]:
    """All captioners with size, licence, whether they are here, and which of them suits this machine."""
    best = recommended(card_bytes())
    found = []
    for name, known in KNOWN.items():
        if name == POCKET:
            found += [(w("caption.pocket"), name)] if is_here(name) else []
            continue
        parts = [name, w.size(known.size), known.licence]
        parts += [w("caption.english")] if known.languages == ("en",) else []
        parts += [w("caption.best")] if name == best else []
        parts += [] if is_here(name) else [w("caption.absent")]
        found.append((" · ".join(parts), name))
    return [*found, *((w(f"service.{name}"), name) for name in ENDPOINTS)]


def first_captioner() -> str:
    """The captioner that is chosen at first: the best one that is here, else the one to download."""
    best = best_here(card_bytes())
    return best if is_here(best) else recommended(card_bytes())


@lru_cache(maxsize=1)
def card_bytes() -> int:
    """The memory of the first card, 0 without one."""
    return next((card.total for card in cards_here()), 0)
