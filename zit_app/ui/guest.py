"""The guest's page: draw and compare. There is nothing else to be found in it, and nobody else's pictures."""

import random
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import gradio as gr

from zit_app.service import guests
from zit_app.service.comparisons import read_report
from zit_app.service.guests import LARGEST_SEED, LIMITS, GuestRun, Refused, Shot
from zit_app.ui import cards
from zit_app.ui.choices import chooser, default_model
from zit_app.ui.guest_gate import IDENTITY
from zit_app.ui.shapes import ASPECTS, size_of
from zit_app.ui.spread import all_in_words
from zit_app.ui.text import LANGUAGES, Words

SECONDS = 2.0  # between two looks
SHOWN = 24  # pictures, newest first
SIDES = ("A", "B")  # of a comparison; also its variants' names
WORKING = ("queued", "preparing", "running", "stopping", "not responding")
EVENT: dict[str, Any] = {"queue": False, "api_visibility": "private"}  # Gradio's own queue is closed for guests


def build(language: str) -> gr.Blocks:
    """The whole page in one language."""
    with gr.Blocks(title="ZIT Studio", analytics_enabled=False, fill_width=True) as blocks:
        GuestPage(Words(language)).build(blocks)
    return blocks


class GuestPage:
    """One language's page."""

    def __init__(self, w: Words) -> None:
        self.w = w

    def build(self, blocks: gr.Blocks) -> None:
        """Everything on the page; call it inside `blocks`."""
        w = self.w
        gr.HTML(self._head())
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(w("tab.generate"), id="generate"), gr.Row(elem_classes="columns"):
                with gr.Column(scale=5, min_width=300):
                    self._draw_controls()
                with gr.Column(scale=6, min_width=300):
                    self.status = gr.HTML(elem_id="guest-status", elem_classes="maybe")
                    self.gallery = gr.HTML(elem_id="guest-pictures")
            with gr.Tab(w("tab.compare"), id="compare"), gr.Row(elem_classes="columns"):
                with gr.Column(scale=5, min_width=300):
                    self._compare_controls()
                with gr.Column(scale=6, min_width=300):
                    self.compare_status = gr.HTML(elem_id="guest-compare-status", elem_classes="maybe")
                    self.cells = gr.HTML(elem_id="guest-cells")
        self._connect(blocks)

    def _head(self) -> str:
        w = self.w
        links = "".join(
            f'<a href="../language/{code}" lang="{code}"{" aria-current=true" if code == w.language else ""}>{name}</a>'
            for code, name in LANGUAGES.items()
        )
        button = f'<button class="plain">{escape(w("guest.logout"))}</button>'
        out = f'<form method="post" action="../logout">{button}</form>'
        return f'<div class="brand guest"><b>ZIT Studio</b><span class="languages">{links}</span>{out}</div>'

    def _draw_controls(self) -> None:
        w = self.w
        self.prompt = gr.Textbox(
            w("generate.example"), label=w("generate.prompt"), lines=3, max_length=LIMITS.prompt, elem_id="prompt"
        )
        self.model = chooser(self._models(), default_model(), label=w("model"))
        self.aspect = self._aspect()
        self.count = gr.Slider(1, LIMITS.count, LIMITS.count, step=1, label=w("generate.count"), buttons=[])
        with gr.Row():
            self.seed = gr.Number(0, label=w("generate.seed"), precision=0, minimum=0, min_width=120)
            self.lock = gr.Checkbox(False, label=w("generate.lock"), min_width=120, elem_classes="low")
        self.lora, self.weight = self._lora(w("guest.lora"))
        with gr.Accordion(w("generate.more"), open=False), gr.Row():
            self.steps = gr.Number(
                0, label=w("guest.steps"), info=w("guest.steps_help", most=LIMITS.steps), precision=0, minimum=0
            )
            self.width = gr.Number(0, label=w("guest.width"), info=w("guest.side_help"), precision=0, minimum=0)
            self.height = gr.Number(0, label=w("guest.height"), info=w("guest.side_help"), precision=0, minimum=0)
        with gr.Row():
            self.go = gr.Button(w("generate.start"), variant="primary", size="lg", scale=3, elem_id="generate")
            self.stop = gr.Button(w("stop"), variant="stop", size="lg", visible=False, min_width=90)
        self.said = gr.HTML(elem_id="guest-said", elem_classes="maybe")
        gr.HTML(cards.note(w("guest.limits", count=LIMITS.count, pending=LIMITS.pending)))

    def _compare_controls(self) -> None:
        w = self.w
        self.prompts = gr.Textbox(
            w("generate.example"),
            label=w("compare.prompts"),
            info=w("guest.prompts_help", most=LIMITS.prompts),
            lines=2,
            elem_id="compare-prompts",
        )
        self.compare_model = chooser(self._models(), default_model(), label=w("model"))
        self.seeds = gr.Slider(2, LIMITS.count, LIMITS.count, step=1, label=w("guest.seeds"), buttons=[])
        first = next(iter(guests.offered_loras()), "")
        chosen = zip(SIDES, ("", first), strict=True)
        self.sides = [self._lora(w("guest.side", name=name), lora) for name, lora in chosen]
        with gr.Row():
            self.compare = gr.Button(w("compare.start"), variant="primary", size="lg", scale=3, elem_id="compare-start")
            self.compare_stop = gr.Button(w("stop"), variant="stop", size="lg", visible=False, min_width=90)
        self.compare_said = gr.HTML(elem_id="guest-compare-said", elem_classes="maybe")

    def _aspect(self) -> gr.Radio:
        w = self.w
        names = [(w("aspect.square") if name == "square" else name, name) for name in ASPECTS]
        return gr.Radio(names, value="square", label=w("generate.aspect"), elem_classes="chips")

    def _lora(self, label: str, chosen: str = "") -> tuple[gr.Dropdown, gr.Slider]:
        with gr.Row(elem_classes="lora-row"):
            return (
                chooser(self._loras(), chosen, label=label, min_width=200),
                gr.Slider(-1, LIMITS.weight, 1, step=0.05, label=self.w("lora.weight"), buttons=[], min_width=200),
            )

    def _connect(self, blocks: gr.Blocks) -> None:
        shot = [self.model, self.aspect, self.width, self.height, self.steps]
        drawing = [self.prompt, *shot, self.count, self.seed, self.lock, self.lora, self.weight]
        for trigger in (self.go.click, self.prompt.submit):
            trigger(self._draw, drawing, [self.said, self.seed], **EVENT)
        sides = [control for side in self.sides for control in side]
        self.compare.click(
            self._compare, [self.prompts, self.compare_model, self.seeds, *sides], [self.compare_said], **EVENT
        )
        for button in (self.stop, self.compare_stop):
            button.click(self._stop, **EVENT)
        seen, timer = gr.State(()), gr.Timer(SECONDS)
        models, loras = [self.model, self.compare_model], [self.lora, *(lora for lora, _ in self.sides)]
        looked = [
            seen, self.status, self.gallery, self.compare_status, self.cells, self.stop, self.compare_stop,
            *models, *loras,
        ]  # fmt: skip
        for look in (blocks.load, timer.tick):
            look(self._look, [seen], looked, show_progress="hidden", **EVENT)

    # ------------------------------------------------------------ events

    def _draw(
        self, prompt: Any, model: Any, aspect: Any, width: Any, height: Any, steps: Any, count: Any, seed: Any,
        lock: Any, lora: Any, weight: Any, request: gr.Request,
    ) -> list[Any]:  # fmt: skip
        chosen = seed if lock else random.randint(0, LARGEST_SEED)

        def submit() -> None:
            own = size_of(model, aspect) if model in guests.offered_models() and aspect in ASPECTS else (0, 0)
            shot = Shot(model, width or own[0], height or own[1], steps)
            guests.submit_pictures(guest_of(request), shot, prompt, count, chosen, [(lora, weight)])

        return [self._answered(submit), chosen]

    def _compare(
        self, prompts: Any, model: Any, seeds: Any, lora_a: Any, weight_a: Any, lora_b: Any, weight_b: Any,
        request: gr.Request,
    ) -> str:  # fmt: skip
        pairs = dict(zip(SIDES, ([(lora_a, weight_a)], [(lora_b, weight_b)]), strict=True))
        return self._answered(lambda: guests.submit_comparison(guest_of(request), Shot(model), prompts, seeds, pairs))

    def _stop(self, request: gr.Request) -> None:
        guests.stop(guest_of(request))

    def _answered(self, submit: Callable[[], object]) -> str:
        """Nothing when it worked, else why it did not: it stays on the page until the next try."""
        try:
            submit()
        except Refused as error:
            return cards.note(self.w(f"refused.{error.key}", **error.values), "warning")
        return ""

    # ------------------------------------------------------------ looking

    def _look(self, seen: tuple[str, ...], request: gr.Request) -> list[Any]:
        """What has changed since the last look, read from the guest's own runs."""
        own = guests.runs_of(guest_of(request))
        found: list[Any] = []
        drawn, compared = [run for run in own if not run.comparison], [run for run in own if run.comparison]
        found += [self._status(drawn), self._pictures(drawn), self._status(compared[:1]), self._cells(compared[:1])]
        found += [gr.update(visible=any(run.view.can_stop for run in group)) for group in (drawn, compared)]
        found += [gr.update(choices=self._models())] * 2 + [gr.update(choices=self._loras())] * 3
        marks = tuple(repr(value) for value in found)
        old = seen or ("",) * len(marks)
        together = zip(found, marks, old, strict=True)
        return [marks, *(gr.skip() if mark == before else value for value, mark, before in together)]

    def _status(self, own: Sequence[GuestRun]) -> str:
        """The runs at work, and the last one where it failed; why is for the owner, since it may name folders."""
        shown = [run for run in reversed(own) if run.view.state in WORKING]
        return "".join(self._card(run) for run in shown or own[:1] if run.view.state not in ("done", "stopped"))

    def _card(self, run: GuestRun) -> str:
        w, view = self.w, run.view
        word = escape(w("state." + view.state.replace(" ", "_")))
        bar = cards.progress_bar(view) if view.state in WORKING[1:] else ""
        broken = view.state in ("failed", "interrupted")
        line = w("guest.failed") if broken else cards.facts_line(w, view) or (w("hint.queued") if not bar else "")
        badge = f'<span class="badge {view.state.replace(" ", "-")}">{word}</span>'
        head = f'<div class="head"><b>{escape(view.name[:80])}</b>{badge}</div>'
        return f'<div class="card">{head}{bar}<div class="line">{escape(line)}</div></div>'

    def _pictures(self, own: Sequence[GuestRun]) -> str:
        shown = [
            self._image(run, file.relative_to(run.view.folder).as_posix(), run.view.name)
            for run in own
            for file in guests.pictures(run.view.folder)
        ]
        if not shown:
            return cards.empty(self.w("guest.none"))
        return f'<div class="guest-grid">{"".join(shown[:SHOWN])}</div>'

    def _cells(self, own: Sequence[GuestRun]) -> str:
        """A block a prompt, a row a side, a column a seed; below it how much seeds differ."""
        if not own:
            return cards.empty(self.w("compare.none"))
        run, w = own[0], self.w
        report = read_report(run.view.folder)
        drawn = {file.relative_to(run.view.folder).as_posix() for file in guests.pictures(run.view.folder)}
        blocks = []
        for number, prompt in enumerate(report.prompts):
            rows = ""
            for name in (one.name for one in report.variants):
                names = [f"cells/{name}/{number:02d}_{seed}.png" for seed in report.seeds]
                cells = [self._image(run, each, f"{name}, {prompt}") if each in drawn else "<i></i>" for each in names]
                rows += f"<tr><th>{escape(name)}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
            table = f"<div class='table cells'><table><tbody>{rows}</tbody></table></div>"
            blocks.append(f"<h4>{escape(prompt)}</h4>{table}")
        measured = [(one.name, one.distance) for one in report.variants if one.distance is not None]
        words = all_in_words(w, report.variants, len(report.prompts) * len(report.seeds))
        loras = guests.loras_of(run.view.folder)
        named = {name: f"{name}: {loras[name] or w('lora.none')}" for name in loras}
        figures = [
            (named[name], said, f"{distance:.3f}") for (name, distance), said in zip(measured, words, strict=False)
        ]
        head = (w("compare.variant"), w("compare.means"), w("compare.distance"))
        return "".join(blocks) + (cards.table(head, figures) if figures else "")

    def _image(self, run: GuestRun, name: str, alt: str) -> str:
        address = f"../pictures/{run.view.folder.name}/{name}"
        return (
            f'<a href="{address}" target="_blank" rel="noopener">'
            f'<img src="{address}" alt="{escape(alt, quote=True)}" loading="lazy"></a>'
        )

    def _models(self) -> list[tuple[str, str]]:
        return [(name, name) for name in guests.offered_models()]

    def _loras(self) -> list[tuple[str, str]]:
        offered = guests.offered_loras().items()
        named = [(f"{one.name} ({one.trigger})" if one.trigger else one.name, name) for name, one in offered]
        return [(self.w("lora.none"), ""), *named]


def guest_of(request: gr.Request) -> str:
    """The guest's id, as the gate wrote it over whatever the client sent."""
    return str(request.headers[IDENTITY])
