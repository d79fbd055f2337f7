"""A data set with pictures beside it that the model draws itself, put into the set's colours.

Twenty-four pictures show an art on twenty-four things, and a LoRA learns much of it as theirs. The model's own pictures
of other things, in the set's colours, show what stays the same: the thing, and what becomes of its colours.
"""

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from zit_app.core.errors import ZitError
from zit_app.core.files import replacing, write_atomic
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import TrainSettings
from zit_app.data import index
from zit_app.data.palette import frequent_colours, in_colours
from zit_app.data.pictures import scan_dataset
from zit_app.data.prompts import own_prompts
from zit_app.engine.objective import training_nodes
from zit_app.engine.own_pictures import draw_own_pictures
from zit_app.engine.way_files import OWN
from zit_app.model.loading import find_model, read_flavour

FOLDER = "dataset"


def drawn_from(folder: Path) -> list[str]:
    """The prompts of the own pictures in the run's copy, in their order."""
    return [file.read_text(encoding="utf-8").strip() for file in sorted((folder / OWN).glob("*.txt"))]


def widened(dataset: Path, settings: TrainSettings, model: str | Path, run: Run, progress: Progress) -> Path | None:
    """`dataset/NAME/` of the run: the data set as it is now, and in its `own_pictures/` ``dataset.own_pictures`` more.

    The data set itself is not touched. What was drawn before an interruption stays. None when the run was asked to
    stop. Raises ZitError for a data set without readable pictures and a file without prompts.
    """
    data = settings.dataset
    nodes_N = training_nodes(settings.acrf) if settings.training.protection == "own_ways" else None
    folder = run.folder / FOLDER / dataset.resolve().name
    if not folder.exists():
        if any(Path(item.name).parts[0] == OWN for item in scan_dataset(dataset, index.load_known(dataset)).items):
            raise ZitError(f"{dataset} has a folder {OWN} already.", "Rename it, or set dataset.own_pictures to 0.")
        _copy(dataset, folder)
    prompts = own_prompts(read_flavour(find_model(model)).pixels, data.own_prompts)
    drawn = draw_own_pictures(data.own_pictures, prompts, data.resolution, model, run, progress, nodes_N)
    if drawn is None:
        return None
    lacking = [file for file in sorted(drawn.glob("*.png")) if not (folder / OWN / file.name).exists()]
    colours = _colours(folder, data.own_colors) if lacking and data.own_colors else None
    for file in lacking:
        path = folder / OWN / file.name
        write_atomic(path.with_suffix(".txt"), file.with_suffix(".txt").read_text(encoding="utf-8"))
        with Image.open(file) as picture, replacing(path) as temporary:
            (picture if colours is None else in_colours(picture, colours)).save(temporary, "PNG")
    return folder


def _colours(folder: Path, count: int) -> np.ndarray:
    """Those of the run's copy, which a resume finds as it was, without what is the model's own."""
    scan = scan_dataset(folder)
    items = [item for item in scan.items if Path(item.name).parts[0] != OWN]
    return frequent_colours(items, count, scan.options.background)


def _copy(dataset: Path, folder: Path) -> None:
    """The files of a data set but for its cache, linked where the disk is the same."""
    beside = folder.with_name(f"{folder.name[:200]}.part")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(dataset, beside, ignore=shutil.ignore_patterns(index.CACHE_FOLDER), copy_function=_linked)
    beside.rename(folder)


def _linked(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(source, target)
