"""`zit import`: a product catalogue as a dataset."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zit_app.core.progress import Progress


def import_command(arguments: argparse.Namespace) -> None:
    """Bring in a catalogue (JSONL, CSV or HDF5): descriptions cleaned, views together, categories kept."""
    from zit_app.core import paths
    from zit_app.data.catalogue import bring, entries
    from zit_app.service.datasets import folder_name

    name = folder_name(arguments.name or arguments.catalogue.stem)
    folder = arguments.out or paths.home() / "datasets" / name
    progress = Progress(as_json=arguments.json)
    progress.stage(f"Bringing pictures into {folder}")

    def told(done: int) -> None:
        if done % 1000 == 0:
            progress.note(f"  {done}")

    found = entries(arguments.catalogue, arguments.pictures)
    brought = bring(found, folder, frozenset(arguments.category), told)
    words = [f"{brought.added} pictures of {brought.items} items in {folder}"]
    words += [f"  {count:>7}  {category or 'no category'}" for category, count in brought.categories.items()]
    words += [f"Left out {where}: {reason}" for where, reason in brought.skipped[:20]]
    progress.result(
        "\n".join(words),
        folder=folder,
        added=brought.added,
        items=brought.items,
        categories=brought.categories,
        skipped=[{"where": where, "reason": reason} for where, reason in brought.skipped],
    )


def add(command: Callable[..., Any]) -> None:
    """Register the command; ``command(function, name)`` is the parser's."""
    parser = command(import_command, "import")
    parser.add_argument("catalogue", type=Path, help=".jsonl, .csv, .h5 or .hdf5 file")
    parser.add_argument("--pictures", type=Path, help="folder of a table's picture files (default: the table's own)")
    parser.add_argument("--name", help="name of the dataset (default: the file's)")
    parser.add_argument("--category", action="append", default=[], help="only this category; may be repeated")
    parser.add_argument("--out", type=Path, help="folder to write into (default: under the home folder)")
