"""`zit plan`: what drawing and training will take on a card, and how the model is laid out so that it fits."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zit_app.commands.words import size_flag
from zit_app.core.errors import ZitError
from zit_app.core.flags import fields, setting_flag
from zit_app.core.generate_settings import GenerateSettings
from zit_app.core.library import find_adapter
from zit_app.core.memory import Phase, Request, budget_of
from zit_app.core.progress import Progress
from zit_app.core.train_settings import TrainSettings, load_preset, preset_names

if TYPE_CHECKING:
    from zit_app.service.planning import Choice

GIB = 2**30


def plan_command(arguments: argparse.Namespace) -> None:
    """Predict memory and time of drawing and training, and show the settings that fit; needs no weights."""
    from zit_app.service.planning import choose, drawing_seconds, known_model, training_ways
    from zit_app.service.runs import list_runs

    model, flavour = known_model(arguments.model)
    free = arguments.vram or _free()
    width, height = arguments.size if arguments.size[0] else (flavour.pixels, flavour.pixels)
    guided = (flavour.guidance if arguments.guidance < 0 else arguments.guidance) > 0
    adapters = sum(find_adapter(file).stat().st_size for file in arguments.lora)
    if arguments.references and model.siglip is None:
        raise ZitError("This model looks at no pictures.", "Leave --references out.")
    references = ((width, height),) * arguments.references
    request = Request(width, height, arguments.batch, guided, arguments.max_sequence_length, adapters, references)
    budget = budget_of(free) if free else None
    choice = choose(model, request, budget, arguments.precision, arguments.text_precision)
    settings = load_preset(arguments.preset) if arguments.preset else TrainSettings()
    training = training_ways(settings, model, flavour.pixels, free is not None)
    passes = (arguments.steps or flavour.steps) * (2 if guided else 1)
    seconds = None  # a card that is only thought of has drawn nothing
    if not arguments.vram:
        formats = (choice.precision, "bf16" if free else "fp32")
        seconds = drawing_seconds(arguments.model, formats, model, request, passes, list_runs("generate"))
    head = f"{arguments.model}, {width}x{height}, {_counted(arguments.batch, 'picture')} at once"
    room = f"{budget / GIB:.1f} of {free / GIB:.1f} GiB to plan with" if budget and free else "no card, in memory"
    words = [f"{head}; {room}", *_drawing_words(choice), *_training_words(training, budget)]
    words += [f"A picture takes about {seconds:.1f} s here."] if seconds else []
    Progress(as_json=arguments.json).result(
        "\n".join(words),
        model=arguments.model,
        budget=budget,
        fits=choice.layout.fits,
        settings=_settings(choice),
        drawing=[_facts(phase) for phase in choice.layout.phases],
        training=[{"gradient_checkpointing": on, **_facts(phase)} for on, phase in training.items()],
        seconds=seconds,
    )


def add(command: Callable[..., Any]) -> None:
    """Register the command; ``command(function, name)`` is the parser's."""
    parser = command(plan_command, "plan")
    parser.add_argument("--model", metavar="M", default="turbo", help="name, folder or file (default: turbo)")
    parser.add_argument(
        "--vram", metavar="GB", type=_gigabytes, default=0, help="free memory of a card; default: that of the first one"
    )
    parser.add_argument("--batch", metavar="N", type=int, default=1, help="pictures drawn together (default 1)")
    parser.add_argument("--lora", metavar="FILE", action="append", default=[], help="adapter; may be repeated")
    parser.add_argument(
        "--references", metavar="N", type=int, default=0, help="pictures that an Omni looks at, of the drawn size"
    )
    parser.add_argument("--preset", choices=preset_names(), default="", help="of the training")
    known = fields(GenerateSettings)
    for name in ("steps", "guidance", "precision", "text_precision", "max_sequence_length"):
        setting_flag(parser, known[name])
    size_flag(parser)


def _gigabytes(text: str) -> int:
    return int(float(text) * GIB)


def _free() -> int | None:
    from zit_app.service.hardware import report

    cards = report().cards
    return cards[0].total - cards[0].used if cards else None


def _drawing_words(choice: "Choice") -> list[str]:
    layout = choice.layout
    lines = [f"{'':<14}{'weights':>9}{'beside':>9}{'together':>10}  GiB"]
    lines += [_row(phase) for phase in layout.phases]
    lines.append(f"Transformer {choice.precision}, text encoder {choice.text_precision}.")
    if layout.budget is not None:
        where = "stays on the card" if layout.encoder_stays else "leaves the card when it has read"
        lines.append(f"The text encoder {where}.")
    away = {"text encoder's layers": layout.encoder_away, "transformer's blocks": layout.transformer_away}
    for name, count in away.items():
        lines += [f"{count} of the {name} come to the card only for their turn."] if count else []
    lines += [f"The VAE works in tiles of {layout.tile} pixels."] if layout.tile else []
    lines += ["The VAE takes one picture after the other."] if layout.one_by_one and not layout.tile else []
    return lines if layout.fits else [*lines, "This does not fit: draw smaller pictures, or choose nf4."]


def _training_words(training: dict[bool, Phase], budget: int | None) -> list[str]:
    lines = []
    for on, phase in training.items():
        fits = "" if budget is None else "" if phase.total <= budget else "  does not fit"
        lines.append(_row(Phase("train" + (" (checkp.)" if on else ""), phase.weights, phase.activations)) + fits)
    return lines


def _settings(choice: "Choice") -> dict[str, Any]:
    layout = choice.layout
    names = ("encoder_stays", "encoder_beside", "encoder_away", "transformer_away", "one_by_one", "tile")
    formats = {"precision": choice.precision, "text_precision": choice.text_precision}
    return formats | {name: getattr(layout, name) for name in names}


def _facts(phase: Phase) -> dict[str, Any]:
    return {"phase": phase.name, "weights": phase.weights, "activations": phase.activations, "total": phase.total}


def _row(phase: Phase) -> str:
    figures = (phase.weights / GIB, phase.activations / GIB, phase.total / GIB)
    return f"{phase.name:<14}{figures[0]:>9.2f}{figures[1]:>9.2f}{figures[2]:>10.2f}"


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"
