"""Does a training on more pictures take more memory, or more time a step? (Report §8.3.) Linux tells the memory.

Each training is a process of its own, because the peak of a process never falls again.
"""

import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import torch

from zit_app.core import paths
from zit_app.core.quiet import quiet
from zit_app.core.run import Run
from zit_app.core.train_settings import load_train_settings
from zit_app.engine.pocket import teach
from zit_app.engine.pocket.questions import Questions
from zit_app.engine.pocket.study.rows import COMMON
from zit_app.engine.pocket.styles import COMPUTED

SIZES = (50, 100, 200)  # pictures, as in the report
STEPS, REPEATS = 40, 3
Sizes = dict[str, dict[str, dict[str, float]]]  # pictures, repeat, figure


def measure_sizes(questions: Questions, style: str, work: Path, note: Callable[[str], None] = print) -> Sizes:
    """``peak, MB`` of the training's process and ``seconds a step`` (median), by number of pictures and repeat.

    The pictures are encoded by another process before, as a run that goes on finds them.
    """
    folder = work / "size"
    found: Sizes = {label(count): {} for count in SIZES}
    datasets = {count: _pictures(questions, style, count, work / f"pictures_{count}") for count in SIZES}
    for dataset in datasets.values():
        _alone(dataset, folder, 1)
    for repeat in range(REPEATS):
        for count, dataset in datasets.items():
            found[label(count)][str(repeat)] = figures = _alone(dataset, folder, STEPS)
            note(f"{label(count)}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    return found


def label(count: int) -> str:
    """What the row of so many pictures is called."""
    return f"{count} pictures"


def _pictures(questions: Questions, style: str, count: int, folder: Path) -> Path:
    """``count`` of the 200 concepts in the computed style, with their captions; spread, as neighbours have captions of
    like length."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(0, len(questions.flat), len(questions.flat) // count):
        concept = questions.pairs.concepts[i]
        COMPUTED[style](questions.flat[i]).save(folder / f"{concept.key}.png")
        (folder / f"{concept.key}.txt").write_text(teach.prompt(concept.en) + "\n", encoding="utf-8")
    return folder


def _alone(dataset: Path, folder: Path, steps: int) -> dict[str, float]:
    """`_trained` in a process of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), quiet) as process:
        return process.submit(_trained, dataset, folder, steps, torch.get_num_threads()).result()


def _trained(dataset: Path, folder: Path, steps: int, threads: int) -> dict[str, float]:
    """Train, and say what that took this process."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    changes = [*COMMON, f"training.max_steps={steps}", "training.held_out=0"]
    teach.teach(dataset, load_train_settings(paths.assets() / "demo" / "train.toml", changes), folder)
    seconds = [one["seconds"] for one in Run.open(folder).metrics() if "seconds" in one]
    # Not getrusage: what it calls the peak begins with that of the process which started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {"peak, MB": peak / 1024, "seconds a step": median(seconds)}
