"""`zit eval`: prompts → pictures → numbers, configurations compared."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zit_app.commands.compare import texts, variant_flags
from zit_app.commands.words import (
    STOPPED,
    existing_folder,
    found_loras,
    model_flag,
    model_name,
    prompt_lines,
    size_flag,
)
from zit_app.core.compare_settings import CompareSettings, Variant
from zit_app.core.eval_settings import EvalSettings, eval_toml, load_evaluation
from zit_app.core.flags import WrongUsage, fields, setting_flag
from zit_app.core.lean import importing
from zit_app.core.models import POCKET
from zit_app.core.paths import assets
from zit_app.core.progress import Progress
from zit_app.core.run import Run, find_run
from zit_app.core.workers import card_for_command


def eval_command(arguments: argparse.Namespace) -> int:
    """Draw a set of prompts and measure the pictures; two configurations are compared with intervals."""
    if arguments.again:
        given = find_run("eval", arguments.again)
        drawn, measured = load_evaluation(given.folder / "settings.toml")
        run = _run(eval_toml(drawn, measured), drawn, arguments.out or given.folder)
    elif not arguments.model:
        raise WrongUsage("zit eval needs --model or --again. See zit eval --help.")
    else:
        drawn, measured = _settings(arguments)
        run = _run(eval_toml(drawn, measured), drawn, arguments.out)
    progress = Progress(run, arguments.json)

    with importing():
        from zit_app.engine.evaluate import evaluate

    with card_for_command(run.folder, progress.note):
        report = evaluate(drawn, measured, run, progress)
    if report is None:
        return STOPPED
    words = (run.folder / "report.md").read_text(encoding="utf-8")
    progress.result(words, **report, report=run.folder / "report.md", run=run.folder)
    return 0


def _settings(arguments: argparse.Namespace) -> tuple[CompareSettings, EvalSettings]:
    width, height = arguments.size
    asking = Progress(as_json=arguments.json)
    variants = arguments.variant or [Variant("model")]
    drawn = CompareSettings(
        model=model_name(arguments.model),
        prompts=tuple(prompt for given in arguments.prompts for prompt in texts(given)) or _shipped(arguments.model),
        seeds=arguments.seeds,
        variants=tuple(
            dataclasses.replace(
                variant,
                model=model_name(variant.model) if variant.model else "",
                loras=found_loras(variant.loras, asking),
            )
            for variant in variants
        ),
        width=width,
        height=height,
        precision=arguments.precision,
    )
    folders = {
        name: str(existing_folder(path)) if path else ""
        for name, path in (("clip", arguments.clip), ("references", arguments.references))
    }
    return drawn, EvalSettings(**folders, resamples=arguments.resamples)


def _shipped(model: str) -> tuple[str, ...]:
    """The set for a model when no prompts are given: the embedded one is asked what the judge can check."""
    if model not in POCKET:
        return prompt_lines(assets() / "prompts" / "evaluation.txt")

    from zit_app.engine.pocket.recall import judges_prompts

    return judges_prompts()


def _run(toml: str, drawn: CompareSettings, out: Path | None) -> Run:
    """A new run, or the one in `out` when it is the same evaluation: pictures that are there are not drawn again."""
    if out is not None and (out / "settings.toml").is_file() and (out / "settings.toml").read_text("utf-8") == toml:
        return Run.open(out)
    return Run.create("eval", drawn.prompts[0], toml, out)


def add(command: Callable[..., Any]) -> None:
    """Register the command; ``command(function, name)`` is the parser's."""
    parser = command(eval_command, "eval")
    model_flag(parser, required=False)
    parser.add_argument(
        "--prompts",
        metavar="FILE_OR_TEXT",
        nargs="+",
        default=[],
        help="prompts, or files with one prompt a line; default: a set of 100 in two languages, for the pocket models "
        "the judge's 200 questions",
    )
    variant_flags(parser, (0, 1))
    size_flag(parser)
    setting_flag(parser, fields(CompareSettings)["precision"])
    known = fields(EvalSettings)
    parser.add_argument("--clip", metavar="FOLDER", type=Path, help=known["clip"].help)
    parser.add_argument("--references", metavar="FOLDER", type=Path, help=known["references"].help)
    setting_flag(parser, known["resamples"])
    parser.add_argument("--again", metavar="RUN", help="repeat this evaluation; with --out in another folder, anew")
    parser.add_argument("--out", type=Path, help="run folder; default: a new one under the home folder")
