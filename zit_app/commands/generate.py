"""`zit generate`: pictures from words."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zit_app.commands.words import found_loras, model_flag, model_name, prompt_lines, size_flag
from zit_app.core.flags import fields, setting_flag, usage
from zit_app.core.generate_settings import GenerateSettings, parse_lora
from zit_app.core.lean import importing
from zit_app.core.progress import Progress
from zit_app.core.workers import card_for_command


def generate_command(arguments: argparse.Namespace) -> None:
    """Draw pictures."""
    progress = Progress(as_json=arguments.json)
    given = {name: getattr(arguments, name) for name in fields(GenerateSettings) if name in arguments}
    width, height = arguments.size
    given |= {name: str(Path(given[name]).absolute()) for name in ("image", "mask") if given[name]}
    given["references"] = tuple(str(Path(file).absolute()) for file in arguments.reference)
    given |= {"prompts": _prompts(arguments), "width": width, "height": height}
    model = model_name(arguments.model)
    settings = GenerateSettings(**given, loras=found_loras(arguments.lora, progress))

    with importing():
        from zit_app.engine.generate import generate

    with card_for_command(None, progress.note):
        begun = time.perf_counter()
        pictures = generate(settings, model, arguments.out, progress)
    seconds = time.perf_counter() - begun
    words = "\n".join([*map(str, pictures), f"{len(pictures)} pictures in {seconds:.1f} s"])
    folder = progress.run.folder if progress.run else None
    progress.result(words, pictures=pictures, run=folder, seconds=round(seconds, 3))


def add(command: Callable[..., Any]) -> None:
    """Register the command; ``command(function, name)`` is the parser's."""
    parser = command(generate_command, "generate")
    model_flag(parser, required=True)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="what the picture shows")
    prompt.add_argument("--prompts", metavar="FILE", type=Path, help="a file with one prompt a line")
    known = fields(GenerateSettings)
    setting_flag(parser, known["negative_prompt"], "--negative")
    parser.add_argument(
        "--lora",
        metavar="FILE[@WEIGHT[@FIRST-LAST]]",
        type=usage(parse_lora),
        action="append",
        default=[],
        help="adapter (file, name in the library, OWNER/NAME[/FILE] on Hugging Face's hub, modelscope:OWNER/NAME …), "
        "its weight, the denoising steps it acts in; may be repeated",
    )
    for name in ("steps", "guidance", "sigmas", "seed", "count", "precision", "text_precision", "max_sequence_length"):
        setting_flag(parser, known[name])
    setting_flag(parser, known["solver"], "--sampler")
    parser.add_argument(
        "--reference",
        metavar="FILE",
        action="append",
        default=[],
        help="picture that the prompt speaks of, for Z-Image Omni and Edit; may be repeated",
    )
    for name in ("image", "strength", "mask", "mask_blur", "larger", "larger_strength", "larger_steps", "attention"):
        setting_flag(parser, known[name])
    size_flag(parser)
    parser.add_argument("--out", type=Path, help="PNG file or folder; default: the run's own folder")


def _prompts(arguments: argparse.Namespace) -> tuple[str, ...]:
    return (arguments.prompt,) if arguments.prompts is None else prompt_lines(arguments.prompts)
