"""`zit cache`: pictures and captions encoded once."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zit_app.commands.words import STOPPED, folder_of_pictures, model_flag, model_name
from zit_app.core.cache_settings import CacheSettings, cache_toml
from zit_app.core.flags import fields, setting_flag
from zit_app.core.lean import importing
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.workers import card_for_command

FLAGS = (
    "resolution", "further_resolutions", "enable_bucket", "max_sequence_length", "batch_size", "only", "trigger_word",
)  # fmt: skip


def cache_command(arguments: argparse.Namespace) -> int:
    """Encode pictures and captions once, before training."""
    settings = CacheSettings(
        dataset=str(folder_of_pictures(arguments.dataset)),
        model=model_name(arguments.model),
        **{name: getattr(arguments, name) for name in FLAGS},
    )

    with importing():
        from zit_app.engine.cache import cache_run

    run = Run.create("cache", arguments.dataset.name, cache_toml(settings))
    progress = Progress(run, arguments.json)
    with card_for_command(run.folder, progress.note):
        cache = cache_run(run, progress)
    skipped = [{"name": entry.name, "reason": entry.reason} for entry in cache.skipped]
    progress.result(
        cache.summary,
        pictures=cache.pictures,
        built_latents=cache.built_latents,
        built_texts=cache.built_texts,
        skipped=skipped,
        run=run.folder,
    )
    return 0 if cache.complete else STOPPED


def add(command: Callable[..., Any]) -> None:
    """Register the command; ``command(function, name)`` is the parser's."""
    parser = command(cache_command, "cache")
    parser.add_argument("dataset", type=Path, help="folder of pictures and captions")
    model_flag(parser, required=True)
    for name in FLAGS:
        setting_flag(parser, fields(CacheSettings)[name])
