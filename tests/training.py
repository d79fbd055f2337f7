"""A small training for tests: a run on the tiny model, run here or in a process of its own."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from zit_app.core import queue
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import TrainJob, TrainSettings, job_toml
from zit_app.model.adapter_files import save_adapter
from zit_app.model.adapters import attach_lora, lora_state
from zit_app.model.loading import load_transformer
from zit_app.service import worker


def new_run(folder: Path, settings: TrainSettings, dataset: Path, model: Path, preset: str = "") -> Run:
    """A queued run as the command line makes it."""
    return Run.create("train", "small", job_toml(settings, TrainJob(str(model), str(dataset), preset)), folder)


def made_lora(model: Path, file: Path, rank: int = 4, alpha: float = 4.0, kind: str = "lora") -> Path:
    """An adapter for a model that changes what it draws."""
    transformer = load_transformer(model, torch.device("cpu"), torch.float32)
    attach_lora(transformer, rank, alpha, kind=kind)
    generator = torch.Generator().manual_seed(7)
    state = {
        name: weight if weight.any() else 0.1 * torch.randn(weight.shape, generator=generator)
        for name, weight in lora_state(transformer).items()
    }
    save_adapter(file, state, rank, alpha, {})
    return file


def trained(run: Run, step: int) -> dict[str, Tensor]:
    """All tensors of a checkpoint: weights, moments, random state."""
    folder = run.folder / "checkpoints" / f"step_{step:06d}"
    return {
        f"{name} {key}": tensor.clone()  # the file is only mapped; a test may damage it
        for name in ("lora", "optimizer", "random")
        for key, tensor in load_file(folder / f"{name}.safetensors").items()
    }


def assert_identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def end_workers() -> None:
    """Take what waits out of the queue of this home, and end its workers."""
    for run in queue.order():
        queue.cancel(run)
    for card in worker.cards():
        worker.end_worker(card)


class At(Progress):
    """Does something when a step of the training is done, in the training's own process."""

    def __init__(self, run: Run, step: int, then: Callable[[], object]) -> None:
        super().__init__(run)
        self.at, self.then = step, then
        self._trains = False

    def stage(self, text: str) -> None:
        super().stage(text)
        self._trains = text.startswith("Training")

    def step(self, done: int, total: int, **figures: float) -> None:
        super().step(done, total, **figures)
        if self._trains and done == self.at:
            self.then()


def stop_at(run: Run, step: int) -> Progress:
    """Asks the run to stop when a step is done, as an owner would."""
    return At(run, step, lambda: run.request(stop=True))


if __name__ == "__main__":  # FOLDER THREADS STEP: work on a run, and wait after that step to be killed
    from zit_app.engine.train import resume

    torch.set_num_threads(int(sys.argv[2]))
    torch.set_flush_denormal(True)
    own = Run.open(Path(sys.argv[1]))
    resume(own, At(own, int(sys.argv[3]), threading.Event().wait))
