"""Shared fixtures. Two threads at most and no denormals: random weights run into them and slow down tenfold."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tiny import make_tiny_model
from zit_app.core import queue
from zit_app.core.quiet import quiet
from zit_app.service import worker

if TYPE_CHECKING:
    from diffusers import ZImagePipeline

quiet()  # before the libraries are imported that talk


def pytest_configure(config: pytest.Config) -> None:
    """Warnings of our own code are shown, those of libraries are not ours to heed."""
    for library in ("torch", "diffusers", "transformers", "peft", "torchao", "bitsandbytes", "accelerate"):
        config.addinivalue_line("filterwarnings", rf"ignore:::{library}(\.|$)")


@pytest.fixture(scope="session", autouse=True)
def quiet_torch() -> None:
    """Few threads, no denormals; one thread where test files run side by side."""
    import torch

    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, torch.get_num_threads()))
    torch.set_flush_denormal(True)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One random-weight model folder for the whole session. Read only."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder of its own for one test."""
    folder = tmp_path / "home"
    monkeypatch.setenv("ZIT_HOME", str(folder))
    return folder


@pytest.fixture
def own_workers(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers compute with as many threads as this process, and end with the test."""
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    yield
    for run in queue.order():
        queue.cancel(run)
    for card in worker.cards():
        worker.end_worker(card)


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_model: Path) -> "ZImagePipeline":
    """diffusers' own pipeline on the small model: what we are compared with. Read only."""
    from diffusers import ZImagePipeline

    pipeline = ZImagePipeline.from_pretrained(tiny_model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
