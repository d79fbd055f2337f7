"""The tab Models & settings: which models are here, what the machine is, how the app looks, where things lie."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from zit_app.core import paths
from zit_app.core.memory import Request
from zit_app.service import diagnosis, hardware, shortcut
from zit_app.service.planning import FULL, choose, room_of
from zit_app.ui import cards
from zit_app.ui.appearance import CHANGE, MODES, SHOW
from zit_app.ui.choices import cards_here
from zit_app.ui.help import help_link
from zit_app.ui.memory import plan_html
from zit_app.ui.model_shelf import ModelShelf
from zit_app.ui.page import Page, asks
from zit_app.ui.text import LANGUAGES

COPY = "(text) => { navigator.clipboard.writeText(text); }"
FULL_SIDE = 1024  # pixels of Z-Image's own pictures
LICENCES = ("app", "zimage", "pocket", "art", "demo", "libraries")


class SettingsTab:
    """Mostly for looking; the report is made when it is asked for, because it starts torch in a process of its own."""

    def __init__(self, page: Page, blocks: gr.Blocks) -> None:
        self.page, self.w = page, page.w
        w = self.w
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=6, min_width=320):
                ModelShelf(page)
            with gr.Column(scale=5, min_width=320):
                self._appearance(blocks)
                gr.HTML(f"<h3>{w('settings.machine')}</h3>" + self._machine(), elem_id="hardware")
                self._report()
                gr.HTML(f"<h3>{w('settings.folders')}</h3>" + cards.facts(self._folders()), elem_id="folders")
                gr.HTML(f"<h3>{w('settings.shortcut')}</h3>" + cards.note(w("settings.shortcut_help")))
                icon = gr.Button(w("settings.make_shortcut"), size="sm", elem_id="make-shortcut")
                icon.click(asks(self._make_shortcut), api_visibility="private")
                gr.HTML(f"<h3>{w('settings.licences')}</h3>" + cards.table(*self._licences()), elem_id="licences")

    def _appearance(self, blocks: gr.Blocks) -> None:
        w = self.w
        mode = gr.Radio(
            [(w(f"theme.{name}"), name) for name in MODES],
            value=MODES[0],
            label=w("settings.theme"),
            elem_classes="chips",
            elem_id="theme",
        )
        blocks.load(None, None, [mode], js=SHOW, api_visibility="private")
        mode.input(None, [mode], None, js=CHANGE, api_visibility="private")
        links = "".join(
            f'<a href="../language/{code}" lang="{code}"{" aria-current=true" if code == w.language else ""}>{name}</a>'
            for code, name in LANGUAGES.items()
        )
        gr.HTML(f'<h3>{w("settings.language")}</h3><p class="languages wide">{links}</p>')

    def _report(self) -> None:
        w = self.w
        gr.HTML(f"<h3>{w('settings.report')}</h3>" + cards.note(w("settings.report_help")) + help_link(w))
        with gr.Row():
            examine = gr.Button(w("settings.examine"), elem_id="examine", min_width=150)
            copy = gr.Button(w("settings.copy"), visible=False, elem_id="copy-report", min_width=150)
        report = gr.Textbox(
            label=w("settings.report"),
            lines=14,
            max_lines=30,
            visible=False,
            interactive=False,
            elem_id="report",
            elem_classes="mono",
        )
        examine.click(asks(self._examine), outputs=[report, copy], api_visibility="private")
        copy.click(None, [report], None, js=COPY, api_visibility="private")

    def _examine(self) -> Any:
        return gr.update(value=diagnosis.diagnosis(), visible=True), gr.update(visible=True)

    def _make_shortcut(self) -> None:
        gr.Info(self.w("settings.shortcut_made", file=shortcut.create()))

    def _machine(self) -> str:
        """What was found when the app started (the sidebar shows what changes), and what Z-Image would take of it."""
        w, found = self.w, hardware.report()
        best = choose(FULL, Request(FULL_SIDE, FULL_SIDE), room_of(cards_here()), "auto", "auto")
        lines = [
            *((w("settings.card"), f"{card.name}, {w.size(card.total)}") for card in found.cards),
            *(() if found.cards else ((w("settings.card"), w("welcome.no_card")),)),
            (w("settings.memory"), w.size(found.memory)),
            (w("settings.cores"), str(found.cores)),
            (w("settings.disk"), w("settings.free", free=w.size(found.disk_free), total=w.size(found.disk))),
            *([(w("settings.precision"), best.precision)] if found.cards else []),
        ]
        if not found.cards:
            return cards.facts(lines)
        return cards.facts(lines) + cards.note(w("settings.plan", side=FULL_SIDE)) + plan_html(w, best, FULL)

    def _folders(self) -> list[tuple[str, str]]:
        home = paths.home()
        places = {"home": home, "models": paths.models(), "runs": home / "runs", "datasets": home / "datasets"}
        places["loras"] = home / "loras"
        return [(self.w(f"folder.{name}"), str(folder)) for name, folder in places.items()]

    def _licences(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        w = self.w
        rows = [(w(f"licence.{name}"), w(f"licence.{name}_terms")) for name in LICENCES]
        return (w("settings.part"), w("settings.licence")), rows
