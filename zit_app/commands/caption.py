"""`zit caption`: what each picture of a dataset shows, written beside it."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zit_app.commands.words import STOPPED, folder_of_pictures
from zit_app.core.caption_settings import CaptionSettings, caption_toml
from zit_app.core.captioners import ENDPOINTS, check_endpoint, find_captioner
from zit_app.core.flags import WrongUsage, fields, setting_flag
from zit_app.core.lean import importing
from zit_app.core.progress import Progress
from zit_app.core.run import Run, find_run
from zit_app.core.workers import card_for_command

_FLAGS = (
    "captioner", "endpoint", "endpoint_model", "trigger", "style_of_prompt", "language", "max_tokens", "side",
    "batch_size", "patience",
)  # fmt: skip


def caption_command(arguments: argparse.Namespace) -> int:
    """Describe pictures: NAME.txt beside each that has no caption of yours."""
    run = find_run("caption", arguments.resume) if arguments.resume else _new(arguments)

    with importing():
        from zit_app.engine.jobs import caption_run

    progress = Progress(run, arguments.json)
    with card_for_command(run.folder, progress.note):
        done = caption_run(run, progress)
    words = done.summary if done.complete else f"{done.summary} Go on with: zit caption --resume {run.folder}"
    progress.result(
        words,
        written=done.written,
        current=done.current,
        kept=done.kept,
        skipped=[{"name": name, "reason": why} for name, why in done.skipped],
        run=run.folder,
    )
    return 0 if done.complete else STOPPED


def _new(arguments: argparse.Namespace) -> Run:
    if arguments.dataset is None:
        raise WrongUsage("zit caption needs a folder of pictures. See zit caption --help.")
    dataset = folder_of_pictures(arguments.dataset)
    given = {name: getattr(arguments, name) for name in _FLAGS}
    if given["captioner"] in ENDPOINTS:
        given["endpoint"] = check_endpoint(given["endpoint"])
    elif given["captioner"] != "auto":
        found = find_captioner(given["captioner"])
        if os.path.isdir(given["captioner"]):
            given["captioner"] = str(found.absolute())
    settings = CaptionSettings(dataset=str(dataset), overwrite=arguments.overwrite, **given)
    return Run.create("caption", arguments.dataset.name, caption_toml(settings))


def add(command: Callable[..., Any]) -> None:
    """Register the command; ``command(function, name)`` is the parser's."""
    parser = command(caption_command, "caption")
    parser.add_argument("dataset", type=Path, nargs="?", help="folder of pictures")
    known = fields(CaptionSettings)
    for name in _FLAGS:
        setting_flag(parser, known[name])
    parser.add_argument("--overwrite", action="store_true", help=known["overwrite"].help)
    parser.add_argument("--resume", metavar="RUN", help="folder or name of a captioning run to go on with")
