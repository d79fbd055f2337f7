"""Controls generated from settings: one field, one control, with its help line, range and choices.

Lists of numbers are written with commas, lists of texts one a line.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from zit_app.core.errors import ZitError
from zit_app.core.settings import FieldInfo, from_mapping
from zit_app.core.train_settings import TrainSettings
from zit_app.ui.text import Words

TEXTS = tuple[str, ...]


def control(w: Words, info: FieldInfo, value: Any, help: str = "", **more: Any) -> Component:
    """The control of one setting, with its own help line unless another is given. `more` goes to the component."""
    words: dict[str, Any] = {"label": w.label(info), "info": help or w.help(info), "interactive": True, **more}
    if info.type is bool:
        return gr.Checkbox(value=value, **words)
    if info.choices:
        return gr.Dropdown(value=value, filterable=False, **{"choices": list(info.choices), **words})
    if info.type is int:
        return gr.Number(value=value, precision=0, **words)
    if info.type is float:
        return gr.Number(value=value, step=_step(value), **words)
    return gr.Textbox(value=shown(info, value), **{"max_lines": 8 if info.type == TEXTS else 1, **words})


def shown(info: FieldInfo, value: Any) -> Any:
    """A setting's value as its control shows it."""
    if info.type == TEXTS:
        return "\n".join(value)
    if isinstance(value, tuple):
        return ", ".join(f"{entry:g}" for entry in value)
    return value


def read(w: Words, info: FieldInfo, value: Any) -> Any:
    """The setting's value from what its control holds. Raises ZitError for an empty number or a list of words."""
    if value is None and info.type in (int, float):
        raise ZitError(w("form.empty", name=w.label(info)), w.help(info))
    if info.type is float:
        return float(value)
    if info.type is str:
        return value or ""  # a choice that was emptied is None
    if isinstance(value, str) and info.type == TEXTS:
        return [line.strip() for line in value.splitlines() if line.strip()]
    if isinstance(value, str) and info.type not in (str, bool, int, float):
        try:
            return [float(part) for part in value.replace("，", ",").split(",") if part.strip()]
        except ValueError as error:
            raise ZitError(w("form.numbers", name=w.label(info)), w.help(info)) from error
    return value


def train_settings(w: Words, fields: Sequence[tuple[str, FieldInfo]], values: Sequence[Any]) -> TrainSettings:
    """All tables of a training from the controls' values. Raises ZitError for a value that is not allowed."""
    tables: dict[str, dict[str, Any]] = {"acrf": {}, "lora": {}, "training": {}, "dataset": {}}
    for (table, info), value in zip(fields, values, strict=True):
        tables[table][info.name] = read(w, info, value)
    kinds: Mapping[str, type] = {name: type(getattr(TrainSettings(), name)) for name in tables}
    return TrainSettings(**{name: from_mapping(kinds[name], tables[name], f"[{name}]") for name in tables})


def _step(value: float) -> float:
    """How far one press of an arrow key moves a number: a tenth of its size."""
    return 10.0 ** (len(str(int(abs(value)))) - 2) if abs(value) >= 1 else 0.1 if value == 0 else _power(value)


def _power(value: float) -> float:
    text = f"{abs(value):.0e}"  # 1e-04
    return 10.0 ** (int(text.partition("e")[2]) - 1)
