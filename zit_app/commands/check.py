"""`zit check`: the health of a dataset's pictures and captions."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zit_app.commands.words import existing_folder
from zit_app.core.errors import ZitError
from zit_app.core.flags import WrongUsage
from zit_app.core.models import find_model, read_flavour
from zit_app.core.progress import Progress
from zit_app.core.workers import card_for_command

READ_OUT = 3  # lines of what stands in a picture


def check_command(arguments: argparse.Namespace) -> None:
    """Look for pictures and captions that would hurt a training."""
    from zit_app.data.health.report import Report, check

    folder: Path = arguments.dataset
    if not folder.is_dir():
        raise ZitError(f"There is no folder {folder}.", "Check the path.")
    pixels = arguments.resolution or (read_flavour(find_model(arguments.model)).pixels if arguments.model else 1024)
    progress = Progress(as_json=arguments.json)
    if arguments.aesthetic and not arguments.clip:
        raise WrongUsage("--aesthetic needs --clip: it rates what that CLIP sees.")
    if arguments.clip:
        from zit_app.engine.opinions import form_opinions

        with card_for_command(None, progress.note):
            form_opinions(folder, existing_folder(arguments.clip), arguments.aesthetic, progress)
    report: Report = check(folder, pixels)
    progress.result(_words(report), **report.as_json())


def add(command: Callable[..., Any]) -> None:
    """Register the command; ``command(function, name)`` is the parser's."""
    parser = command(check_command, "check")
    parser.add_argument("dataset", type=Path, help="folder of pictures and captions")
    parser.add_argument("--model", metavar="M", help="model that will be trained: its size decides what is small")
    parser.add_argument("--resolution", type=int, default=0, help="pixels to train at (default: the model's, or 1024)")
    parser.add_argument(
        "--clip", metavar="FOLDER", type=Path, help="CLIP or SigLIP that is asked whether captions fit their pictures"
    )
    parser.add_argument(
        "--aesthetic", metavar="FILE", type=Path, help="safetensors file with an aesthetic predictor for that CLIP"
    )


def _words(report: Any) -> str:
    """Each picture with its flags, then what to do about each flag, once however many pictures have it."""
    from zit_app.data.health.report import ADVICE

    lines = []
    for one in report.pictures:
        names = {flag: flag.replace("_", " ") for flag in one.flags}
        if one.duplicate_of:
            names["duplicate_of"] += f" {_shown(one.duplicate_of)}"
        if names:
            lines.append(f"{_shown(one.file)}: {', '.join(names.values())}")
        if "writing" in one.flags:
            more = f" … ({len(one.writing)} lines)" if len(one.writing) > READ_OUT else ""
            lines.append(f"    It reads: {' / '.join(one.writing[:READ_OUT])}{more}")
    lines += [f"{_shown(name)}: not used, {reason}" for name, reason in report.unreadable]
    found = report.set
    healthy = sum(not one.flags for one in report.pictures)
    lines.append(f"{found['count']} pictures, {healthy} without a flag; {found['unreadable']} files not used.")
    counts = sorted(found["flags"].items(), key=lambda one: -one[1])
    lines += [
        f"{flag.replace('_', ' ')} ({count}): {ADVICE[flag].format(other='the one named')}" for flag, count in counts
    ]
    return "\n".join([*lines, *found["advice"]])


def _shown(name: str) -> str:
    """A file name on one line of a terminal."""
    return name if name.isprintable() else repr(name)
