"""Pictures that the model draws itself, as a data set: what a training adapter is made of."""

import dataclasses
from pathlib import Path

import torch

from zit_app.core.files import write_atomic
from zit_app.core.generate_settings import GenerateSettings
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.data.prompts import read_prompts
from zit_app.data.wildcards import resolved
from zit_app.engine.generate import draw
from zit_app.engine.plan import Shot, make_plan
from zit_app.engine.warm import Warm
from zit_app.engine.way_files import Way, own_file
from zit_app.model.loading import default_device, find_model, read_flavour, read_limits

FOLDER = "pictures"


def draw_own_pictures(
    count: int,
    prompts_file: Path,
    side: int,
    model: str | Path,
    run: Run,
    progress: Progress,
    nodes_N: torch.Tensor | None = None,
) -> Path | None:
    """Fill `pictures/` of the run with ``count`` pictures and their captions; picture i is prompt i, seed i.

    ``side`` in pixels, 0 = the model's own. Prompts are gone through again and again. What was drawn before an
    interruption stays. With ``nodes_N`` they are drawn at those, and the way to each is kept beside. Returns the
    folder, None when the run was asked to stop. Raises ZitError for a file without prompts.
    """
    model_folder, folder = find_model(model), run.folder / FOLDER
    known = read_prompts(prompts_file)
    side = side // 16 * 16
    sigmas = () if nodes_N is None else tuple(nodes_N.tolist())
    settings = GenerateSettings(prompts=tuple(known), width=side, height=side, sigmas=sigmas)
    plan = make_plan(settings, read_flavour(model_folder), read_limits(model_folder), default_device())
    shots, paths = [], []
    for i in range(count):
        path = folder / f"{i:06d}.png"
        if not path.exists():
            prompt = resolved(known[i % len(known)], i)
            write_atomic(path.with_suffix(".txt"), prompt + "\n")
            shots.append(Shot(prompt, i))
            paths.append(path)
    if not shots:
        return folder
    plan = dataclasses.replace(plan, shots=tuple(shots))

    def keep(shot: Shot, states_MCHW: torch.Tensor) -> None:
        Way.along(states_MCHW, plan.sigmas).write(own_file(run.folder, shot.seed))

    drawn = draw(plan, settings, model_folder, [], paths, progress, Warm(), None if nodes_N is None else keep)
    return folder if drawn == len(shots) else None
