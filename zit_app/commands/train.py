"""`zit train`: a LoRA from pictures, or a run that goes on."""

import argparse
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zit_app.commands.words import STOPPED, folder_of_pictures, model_flag, model_name, prompt_lines
from zit_app.core.errors import ZitError
from zit_app.core.flags import WrongUsage
from zit_app.core.lean import importing
from zit_app.core.progress import Progress
from zit_app.core.run import Run, find_run
from zit_app.core.train_settings import TrainJob, job_toml, load_preset, load_train_settings, preset_names
from zit_app.core.workers import card_for_command

PATIENCE = 600.0  # seconds that the other processes wait for the first to make the run


def train_command(arguments: argparse.Namespace) -> int:
    """Train a LoRA, or go on with a run."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return _one_of_many(arguments)
    run = find_run("train", arguments.resume) if arguments.resume else _new_training(arguments)
    progress = Progress(run, arguments.json)

    with importing():
        from zit_app.engine.jobs import train_run

    def stop(number: int, frame: Any) -> None:
        """First Ctrl-C: save a checkpoint and end. A second one ends at once."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run.request(stop=True)
        progress.note("Stopping after this step; once more stops at once.")

    with card_for_command(run.folder, progress.note):
        before = signal.signal(signal.SIGINT, stop)
        try:
            adapter = train_run(run, progress)
        finally:
            signal.signal(signal.SIGINT, before)
    status = run.status()
    words = f"Trained: {adapter}" if adapter else f"Stopped. Go on with: zit train --resume {run.folder}"
    progress.result(words, adapter=adapter, run=run.folder, state=run.state(), step=status.get("step"))
    return 0 if adapter else STOPPED


def _one_of_many(arguments: argparse.Namespace) -> int:
    """What each process does that `accelerate launch … -m zit_app.cli train …` has started: the first one makes the
    run, the others find it in the folder that all of them were given."""
    rank, card = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if not (arguments.out or arguments.resume):
        raise WrongUsage("Under accelerate launch zit train needs --out, a folder that every machine reaches.")
    if arguments.resume:
        run = find_run("train", arguments.resume)
    elif rank == 0:
        run = _new_training(arguments)
    else:
        run = _awaited(arguments.out, _job(arguments)[1])

    with importing():
        from zit_app.engine.train import resume

    progress = Progress(run if rank == 0 else None, arguments.json)
    with card_for_command(run.folder, progress.note, card):
        adapter = resume(run, progress)
    if rank == 0:
        words = f"Trained: {adapter}" if adapter else "Stopped. Go on with the same words and --resume."
        progress.result(words, adapter=adapter, run=run.folder, state=run.state(), step=run.status().get("step"))
    return 0 if adapter else STOPPED


def _awaited(folder: Path, settings: str) -> Run:
    """The run with these settings, once the first process has made it."""
    file, patience = folder / "settings.toml", time.monotonic() + PATIENCE
    while not file.is_file() or file.read_text(encoding="utf-8") != settings:
        if time.monotonic() > patience:
            raise ZitError(f"No run with these settings came to be in {folder}.", "See what the first process said.")
        time.sleep(0.2)
    return Run.open(folder)


def add(command: Callable[..., Any]) -> None:
    """Register the command; ``command(function, name)`` is the parser's."""
    parser = command(train_command, "train")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", metavar="NAME", help=", ".join(preset_names()))
    source.add_argument("--config", metavar="FILE", type=Path, help="settings as TOML")
    source.add_argument("--resume", metavar="RUN", help="folder or name of a run to go on with")
    parser.add_argument("--dataset", type=Path, help="folder of pictures and captions")
    parser.add_argument(
        "--prompts", metavar="FILE", type=Path, help="prompts, one a line, for presets that need no pictures"
    )
    model_flag(parser, required=False)
    parser.add_argument(
        "--set", metavar="TABLE.KEY=VALUE", action="append", default=[], help="change one setting; may be repeated"
    )
    parser.add_argument("--name", help="name of the run; default: the dataset's")
    parser.add_argument("--out", type=Path, help="run folder; default: a new one under the home folder")


def _new_training(arguments: argparse.Namespace) -> Run:
    name, settings = _job(arguments)
    return Run.create("train", name, settings, arguments.out)


def _job(arguments: argparse.Namespace) -> tuple[str, str]:
    """The name of the training and its frozen input."""
    if not (arguments.preset or arguments.config):
        raise WrongUsage("zit train needs --preset or --config. See zit train --help.")
    if arguments.preset:
        settings = load_preset(arguments.preset, arguments.set)
    else:
        settings = load_train_settings(arguments.config, arguments.set)
    source = "prompts" if settings.dataset.drawn else "dataset"
    missing = [f"--{name}" for name in (source, "model") if getattr(arguments, name) is None]
    if missing:
        raise WrongUsage(f"zit train needs {' and '.join(missing)}. See zit train --help.")
    preset, prompts = arguments.preset or str(arguments.config), ""
    if settings.dataset.drawn:
        prompt_lines(arguments.prompts)  # an error now and not after the model was loaded
        prompts, dataset = str(arguments.prompts.absolute()), ""
    else:
        dataset = str(folder_of_pictures(arguments.dataset))
    job = TrainJob(model_name(arguments.model), dataset, preset, prompts)
    name = arguments.name or (Path(dataset).name if dataset else Path(preset).stem)
    return name, job_toml(settings, job)
