"""Shared fixtures. Two threads at most and no denormals: random weights run into them and slow down tenfold."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from zit_app.core.quiet import quiet

if TYPE_CHECKING:
    from diffusers import ZImagePipeline

    from tests.browsing import App

quiet()  # before the libraries are imported that talk
gc.disable()  # until all are imported

# A file is the work of one process: the longest come first, or one of them would be left to run alone at the end.
LONGEST_FIRST = (
    "test_app_train_browser.py", "test_train_parallel.py", "test_app_browser.py", "test_worker.py",
    "test_app_generate_browser.py", "test_app_dataset.py", "test_guest_browser.py", "test_pocket.py", "test_kills.py",
    "test_teach.py", "test_app_look_browser.py", "test_train.py", "test_train_settings.py", "test_cli.py",
    "test_omni.py", "test_caption.py", "test_sharing.py", "test_launch.py", "test_train_protection.py", "test_serve.py",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Warnings of our own code are shown, those of libraries are not ours to heed."""
    for library in ("torch", "diffusers", "transformers", "peft", "torchao", "bitsandbytes", "accelerate"):
        config.addinivalue_line("filterwarnings", rf"ignore:::{library}(\.|$)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; the order within a file and of all others stays."""
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_collection_finish() -> None:
    """As in the program itself (`zit_app.core.lean.importing`): libraries and tests are no garbage."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def quiet_torch() -> None:
    """Few threads, no denormals; one thread where test files run side by side."""
    import torch

    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, torch.get_num_threads()))
    torch.set_flush_denormal(True)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One random-weight model folder for the whole session. Read only."""
    from tests.tiny import make_tiny_model

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

    from tests.training import end_workers

    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    yield
    end_workers()


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_model: Path) -> "ZImagePipeline":
    """diffusers' own pipeline on the small model: what we are compared with. Read only."""
    from diffusers import ZImagePipeline

    pipeline = ZImagePipeline.from_pretrained(tiny_model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser; the tests of a file share it."""
    from tests.browsing import a_browser

    with a_browser() as found:
        yield found


@pytest.fixture(scope="module")
def app(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator["App"]:
    """The app, opened for the first time; the tests of a file share it."""
    from tests.browsing import App

    running = App(tmp_path_factory.mktemp("app"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def filled_app(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator["App"]:
    """The app of somebody who has trained, drawn and compared with it."""
    from tests.app_content import fill
    from tests.browsing import App

    home = tmp_path_factory.mktemp("filled_app")
    fill(home)
    running = App(home)
    yield running
    running.close()
