"""One process or many, the same training: accelerate's Accelerator, and how work is shared out and put together.

Every process makes all random draws of the whole batch and computes its share of the pictures, so that P processes
with batches of B give the gradients of one process with batches of P·B. Gradients are summed once a step, not layer by
layer as torch's DistributedDataParallel does: those of a LoRA are small, and a short batch may leave a process without
a picture. Only the main process writes into the run folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from torch import Tensor

from zit_app.core.errors import ZitError
from zit_app.core.run import Run
from zit_app.core.train_settings import TRACKERS
from zit_app.model.loading import default_device, default_dtype

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
PATIENCE = timedelta(hours=24)  # the others wait while the main process fills a cache or draws previews


def new_accelerator(compute: str, tracker: str = "none", folder: Path | None = None) -> Accelerator:
    """An Accelerator for a training's number format (``auto``, ``bf16`` or ``fp32``); a tracker writes to ``folder``.

    accelerate keeps one format a process; the format of an earlier training in this process is forgotten.
    """
    device = default_device()
    dtype = DTYPES.get(compute, default_dtype(device))
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision="bf16" if dtype == torch.bfloat16 else "no",
        cpu=device.type == "cpu",
        log_with=tracker if tracker_installed(tracker) else None,
        project_dir=folder,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )


def start_tracker(accelerator: Accelerator, tracker: str) -> None:
    """Raises ZitError when the tracker that the settings name is not installed."""
    if tracker != "none" and not tracker_installed(tracker):
        package = TRACKERS[tracker]
        raise ZitError(f"{package} is not installed.", f"Install it with: uv pip install {package}, or use none.")
    if tracker != "none":
        accelerator.init_trackers("zit_studio")


def tracker_installed(tracker: str) -> bool:
    """Whether accelerate can report to it here."""
    return tracker in [known.value for known in get_available_trackers()]


def own_share(accelerator: Accelerator, count: int) -> slice:
    """Which of ``count`` samples this process computes; none when there are fewer samples than processes."""
    size = -(-count // accelerator.num_processes)
    return slice(accelerator.process_index * size, (accelerator.process_index + 1) * size)


def add_up(accelerator: Accelerator, weights: Sequence[torch.nn.Parameter], figures: Tensor) -> Tensor:
    """Sum gradients (in place) and ``figures`` over all processes; returns the figures."""
    if accelerator.num_processes > 1:
        grads = [weight.grad if weight.grad is not None else torch.zeros_like(weight) for weight in weights]
        summed: Any = accelerator.reduce(torch.cat([grad.flatten() for grad in grads]), "sum")
        for weight, part in zip(weights, summed.split([weight.numel() for weight in weights]), strict=True):
            weight.grad = part.view_as(weight)
        added: Tensor = accelerator.reduce(figures.to(accelerator.device), "sum")
        return added
    return figures


def asked_of_all(accelerator: Accelerator, asked: Sequence[bool]) -> list[bool]:
    """The main process's answers, in every process: a request that only one has seen would leave the others waiting."""
    if accelerator.num_processes == 1:
        return list(asked)
    own = torch.tensor([float(one and accelerator.is_main_process) for one in asked], device=accelerator.device)
    answers: Any = accelerator.reduce(own, "sum")
    return [bool(one) for one in answers.tolist()]


def told_to_all(accelerator: Accelerator, figures: dict[str, float]) -> dict[str, float]:
    """The main process's figures, in every process: what only one has measured must not lead them apart."""
    if accelerator.num_processes == 1:
        return figures
    return dict(broadcast_object_list([figures])[0])


def flat(figures: Mapping[str, Any], above: str = "") -> dict[str, float]:
    """Figures within figures as a tracker takes them: {"health": {"recall": 1.0}} → {"health/recall": 1.0}."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        found |= flat(value, f"{above}{name}/") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


class Onlooker(Run):
    """The run as a process sees it that must not write into its folder; it reads what is asked of the run."""

    @contextmanager
    def working(self) -> Iterator[None]:
        """The main process holds the lock and keeps the phase."""
        yield

    def write_status(self, phase: str, **fields: Any) -> None:
        """Left to the main process."""

    def cut_metrics(self, step: int) -> None:
        """Left to the main process."""

    def append_metrics(self, **fields: Any) -> None:
        """Left to the main process."""

    def log(self, text: str) -> None:
        """Left to the main process."""
