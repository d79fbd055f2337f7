"""What drawing and training will take on a card, before a weight is here: the numbers behind `zit plan`.

Memory is planned (`core/memory.py`); time is only told where this machine has drawn or trained with the model before.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zit_app.core import full_model
from zit_app.core.errors import ZitError
from zit_app.core.flavours import BASE, TURBO, Flavour
from zit_app.core.generate_settings import load_generation
from zit_app.core.memory import Layout, Model, Numbers, Phase, Request, plan_layout, read_model
from zit_app.core.models import FOLDERS, find_model, list_models, read_flavour
from zit_app.core.run import Run
from zit_app.core.sizes import Config, transformer_numbers
from zit_app.core.train_settings import TrainSettings
from zit_app.service.estimates import step_memory
from zit_app.service.runs import RunView

_STORED = ("int8", "fp8", "nf4", "int8-quanto", "fp8-quanto")
# From the finest; what is not named is only taken when asked for. An int8 transformer draws nearly as exactly as bf16
# and faster than one whose blocks come and go.
_WAYS = (("bf16", "bf16"), ("int8", "bf16"), ("int8", "int8"))
_CAPTION = 128  # tokens of a usual prompt


@dataclass(frozen=True)
class Choice:
    """Number formats of transformer and text encoder, and the layout that they lead to."""

    precision: str
    text_precision: str
    layout: Layout


def known_model(name: str) -> tuple[Model, Flavour]:
    """Configuration and defaults of a model: the full one's for those that are not here yet.

    Raises ZitError for a model that nobody knows.
    """
    if name in FOLDERS and not next(one.ready for one in list_models() if one.name == name):
        full = Model(full_model.TRANSFORMER, full_model.TEXT_ENCODER, full_model.VAE)
        return full, TURBO if name == "turbo" else BASE
    folder = find_model(name)
    return read_model(folder), read_flavour(folder)


def choose(model: Model, request: Request, budget: int | None, precision: str, text_precision: str) -> Choice:
    """The formats asked for; for "auto" the finest with which the fewest blocks have to come and go."""
    if budget is None:
        return _choice(model, request, None, _named(precision, "fp32"), _named(text_precision, "fp32"))
    ways = dict.fromkeys((_named(precision, one), _named(text_precision, two)) for one, two in _WAYS)
    choices = [_choice(model, request, budget, *way) for way in ways]
    fitting = [one for one in choices if one.layout.fits]
    return min(fitting, key=lambda one: one.layout.transformer_away + one.layout.encoder_away, default=choices[-1])


def training_ways(settings: TrainSettings, model: Model, pixels: int, card: bool) -> dict[bool, Phase]:
    """Bytes of a training step without and with gradient checkpointing."""

    def way(checkpointing: bool) -> Phase:
        training = replace(settings.training, gradient_checkpointing=checkpointing)
        return step_memory(replace(settings, training=training), model.transformer, pixels, card)

    return {checkpointing: way(checkpointing) for checkpointing in (False, True)}


def drawing_seconds(
    name: str, formats: tuple[str, str], model: Model, request: Request, passes: int, done: Sequence[RunView]
) -> float | None:
    """Seconds a picture will take, from the newest run of this model in this format; None before the first one.

    formats  the transformer's, and the one that "auto" means here
    passes   calls of the transformer for one picture
    """
    for view in done:
        pace = _pace(view.folder, name, formats, model.transformer) if view.kind == "generate" else None
        if pace is not None:
            return pace * passes * _work(model.transformer, request.width, request.height)
    return None


def _named(asked: str, otherwise: str) -> str:
    return otherwise if asked == "auto" else asked


def _choice(model: Model, request: Request, budget: int | None, precision: str, text_precision: str) -> Choice:
    full = [4 if name == "fp32" or (name in _STORED and budget is None) else 2 for name in (precision, text_precision)]
    stored = [name if name in _STORED else "" for name in (precision, text_precision)]
    numbers = Numbers(full[0], stored[0], full[1], stored[1])
    return Choice(precision, text_precision, plan_layout(model, numbers, request, budget))


def _pace(folder: Path, name: str, formats: tuple[str, str], config: Config) -> float | None:
    """Seconds for a floating-point operation in one run; the first batch warms up where there are others."""
    try:
        settings, job = load_generation(folder / "settings.toml")
    except (ZitError, OSError):  # of another version of the program
        return None
    if job.model != name or _named(settings.precision, formats[1]) != formats[0]:
        return None
    lines = [line for line in Run(folder).metrics() if "passes" in line]
    paces = [
        float(line["seconds"]) / (line["pictures"] * line["passes"] * _work(config, line["width"], line["height"]))
        for line in lines[1:] or lines
    ]
    return statistics.median(paces) if paces else None


def _work(config: Config, width: int, height: int) -> float:
    """Floating-point operations of one call of the transformer for one picture: products with weights, attention."""
    tokens = width * height / 256 + _CAPTION
    return 2 * transformer_numbers(config) * tokens + 4 * int(config["dim"]) * int(config["n_layers"]) * tokens**2
