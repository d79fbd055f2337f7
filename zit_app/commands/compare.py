"""`zit compare`: the same prompts and seeds in several ways."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zit_app.commands.words import STOPPED, found_loras, model_flag, model_name, prompt_lines, size_flag
from zit_app.core.compare_settings import CompareSettings, Variant, compare_toml, parse_seeds, parse_variant
from zit_app.core.flags import Parser, fields, setting_flag, usage
from zit_app.core.lean import importing
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.workers import card_for_command


def compare_command(arguments: argparse.Namespace) -> int:
    """Draw the same prompts and seeds in several ways and measure how much seeds vary."""
    width, height = arguments.size
    asking = Progress(as_json=arguments.json)
    models = {variant.model: model_name(variant.model) for variant in arguments.variant if variant.model}
    settings = CompareSettings(
        model=model_name(arguments.model),
        prompts=tuple(prompt for given in arguments.prompts for prompt in texts(given)),
        seeds=arguments.seeds,
        variants=tuple(
            dataclasses.replace(variant, model=models.get(variant.model, ""), loras=found_loras(variant.loras, asking))
            for variant in arguments.variant or [Variant("base")]
        ),
        width=width,
        height=height,
        precision=arguments.precision,
    )
    run = _comparison(settings, arguments.out)
    progress = Progress(run, arguments.json)

    with importing():
        from zit_app.engine.compare import compare

    with card_for_command(run.folder, progress.note):
        table = compare(settings, run, progress)
    if table is None:
        return STOPPED
    lines = [
        f"{name:<20} distance {_figure(row['distance'])}  deviation {_figure(row['deviation'])}"
        for name, row in table.items()
    ]
    grid = run.folder / "grid.png"
    progress.result("\n".join([*lines, str(grid)]), variants=table, grid=grid, run=run.folder)
    return 0


def add(command: Callable[..., Any]) -> None:
    """Register the command; ``command(function, name)`` is the parser's."""
    parser = command(compare_command, "compare")
    model_flag(parser, required=True)
    parser.add_argument(
        "--prompts", metavar="FILE_OR_TEXT", nargs="+", required=True, help="prompts, or files with one prompt a line"
    )
    variant_flags(parser, CompareSettings().seeds)
    size_flag(parser)
    setting_flag(parser, fields(CompareSettings)["precision"])
    parser.add_argument("--out", type=Path, help="run folder; default: a new one under the home folder")


def variant_flags(parser: Parser, seeds: tuple[int, ...]) -> None:
    """`--seeds` and `--variant`, the same for every command that draws several ways."""
    parser.add_argument(
        "--seeds",
        type=usage(parse_seeds),
        default=seeds,
        help=f"such as 0-15 or 1,4,8-11 (default {seeds[0]}-{seeds[-1]})",
    )
    parser.add_argument(
        "--variant",
        metavar="NAME=SPEC",
        type=usage(parse_variant),
        action="append",
        default=[],
        help="what to compare; SPEC: model=M;lora=FILE[@WEIGHT[@FIRST-LAST]];steps=N;guidance=G, a bare LoRA file, or "
        "nothing; may be repeated",
    )


def _comparison(settings: CompareSettings, out: Path | None) -> Run:
    """A new run, or the one in `out` when it compares the same: it goes on with the cells that are missing."""
    toml = compare_toml(settings)
    if out is not None and (out / "settings.toml").is_file() and (out / "settings.toml").read_text("utf-8") == toml:
        return Run.open(out)
    return Run.create("compare", settings.prompts[0], toml, out)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def texts(given: str) -> tuple[str, ...]:
    """The lines of a file, or the words themselves when they name none."""
    path = Path(given)
    return prompt_lines(path) if path.is_file() else (given,)
