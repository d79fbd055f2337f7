"""Prompts to begin with: words to keep, and in [brackets] those that a person puts own ones for."""

from typing import Any

import gradio as gr

from zit_app.core.flavours import read_flavour
from zit_app.core.generate_settings import GenerateSettings
from zit_app.service.estimates import model_place
from zit_app.ui.text import Words

SHAPES = {"poster": "3:4", "background": "square", "illustration": "square"}


def template_choices(w: Words) -> list[tuple[str, str]]:
    """The templates by name, after none."""
    return [(w("template.none"), ""), *((w(f"template.{name}"), name) for name in SHAPES)]


def filled(w: Words, name: str, model: str | None) -> list[Any]:
    """Prompt, shape, negative prompt, strength and the box of the picture to start from, for a chosen template."""
    if not name:
        return [gr.skip()] * 5
    picture = name == "background"
    gr.Info(w("template.picture") if picture else w("template.replace"))
    guided = bool(model) and read_flavour(model_place(str(model))).guidance > 0
    return [
        w(f"template.{name}_prompt"),
        SHAPES[name],
        w("template.negative") if guided and name == "poster" else gr.skip(),
        GenerateSettings().strength if picture else gr.skip(),
        gr.update(open=True) if picture else gr.skip(),
    ]
