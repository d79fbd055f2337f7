"""The picture to start from, and the paint that says which part of it is drawn again."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from zit_app.core.generate_settings import GenerateSettings
from zit_app.core.settings import FieldInfo
from zit_app.service import masks
from zit_app.ui import cards, forms
from zit_app.ui.text import Words

BRUSH = gr.Brush(colors=[masks.PAINT], color_mode="fixed")


class StartFrom:
    """`controls` by the names of their settings."""

    def __init__(self, w: Words, known: dict[str, FieldInfo]) -> None:
        image = gr.Image(
            type="filepath",
            format="png",
            sources=["upload", "clipboard"],
            height=180,
            label=w.label(known["image"]),
            elem_id="generate_image",
        )
        info = known["strength"]
        strength = gr.Slider(0.05, 1, info.default, step=0.05, label=w.label(info), info=w.help(info), buttons=[])
        gr.HTML(cards.note(w("generate.paint")))
        mask = gr.ImageEditor(
            type="filepath",
            format="png",
            sources=[],
            transforms=[],
            layers=False,
            brush=BRUSH,
            buttons=[],
            height=360,
            visible=False,
            label=w.label(known["mask"]),
            elem_id="generate_mask",
        )
        blur = forms.control(w, known["mask_blur"], known["mask_blur"].default, visible=False)
        self.controls: dict[str, Component] = {"image": image, "strength": strength, "mask": mask, "mask_blur": blur}
        image.input(to_paint, [image], [mask, blur], show_progress="hidden", api_visibility="private")


def to_paint(image: str | None) -> list[Any]:
    """The editor with a fresh picture; without one there is nothing to paint on."""
    return [gr.update(value=canvas(image), visible=bool(image)), gr.update(visible=bool(image))]


def canvas(image: str | None, mask: str = "") -> dict[str, Any] | None:
    """What the editor holds: the picture, and its mask as paint."""
    if not image:
        return None
    layers = [masks.as_layer(Path(mask), Path(image))] if mask else []
    return {"background": image, "layers": layers, "composite": None}


def mask_file(value: dict[str, Any] | None) -> str:
    """The file of what was painted, "" when nothing was."""
    return masks.painted([Path(layer) for layer in value["layers"]]) if value else ""


def shown_again(settings: GenerateSettings) -> list[Any]:
    """Editor and soft edge as a picture was drawn with them."""
    there = bool(settings.image)
    editor = gr.update(value=canvas(settings.image, settings.mask), visible=there)
    return [editor, gr.update(value=settings.mask_blur, visible=there)]
