"""What the tabs offer for choosing: models, LoRAs, datasets. A dataset is known by its folder, a LoRA by its file."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from zit_app.core import models
from zit_app.core.attention import installed
from zit_app.core.errors import ZitError
from zit_app.core.memory import Request
from zit_app.core.models import default_model
from zit_app.service import adapters, datasets, hardware
from zit_app.service.estimates import model_place
from zit_app.service.planning import choose, model_here, room_of
from zit_app.service.shelf import DatasetItem, View, shelf
from zit_app.ui.text import Words


def model_choices() -> list[tuple[str, str]]:
    """The models that are here, by name."""
    return [(model.name, model.name) for model in models.list_models() if model.ready]


def require_model(w: Words, model: str | None) -> str:
    """The chosen model; raises ZitError when none is."""
    if not model:
        raise ZitError(w("model.none"), w("model.none_help"))
    return model


def lora_choices(none: str) -> list[tuple[str, str]]:
    """The LoRA files of the library, newest first, after "none"."""
    return [(none, ""), *((adapter.name, str(adapter.path)) for adapter in adapters.library())]


def recommended(model: str | None) -> tuple[str, str]:
    """The number formats of transformer and text encoder that suit this machine best, by the memory plan."""
    if not model:
        return "", ""
    parts, flavour = model_here(model)
    best = choose(parts, Request(flavour.pixels, flavour.pixels), room_of(cards_here()), "auto", "auto")
    return best.precision, best.text_precision


def precision_choices(w: Words, known: Sequence[str], best: str) -> list[tuple[str, str]]:
    """The number formats, the best one marked."""
    card = next((card.name for card in cards_here()), w("precision.processor"))
    named = {"auto": w("precision.auto", name="bf16" if cards_here() else "fp32")}
    labels = {name: named.get(name, name) for name in known}
    labels |= {best: w("precision.best", name=best, card=card)} if best in labels else {}
    return [(label, name) for name, label in labels.items()]


def attention_choices() -> list[str]:
    """The ways to compute attention that are installed here."""
    return ["auto", *installed(bool(cards_here()))]


@lru_cache(maxsize=1)
def cards_here() -> tuple[hardware.Card, ...]:
    """The graphics cards; they do not come and go while the app runs, what they use does."""
    return hardware.report().cards


def default_pixels() -> int:
    """Side of the pictures that the default model is meant for."""
    name = default_model()
    return models.read_flavour(model_place(name)).pixels if name else models.TURBO.pixels


def chooser(choices: Sequence[Any], value: Any, **more: Any) -> gr.Dropdown:
    """A dropdown whose choices follow the disk.

    Gradio refuses every event that brings a value which has just left the choices, so any value is let through: whoever
    uses it finds out by itself that a folder or file is gone.
    """
    return gr.Dropdown(choices, value=value, allow_custom_value=True, **more)


def followed(choices: Sequence[tuple[str, str]], value: str | None, otherwise: str | None = None) -> Any:
    """The choices as they are now; a value that is not among them gives way to `otherwise` or the first."""
    known = [each for _, each in choices]
    if value in known:
        return gr.update(choices=choices)
    return gr.update(choices=choices, value=otherwise or next(iter(known), None))


def dataset_choices() -> list[tuple[str, str]]:
    """The datasets: name and folder."""
    return [(folder.name, str(folder)) for folder in datasets.list_datasets()]


def first_dataset() -> str | None:
    """The dataset that is chosen at first."""
    return next((folder for _, folder in dataset_choices()), None)


def read_view(folder: str) -> View:
    """A dataset as it is now; empty for one that is gone. Files are read again only when one of them changed."""
    return shelf(Path(folder), default_pixels()).look()


def read_items(folder: str) -> tuple[DatasetItem, ...]:
    """The pictures of a dataset, none for one that is gone or empty."""
    return read_view(folder).items
