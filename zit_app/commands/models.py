"""`zit models …`: which models are here, and getting those that are not."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zit_app.core.checkpoints import describe_file
from zit_app.core.generate_settings import PRECISIONS
from zit_app.core.models import PARTS, find_model, list_models
from zit_app.core.progress import Progress
from zit_app.core.workers import card_for_command

STOPPED = 130
PROMPTS = (
    "3d emoji, red apple, centered, white background",
    "flat emoji, cat face, centered, white background",
    "classic emoji, pizza, centered, white background",
    "扁平表情，红苹果，居中，白色背景",
)


def list_command(arguments: argparse.Namespace) -> None:
    """Show which models are here."""
    models = list_models()
    lines = [f"{model.name:<14} {'ready' if model.ready else 'not here':<9} {model.path}" for model in models]
    Progress(as_json=arguments.json).result("\n".join(lines), models=[vars(model) for model in models])


def download_command(arguments: argparse.Namespace) -> int:
    """Download a model, or what is missing of it; can be interrupted and started again at any time."""
    from zit_app.service.downloads import DownloadSettings, create, download

    settings = DownloadSettings(arguments.name, arguments.source, arguments.endpoint, tuple(arguments.without))
    run = create(settings)
    progress = Progress(run, arguments.json)
    folder = download(run, progress)
    words = f"{folder} is whole." if folder else "Stopped; the same command goes on."
    progress.result(words, folder=folder, run=run.folder)
    return 0 if folder else STOPPED


def inspect_command(arguments: argparse.Namespace) -> None:
    """Say what a checkpoint file is, from its head alone."""
    found = describe_file(arguments.file)
    Progress(as_json=arguments.json).result(found.words, what=found.words, layout=found.layout, format=found.format)


def add_command(arguments: argparse.Namespace) -> None:
    """Make a single-file transformer a model with a name; the file stays where it is."""
    folder = find_model(arguments.file)
    Progress(as_json=arguments.json).result(f"Known as {folder.name}.", name=folder.name, folder=folder)


def precision_command(arguments: argparse.Namespace) -> None:
    """Measure size, time and error of a model in every number format that works here."""
    from zit_app.engine.precision_table import known_kinds, precision_table, table_words
    from zit_app.model.loading import default_device

    progress = Progress(as_json=arguments.json)
    kinds = arguments.format or known_kinds(default_device())
    with card_for_command(None, progress.note):
        rows = precision_table(find_model(arguments.model), arguments.prompt or PROMPTS, kinds, progress)
    progress.result(table_words(rows), rows=rows)


def add(command: Callable[..., Any], group: Callable[[str, str], Any]) -> None:
    """Register the commands; ``command(function, name, group)`` and ``group(name, about)`` are the parser's."""
    models = group("models", "Model files.")
    command(list_command, "list", models)
    command(inspect_command, "inspect", models).add_argument("file", type=Path, help=".safetensors or .gguf file")
    command(add_command, "add", models).add_argument("file", type=Path, help=".safetensors or .gguf file")
    precision = command(precision_command, "precision", models)
    precision.add_argument("--model", metavar="M", default="pocket", help="name, folder or file (default: pocket)")
    precision.add_argument("--format", action="append", choices=("bf16", *PRECISIONS[3:]), help="may be repeated")
    precision.add_argument("--prompt", action="append", help="may be repeated (default: four emoji)")
    download = command(download_command, "download", models)
    download.add_argument(
        "name", help="turbo, base, OWNER/NAME of another Z-Image in diffusers' layout, or a captioner (qwen3-vl-4b …)"
    )
    download.add_argument(
        "--source", choices=("hub", "modelscope"), default="hub", help="Hugging Face's hub (default) or ModelScope"
    )
    download.add_argument("--endpoint", metavar="URL", default="", help="a mirror of the source")
    download.add_argument(
        "--without",
        metavar="PART",
        choices=PARTS,
        action="append",
        default=[],
        help="leave a part out, such as transformer when you have a single-file one; may be repeated",
    )
