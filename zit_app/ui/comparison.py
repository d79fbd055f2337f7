"""A comparison to look at: numbers in plain words, the grid, and two cells over each other."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from zit_app.core.run import Run
from zit_app.service import runs, worker
from zit_app.service.comparisons import Report, read_report
from zit_app.service.runs import RunView
from zit_app.ui import cards
from zit_app.ui.actions import Actions
from zit_app.ui.choices import chooser
from zit_app.ui.links import url
from zit_app.ui.page import Page, Snapshot, asks
from zit_app.ui.spread import all_in_words

NEWEST = ""
SHOWN_SEEDS = 16  # columns of the grid on the page; the numbers and grid.png have all
# One listener on what stays; a cell tells which it is.
LISTEN = """element.addEventListener('click', event => {
  const cell = event.target.closest('button[data-cell]');
  if (cell) trigger('click', {cell: JSON.parse(cell.dataset.cell)});
});"""


class Comparison:
    """One comparison: the newest, or one that is chosen."""

    def __init__(self, page: Page) -> None:
        self.page, self.w = page, page.w
        w = self.w
        self.run = chooser([(w("compare.newest"), NEWEST)], value=NEWEST, label=w("compare.run"), elem_id="compare-run")
        self.status = Actions(page).html(elem_id="compare-status", elem_classes="maybe")
        with gr.Row():
            self.stop = gr.Button(w("stop"), variant="stop", visible=False, min_width=90, elem_id="compare-stop")
            self.resume = gr.Button(w("resume"), visible=False, min_width=90, elem_id="compare-resume")
        self.numbers = gr.HTML(elem_id="compare-numbers", elem_classes="maybe")
        self.grid = gr.HTML(elem_id="compare-grid", elem_classes="maybe", js_on_load=LISTEN)
        with gr.Column(visible=False, elem_id="compare-closer") as self.closer:
            gr.HTML(f"<h3>{w('compare.closer')}</h3>" + cards.note(w("compare.closer_help")))
            with gr.Row():
                self.left = chooser([], None, label=w("compare.left"), min_width=110)
                self.right = chooser([], None, label=w("compare.right"), min_width=110)
                self.prompt = chooser([], None, label=w("generate.prompt"), min_width=110)
                self.seed = chooser([], None, label=w("generate.seed"), min_width=80)
            self.slider = gr.ImageSlider(
                label=w("compare.closer"),
                show_label=False,
                type="filepath",
                interactive=False,
                buttons=["fullscreen"],
                max_height=420,
                format="png",
            )
        self._connect()

    def _connect(self) -> None:
        page, pair = self.page, [self.left, self.right, self.prompt, self.seed]
        self.stop.click(asks(self._stop), [self.run], api_visibility="private")
        self.resume.click(asks(self._resume), [self.run], api_visibility="private")
        self.grid.click(self._pick, [self.left], pair, show_progress="hidden", api_visibility="private")
        page.watch([self.status, self.numbers, self.grid, self.stop, self.resume, self.run], self._read, [self.run])
        page.watch([self.closer, *pair, self.slider], self._read_closer, [self.run, *pair])

    # ------------------------------------------------------------ events

    def _stop(self, chosen: str) -> None:
        view = chosen_run(Snapshot(runs.list_runs("compare")), chosen)
        if view is not None:
            worker.stop_run(Run(view.folder))

    def _resume(self, chosen: str) -> None:
        view = chosen_run(Snapshot(runs.list_runs("compare")), chosen)
        if view is not None:
            worker.resume_run(Run(view.folder))

    def _pick(self, left: str | None, event: gr.EventData) -> list[Any]:
        """The cell that was clicked, on the right; one of the variant on the left keeps the right as it is."""
        name, number, seed = event.cell
        return [gr.skip(), gr.skip() if name == left else name, number, seed]

    # ------------------------------------------------------------ looking

    def _read(self, now: Snapshot, chosen: str) -> Sequence[Any]:
        w, own = self.w, now.of("compare")
        choices = [(w("compare.newest"), NEWEST)]
        choices += [(f"{run.name} · {run.folder.name[:15]}", str(run.folder)) for run in own]
        view = chosen_run(now, chosen)
        if view is None:
            hidden = gr.update(visible=False)
            return [cards.empty(w("compare.none")), "", "", hidden, hidden, gr.update(choices=choices)]
        report = read_report(view.folder)
        return [
            cards.run_card(w, view) if view.state != "done" else "",
            self._numbers(report),
            self._cells(report),
            gr.update(visible=view.can_stop),
            gr.update(visible=view.can_resume),
            gr.update(choices=choices),
        ]

    def _numbers(self, report: Report) -> str:
        """The table, in words and figures."""
        w = self.w
        words = all_in_words(w, report.variants, len(report.prompts) * len(report.seeds))
        rows = [
            (one.name, said, f"{one.distance:.3f}", f"{one.deviation:.3f}")
            for one, said in zip(report.variants, words, strict=True)
            if one.distance is not None and one.deviation is not None
        ]
        if not rows:
            return ""
        head = (w("compare.variant"), w("compare.means"), w("compare.distance"), w("compare.deviation"))
        return cards.table(head, rows) + f'<p class="small">{escape(w("compare.numbers_help"))}</p>'

    def _cells(self, report: Report) -> str:
        """A block a prompt, a row a variant, a column a seed; cells fill as they are drawn."""
        seeds = report.seeds[:SHOWN_SEEDS]
        blocks = []
        for number, prompt in enumerate(report.prompts):
            rows = "".join(
                f"<tr><th scope='row'>{escape(one.name)}</th>"
                + "".join(f"<td>{cell(report, one.name, number, seed)}</td>" for seed in seeds)
                + "</tr>"
                for one in report.variants
            )
            head = "".join(f"<th scope='col'>{seed}</th>" for seed in seeds)
            corner = escape(self.w("generate.seed"))
            blocks.append(
                f"<h4>{escape(prompt)}</h4><div class='table cells'><table><thead><tr><th>{corner}</th>{head}</tr>"
                f"</thead><tbody>{rows}</tbody></table></div>"
            )
        sheet = ""
        if report.grid:
            sheet = f"<a class='download' href='{url(report.grid)}' download>{escape(self.w('compare.sheet'))}</a>"
        return "".join(blocks) + sheet

    def _read_closer(
        self, now: Snapshot, chosen: str, left: str | None, right: str | None, prompt: int | None, seed: int | None
    ) -> Sequence[Any]:
        """Two cells over each other, to slide between them."""
        view = chosen_run(now, chosen)
        report = read_report(view.folder) if view else None
        if report is None or len(report.variants) < 2 or not report.cells:
            return [gr.update(visible=False), *[gr.skip()] * 4, None]
        names = [one.name for one in report.variants]
        left = left if left in names else names[0]
        right = right if right in names else names[1]
        number = prompt if isinstance(prompt, int) and prompt < len(report.prompts) else 0
        seed = seed if seed in report.seeds else report.seeds[0]
        pair = [report.cells.get((name, number, seed)) for name in (left, right)]
        return [
            gr.update(visible=True),
            gr.update(choices=names, value=left),
            gr.update(choices=names, value=right),
            gr.update(choices=[(text, i) for i, text in enumerate(report.prompts)], value=number),
            gr.update(choices=[(str(each), each) for each in report.seeds], value=seed),
            (str(pair[0]), str(pair[1])) if pair[0] and pair[1] else None,
        ]


def cell(report: Report, variant: str, number: int, seed: int) -> str:
    """One picture of the grid, or the place where it will be."""
    path = report.cells.get((variant, number, seed))
    if path is None:
        return "<i></i>"
    title = escape(f"{variant}, {report.prompts[number]}, {seed}", quote=True)
    which = escape(json.dumps([variant, number, seed]), quote=True)
    picture = f"<img src='{url(path)}' alt=\"{title}\" loading='lazy'>"
    return f'<button type="button" class="cell" data-cell="{which}">{picture}</button>'


def chosen_run(now: Snapshot, chosen: str) -> RunView | None:
    """The run that is looked at: the newest one unless another is chosen."""
    return next((run for run in now.of("compare") if chosen in (NEWEST, str(run.folder))), None)
