"""What drawing and training will take on a card, before a weight is here: the numbers behind `zit plan` and the page.

Memory is planned (`core/memory.py`); time is only told where this machine has drawn or trained with the model before.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

from zit_app.core import full_model
from zit_app.core.errors import ZitError
from zit_app.core.files import read_json
from zit_app.core.flavours import BASE, TURBO, Flavour
from zit_app.core.generate_settings import load_generation
from zit_app.core.memory import Layout, Model, Numbers, Phase, Request, budget_of, plan_layout, read_model
from zit_app.core.models import FOLDERS, find_model, list_models, read_flavour
from zit_app.core.run import Run
from zit_app.core.sizes import Config, transformer_config, transformer_numbers
from zit_app.core.train_settings import TrainSettings
from zit_app.service.estimates import model_place, part_folder, step_memory
from zit_app.service.hardware import Card
from zit_app.service.runs import RunView

_STORED = ("int8", "fp8", "nf4", "int8-fast", "fp8-fast", "int8-quanto", "fp8-quanto")
# From the finest; what is not named is only taken when asked for. An int8 transformer draws nearly as exactly as bf16
# and faster than one whose blocks come and go.
_WAYS = (("bf16", "bf16"), ("int8", "bf16"), ("int8", "int8"))
_CAPTION = 128  # tokens of a usual prompt
_LATEST = 30  # runs that are asked for their pace: the page asks every two seconds
FULL = Model(full_model.TRANSFORMER, full_model.TEXT_ENCODER, full_model.VAE)


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
        return FULL, TURBO if name == "turbo" else BASE
    folder = find_model(name)
    return read_model(folder), read_flavour(folder)


def model_here(name: str) -> tuple[Model, Flavour]:
    """The same of a model that is here, without copying an embedded one. Raises ZitError for one that is not."""
    place = model_place(name)
    encoder, vae = (read_json(part_folder(place, part) / "config.json") for part in ("text_encoder", "vae"))
    sight = place / "siglip" / "config.json"
    siglip = read_json(sight) if sight.is_file() else None
    return Model(transformer_config(place), encoder, vae, siglip), read_flavour(place)


def room_of(cards: Sequence[Card]) -> int | None:
    """Bytes of the first card that may be planned with when nothing else uses it; None without a card."""
    return budget_of(cards[0].total) if cards else None


def choose(model: Model, request: Request, budget: int | None, precision: str, text_precision: str) -> Choice:
    """The formats asked for; for "auto" the finest with which the fewest blocks have to come and go."""
    if budget is None:
        return _choice(model, request, None, _named(precision, "fp32"), _named(text_precision, "fp32"))
    ways = dict.fromkeys((_named(precision, one), _named(text_precision, two)) for one, two in _WAYS)
    choices = [_choice(model, request, budget, *way) for way in ways]
    fitting = [one for one in choices if one.layout.fits]
    return min(fitting, key=lambda one: one.layout.transformer_away + one.layout.encoder_away, default=choices[-1])


def as_drawn(model: Model, request: Request, budget: int | None, precision: str, text_precision: str) -> Choice:
    """The layout in the formats that drawing takes: "auto" is that which is computed in."""
    computed = precision if precision in ("fp32", "bf16") else "fp32" if budget is None else "bf16"
    return _choice(model, request, budget, _named(precision, computed), _named(text_precision, computed))


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
    for view in islice((view for view in done if view.kind == "generate"), _LATEST):
        measured = view.folder / "metrics.jsonl"
        drawn = _drawn(view.folder, measured.stat().st_size if measured.exists() else 0)
        if drawn and drawn.model == name and _named(drawn.precision, formats[1]) == formats[0]:
            paces = [one.seconds / _work(model.transformer, one.width, one.height) for one in drawn.passes]
            return statistics.median(paces) * passes * _work(model.transformer, request.width, request.height)
    return None


def _named(asked: str, otherwise: str) -> str:
    return otherwise if asked == "auto" else asked


def _choice(model: Model, request: Request, budget: int | None, precision: str, text_precision: str) -> Choice:
    full = [4 if name == "fp32" or (name in _STORED and budget is None) else 2 for name in (precision, text_precision)]
    stored = [name if name in _STORED else "" for name in (precision, text_precision)]
    numbers = Numbers(full[0], stored[0], full[1], stored[1])
    return Choice(precision, text_precision, plan_layout(model, numbers, request, budget))


@dataclass(frozen=True)
class _Pass:
    """One call of the transformer for one picture, as it was measured in a batch."""

    seconds: float
    width: int
    height: int


@dataclass(frozen=True)
class _Drawn:
    model: str
    precision: str  # as it was asked for
    passes: tuple[_Pass, ...]


@lru_cache(maxsize=2 * _LATEST)
def _drawn(folder: Path, size: int) -> _Drawn | None:
    """What one run measured, None when it has not; the first batch warms up where there are others.

    ``size`` of its measurements grows with them.
    """
    if not size:
        return None
    try:
        settings, job = load_generation(folder / "settings.toml")
    except (ZitError, OSError):  # of another version of the program
        return None
    lines = [line for line in Run(folder).metrics() if "passes" in line]
    passes = [
        _Pass(float(line["seconds"]) / (line["pictures"] * line["passes"]), line["width"], line["height"])
        for line in lines[1:] or lines
    ]
    return _Drawn(job.model, settings.precision, tuple(passes)) if passes else None


def _work(config: Config, width: int, height: int) -> float:
    """Floating-point operations of one call of the transformer for one picture: products with weights, attention."""
    tokens = width * height / 256 + _CAPTION
    return 2 * transformer_numbers(config) * tokens + 4 * int(config["dim"]) * int(config["n_layers"]) * tokens**2
