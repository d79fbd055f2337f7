"""The sidebar: this machine, the runs at work, the runs that wait."""

import time
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import Any

import gradio as gr

from zit_app.service import hardware, runs
from zit_app.service.runs import RunView
from zit_app.ui import cards
from zit_app.ui.actions import Actions
from zit_app.ui.page import AT_WORK, Page, Snapshot
from zit_app.ui.share_switch import ShareSwitch
from zit_app.ui.text import LANGUAGES

GB = 1e9
HARDWARE_SECONDS = 10  # nvidia-smi takes a tenth of a second: not with every look


class Sidebar:
    """Seen from every tab."""

    def __init__(self, page: Page) -> None:
        self.page, self.w = page, page.w
        w, actions = self.w, Actions(page)
        with gr.Sidebar(open=True, width=290, elem_id="sidebar"):
            gr.HTML(f'<div class="brand"><b>ZIT Studio</b>{self._languages()}</div>')
            self.machine = gr.HTML(elem_id="machine")
            gr.HTML(f"<h3>{w('sidebar.current')}</h3>")
            self.current = actions.html(elem_id="current")
            with gr.Column(visible=False, elem_id="queue") as self.line:
                gr.HTML(f"<h3>{w('sidebar.queue')}</h3>")
                self.waiting = actions.html()
            ShareSwitch(page)
        page.watch([self.machine, self.current, self.line, self.waiting], self._read)

    def _languages(self) -> str:
        own = {self.w.language: ' aria-current="true"'}
        links = "".join(
            f'<a href="../language/{code}" lang="{code}"{own.get(code, "")}>{name}</a>'
            for code, name in LANGUAGES.items()
        )
        return f'<span class="languages">{links}</span>'

    def _read(self, now: Snapshot) -> Sequence[Any]:
        w, waiting = self.w, runs.waiting()
        at_work = [run for run in now.runs if run.state in AT_WORK]
        current = "".join(cards.run_card(w, run, self._stop(run)) for run in at_work)
        lines = "".join(self._waiting(run, i, len(waiting)) for i, run in enumerate(waiting))
        return [
            self._machine(machine()),
            current or cards.empty(w("sidebar.idle")),
            gr.update(visible=bool(waiting)),
            f'<ol class="queue">{lines}</ol>',
        ]

    def _stop(self, run: RunView) -> str:
        return cards.button("stop", str(run.folder), self.w("stop"), "stop") if run.can_stop else ""

    def _waiting(self, run: RunView, place: int, count: int) -> str:
        """One waiting run, with buttons that move or cancel it."""
        w, folder, name = self.w, str(run.folder), f"{self.w('kind.' + run.kind)}: {run.name[:40]}"
        ways = [("sooner", "↑")] * (place > 0) + [("later", "↓")] * (place < count - 1) + [("cancel", "✕")]
        buttons = "".join(cards.button(do, folder, sign, label=w(f"sidebar.{do}", name=run.name)) for do, sign in ways)
        return f"<li><span>{place + 1}. {escape(name)}</span><span class='acts'>{buttons}</span></li>"

    def _machine(self, found: hardware.Hardware) -> str:
        w = self.w
        meters = [(card.name, card.used, card.total) for card in found.cards] or [(w("sidebar.no_card"), 0, 0)]
        meters += [
            (w("sidebar.memory"), found.memory - found.memory_free, found.memory),
            (w("sidebar.disk"), found.disk - found.disk_free, found.disk),
        ]
        return "".join(self._meter(*meter) for meter in meters)

    def _meter(self, name: str, used: int, total: int) -> str:
        if not total:
            return f'<div class="meter"><span>{escape(name)}</span></div>'
        figure = self.w("sidebar.of", used=f"{used / GB:.0f}", total=f"{total / GB:.0f}")
        return (
            f'<div class="meter"><span>{escape(name)}</span><span>{escape(figure)}</span>'
            f'<div class="bar quiet"><i style="width:{100 * used / total:.0f}%"></i></div></div>'
        )


def machine() -> hardware.Hardware:
    """The machine as it is, at most ten seconds old."""
    return _machine_at(int(time.time()) // HARDWARE_SECONDS)


@lru_cache(maxsize=1)
def _machine_at(period: int) -> hardware.Hardware:
    return hardware.report()
