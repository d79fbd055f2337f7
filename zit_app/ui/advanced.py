"""The advanced settings of a training: a control each, found by searching, with a way back to the preset."""

from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from zit_app.core import paths
from zit_app.core.settings import FieldInfo, describe
from zit_app.core.train_settings import TrainSettings, load_preset, load_train_settings
from zit_app.ui import cards, forms
from zit_app.ui.actions import LISTEN
from zit_app.ui.choices import chooser, lora_choices
from zit_app.ui.page import Page, asks

QUICK = "quick"  # high rates and few steps, for the pocket model: the demo without its own pictures
PRESETS = ("portrait", "style", "detail", "balanced", QUICK)
MAIN = ("trigger_word", "sample_prompts")  # have their place below the name, not among the advanced settings
START = "start_from"  # one of the LoRAs that are here
# Hides the settings whose label, help and name do not hold the words of the search box. Gradio's own event of it comes
# with pressed keys only, not with what is pasted or dictated.
SEARCH = """() => document.addEventListener('input', event => {
  if (!event.target.closest('#setting-search')) return;
  const wanted = event.target.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const box of document.querySelectorAll('#advanced .setting')) {
    const text = (box.textContent + ' ' + box.id.replaceAll('_', ' ')).toLowerCase();
    box.classList.toggle('filtered', !wanted.every(word => text.includes(word)));
  }
})"""


@lru_cache(maxsize=len(PRESETS))
def preset_settings(name: str) -> TrainSettings:
    """The settings behind a card."""
    return load_train_settings(paths.assets() / "demo" / "quick.toml") if name == QUICK else load_preset(name)


def advanced_fields() -> list[tuple[str, FieldInfo]]:
    """Every setting of a training with its table, in the order of the tables."""
    return [(table, info) for table, group in vars(TrainSettings()).items() for info in describe(type(group))]


class Advanced:
    """The accordion. `connect` comes when the preset's control exists; `controls` are in the order of `fields`."""

    def __init__(self, page: Page, start: str) -> None:
        self.page, self.w = page, page.w
        self.fields = advanced_fields()
        self.controls: list[Component] = []
        w, settings = self.w, preset_settings(start)
        with gr.Accordion(w("train.advanced"), open=False, elem_id="advanced", elem_classes="grid-form"):
            with gr.Row():
                gr.Textbox(
                    label=w("train.search"),
                    show_label=False,
                    placeholder=w("train.search"),
                    max_lines=1,
                    scale=3,
                    container=False,
                    elem_id="setting-search",
                )
                self.reset = gr.Button(w("train.reset"), size="sm", scale=1, min_width=120)
            self.changed = gr.HTML(js_on_load=LISTEN, elem_id="changed", elem_classes="maybe")
            for table, group in vars(settings).items():
                with gr.Column(elem_classes="setting-group"):
                    gr.HTML(f"<h3>{w(f'table.{table}')}</h3>")
                    self.controls += [self._setting(info, getattr(group, info.name)) for info in describe(type(group))]

    def connect(self, preset: Component) -> None:
        """Let the preset fill the controls, and the buttons put back one or all."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        for trigger in (preset.change, self.reset.click):  # type: ignore[attr-defined]
            trigger(asks(self._fill), [preset], self.controls, **quiet)
        self.changed.click(asks(self._put_back), [preset], self.controls, **quiet)

    def settings(self, values: Sequence[Any], trigger: str = "", prompts: str = "") -> TrainSettings:
        """What the controls hold, and those of `MAIN`. Raises ZitError for a value that is not allowed."""
        main = dict(zip(MAIN, (trigger.strip(), prompts), strict=True))
        named = [main.get(info.name, value) for (_, info), value in zip(self.fields, values, strict=True)]
        return forms.train_settings(self.w, self.fields, named)

    def differences(self, preset: str, values: Sequence[Any]) -> str:
        """The settings that differ from the preset, each with a button that puts it back."""
        w = self.w
        chips = []
        for (_, info), value, before in zip(self.fields, values, self._values(preset), strict=True):
            if value != before and info.name not in MAIN:
                name = w.label(info)
                usual = self._spoken(before)
                button = cards.button("reset", info.name, "↺", label=w("train.put_back", name=name, value=usual))
                plain = f"{escape(self._spoken(value))} <span>{escape(w('train.was', value=usual))}</span>"
                chips.append(f"<li><b>{escape(name)}</b> {plain}{button}</li>")
        title = escape(w("train.changed"))
        return f'<div class="note changed">{title}<ul>{"".join(chips)}</ul></div>' if chips else ""

    def _setting(self, info: FieldInfo, value: Any) -> Component:
        help = self._help(info, forms.shown(info, value))
        words: dict[str, Any] = {"elem_id": f"setting_{info.name}", "elem_classes": "setting"}
        if info.name == START:
            return chooser(self.loras(), value, label=self.w.label(info), info=help, **words)
        return forms.control(self.w, info, value, help, visible=info.name not in MAIN, **words)

    def loras(self) -> list[tuple[str, str]]:
        """What a training can go on from."""
        return lora_choices(self.w("lora.none"))

    @property
    def start(self) -> Component:
        """The control whose choices follow the LoRAs that are here."""
        return self.controls[[info.name for _, info in self.fields].index(START)]

    def _help(self, info: FieldInfo, value: Any) -> str:
        """What a setting does, and what the preset says."""
        return self.w.help(info, self.w("train.was", value=self._spoken(value)))

    def _spoken(self, value: Any) -> str:
        if isinstance(value, bool):
            return self.w(f"train.{str(value).lower()}")
        return f"{value:g}" if isinstance(value, float) else str(value) or self.w("train.empty")

    def _values(self, preset: str) -> list[Any]:
        settings = preset_settings(preset)
        return [forms.shown(info, getattr(getattr(settings, table), info.name)) for table, info in self.fields]

    def _fill(self, preset: str) -> list[Any]:
        pairs = zip(self.fields, self._values(preset), strict=True)
        return [gr.update(value=value, info=self._help(info, value)) for (_, info), value in pairs]

    def _put_back(self, preset: str, event: gr.EventData) -> list[Any]:
        pairs = zip(self.fields, self._values(preset), strict=True)
        return [value if info.name == event.on else gr.skip() for (_, info), value in pairs]
