"""`zit pocket …`: build, score and look at the embedded model."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zit_app.core.errors import ZitError, did_you_mean
from zit_app.core.flags import WrongUsage
from zit_app.core.paths import PROJECT, assets
from zit_app.core.progress import Progress


def build_command(arguments: argparse.Namespace) -> None:
    """Build the pocket model from its sources: hours on a CPU, minutes on a card."""
    from zit_app.engine.pocket.build import build

    build(arguments.work, arguments.device)


def score_command(arguments: argparse.Namespace) -> None:
    """Measure the shipped pocket models anew and rewrite their model card."""
    from zit_app.engine.pocket.build import score

    card = score()
    Progress(as_json=arguments.json).result(f"Model card: {card}", card=card)


def teach_command(arguments: argparse.Namespace) -> None:
    """Train LoRAs on the shipped pocket model, measure what they teach and what they break, rewrite the card."""
    if arguments.style:
        return _teach_in_a_way(arguments)
    if arguments.set:
        raise WrongUsage("--set is for one computed style: name it with --style.")
    from zit_app.engine.pocket.build import score_teaching

    card = score_teaching(arguments.work)
    Progress(as_json=arguments.json).result(f"Model card: {card}", card=card)


def _teach_in_a_way(arguments: argparse.Namespace) -> None:
    """One computed style with settings of one's own; the card stays as it is."""
    from zit_app.engine.pocket.paint import Painter
    from zit_app.engine.pocket.questions import load_questions
    from zit_app.engine.pocket.styles import COMPUTED
    from zit_app.engine.pocket.twin import measure_way

    if arguments.style not in COMPUTED:
        raise ZitError(f"There is no computed style {arguments.style!r}.", did_you_mean(arguments.style, COMPUTED))
    questions = load_questions(assets() / "judge")
    taught, kept = measure_way(questions, Painter("pocket"), arguments.work, arguments.style, arguments.set)
    rows = {"taught": taught, "unrelated": kept}
    Progress(as_json=arguments.json).result(f"{arguments.style}: {json.dumps(rows)}", rows=rows)


def protect_command(arguments: argparse.Namespace) -> None:
    """Measure what trainings with and without protection cost the pocket model's few-step pictures."""
    from zit_app.engine.pocket.protections import VARIANTS, measure_protections
    from zit_app.engine.pocket.questions import load_questions

    names, seeds = arguments.variant or tuple(VARIANTS), range(arguments.seeds)
    questions = load_questions(assets() / "judge")
    rows = measure_protections(questions, arguments.work, arguments.steps, seeds, names)
    Progress(as_json=arguments.json).result(str(arguments.work / "protections.json"), rows=rows)


def promises_command(arguments: argparse.Namespace) -> None:
    """Measure what the four presets teach, keep and sharpen beside a plain LoRA of as many steps."""
    from zit_app.engine.pocket.promises import PLAIN, VARIANTS, mean_ranks, measure_promises
    from zit_app.engine.pocket.questions import load_questions

    names, seeds = arguments.variant or (PLAIN, *VARIANTS), range(arguments.seeds)
    rows = measure_promises(load_questions(assets() / "judge"), arguments.work, seeds, names)
    Progress(as_json=arguments.json).result(str(arguments.work / "promises.json"), rows=rows, ranks=mean_ranks(rows))


def study_command(arguments: argparse.Namespace) -> None:
    """Train and measure what the AC-RF documents claim on the pocket model; goes on where it was interrupted."""
    from zit_app.engine.pocket.questions import load_questions
    from zit_app.engine.pocket.study.report import write_report
    from zit_app.engine.pocket.study.trainings import run_study

    questions = load_questions(assets() / "judge")
    figures = run_study(questions, arguments.work, arguments.out, arguments.seeds, arguments.row)
    page = write_report(figures, arguments.out)
    Progress(as_json=arguments.json).result(str(page), page=page)


def sheet_command(arguments: argparse.Namespace) -> None:
    """Draw 64 pictures with canonical and 64 with open prompts."""
    from zit_app.engine.pocket.questions import load_questions
    from zit_app.engine.pocket.sheets import draw_sheets

    sheets = draw_sheets(load_questions(assets() / "judge"), arguments.out, arguments.model)
    Progress(as_json=arguments.json).result("\n".join(str(sheet) for sheet in sheets), sheets=[str(s) for s in sheets])


def captioner_command(arguments: argparse.Namespace) -> None:
    """Train the tiny captioner from its sources (about an hour on one core), measure it, rewrite the model card."""
    from zit_app.engine.pocket.build import build_captioner

    card = build_captioner(arguments.work)
    Progress(as_json=arguments.json).result(f"Model card: {card}", card=card)


def add(command: Callable[..., Any], group: Callable[[str, str], Any]) -> None:
    """Register the commands; ``command(function, name, group)`` and ``group(name, about)`` are the parser's."""
    pocket = group("pocket", "The embedded model.")
    build = command(build_command, "build", pocket)
    build.add_argument("--work", type=Path, required=True, help="folder for downloads and checkpoints; can be resumed")
    build.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    command(score_command, "score", pocket)
    teach = command(teach_command, "teach", pocket)
    teach.add_argument("--work", type=Path, required=True, help="folder for the trainings; finished ones are kept")
    teach.add_argument(
        "--style", help="only this computed style (hues, dusk, mosaic, lines); the model card stays as it is"
    )
    teach.add_argument(
        "--set", metavar="TABLE.KEY=VALUE", action="append", default=[], help="with --style: change one setting"
    )
    protect = command(protect_command, "protect", pocket)
    protect.add_argument("--work", type=Path, required=True, help="folder for the trainings; finished ones are kept")
    protect.add_argument("--steps", type=int, default=300, help="length of each training (default: 300)")
    protect.add_argument("--seeds", type=int, default=1, help="trainings a variant (default: 1)")
    protect.add_argument("--variant", action="append", default=[], help="only this one; may be repeated")
    promises = command(promises_command, "promises", pocket)
    promises.add_argument("--work", type=Path, required=True, help="folder for the trainings; finished ones are kept")
    promises.add_argument("--seeds", type=int, default=1, help="trainings a variant (default: 1)")
    promises.add_argument("--variant", action="append", default=[], help="only this one; may be repeated")
    study = command(study_command, "study", pocket)
    study.add_argument("--work", type=Path, required=True, help="folder for the trainings under way")
    out = PROJECT / "docs" / "study"
    study.add_argument("--out", type=Path, default=out, help="folder of the figures; the page is written beside it")
    study.add_argument("--seeds", type=int, default=3, help="trainings a row (default: 3)")
    study.add_argument("--row", action="append", default=[], help="only this one; may be repeated")
    captioner = command(captioner_command, "captioner", pocket)
    captioner.add_argument(
        "--work", type=Path, required=True, help="folder for downloads and checkpoints; can be resumed"
    )
    sheet = command(sheet_command, "sheet", pocket)
    sheet.add_argument("--model", default="pocket", choices=("pocket", "pocket-base"))
    sheet.add_argument("--out", type=Path, required=True, help="folder of the two sheets")
