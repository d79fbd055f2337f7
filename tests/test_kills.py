"""SIGKILLs at random moments, to the app's process or to the worker: nothing is lost, nothing is half."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import tomlkit
import tomlkit.exceptions
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from tests.busy_app import STEPS
from tests.test_cache import make_dataset
from tests.test_queue import wait_for
from zit_app.core import paths, process, workers
from zit_app.service import runs

# Each kill costs a start of torch: 20 with ZIT_KILLS=20; by default one of the app and one of the worker.
KILLS, SEED = int(os.environ.get("ZIT_KILLS", "2")), 20261120
# Who is killed, and whether in the middle of the worker's work; otherwise mostly while it loads its libraries.
SORTS = (("worker", True), ("app", False), ("app", True), ("worker", False))
PATIENCE = 1800.0

pytestmark = pytest.mark.usefixtures("own_workers")


def test_kills_lose_nothing(home: Path, tmp_path: Path, tiny_model: Path) -> None:
    rng, ledger = random.Random(SEED), tmp_path / "ledger"
    kills = [SORTS[number % len(SORTS)] for number in range(KILLS)]
    rng.shuffle(kills)
    given = [tiny_model, make_dataset(tmp_path / "data"), ledger]
    command = [sys.executable, "-m", "tests.busy_app", *map(str, given)]
    with (tmp_path / "app.log").open("w+") as log:

        def start(*words: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen([*command, *words], stdout=log, stderr=log, cwd=paths.PROJECT)

        def until(true: Callable[[], object]) -> None:
            wait_for(lambda: true() or app.poll() is not None, PATIENCE)
            assert app.poll() is None, Path(log.name).read_text()

        app = start("0")
        try:
            for number, (victim, at_work) in enumerate(kills):
                before, said = progress(), size(ledger)
                until(lambda said=said: size(ledger) > said and workers.record(0))  # type: ignore[misc]
                if at_work:
                    until(lambda before=before: progress() != before)  # type: ignore[misc]
                time.sleep(rng.random() * 0.2)
                if victim == "app":
                    app.kill()
                    app.wait()
                    app = start(str(number + 1))
                else:
                    kill_worker()
            app.kill()
            app.wait()
            app = start("0", "finish")
            until(lambda: all(view.state in ("done", "failed") for view in runs.list_runs()))
        finally:
            app.kill()
            app.wait()
    assert [runs.log_tail(view.folder) for view in runs.list_runs() if view.state == "failed"] == []
    assert_kept([json.loads(line) for line in ledger.read_text().splitlines() if line.endswith("]")])
    for view in runs.list_runs("train"):
        assert view.adapter and [line["step"] for line in runs.metrics(view.folder)] == list(range(1, STEPS + 1))
    for view in runs.list_runs("generate"):
        assert len(view.pictures) == 2
    assert [file for file in home.rglob("*") if file.is_file() and not is_whole(file)] == []


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def progress() -> int:
    """Changes with every step and every picture."""
    shelf = paths.home() / "runs"
    return sum(size(file) for file in shelf.glob("train/*/metrics.jsonl")) + len(list(shelf.glob("generate/*/*.png")))


def kill_worker() -> None:
    record = workers.record(0)
    if record is not None:  # it may have ended just now
        os.kill(record["pid"], signal.SIGKILL)
        wait_for(lambda: process.started(record["pid"]) != record["started"])


def assert_kept(promises: list[list[str]]) -> None:
    """What was done stays done; of captions the last one counts, or the next, whose note the kill prevented."""
    kinds = Counter(kind for kind, *_ in promises)
    assert min(kinds[kind] for kind in ("run", "picture", "caption")) >= 3, kinds
    for kind, file, *_ in promises:
        assert Path(file).exists(), kind
    written = {file: text[0] for kind, file, *text in promises if kind == "caption"}
    unnoted = [file for file, text in written.items() if Path(file).read_text() != f"{text}\n"]
    assert len(unnoted) <= KILLS and all(Path(file).read_text().startswith("caption 0.") for file in unnoted)


def is_whole(file: Path) -> bool:
    """Whether a file can be read to its end. Names with a dot are what a killed process had begun beside the real."""
    if any(part.startswith(".") for part in file.relative_to(paths.home()).parts):
        return True
    try:
        match file.suffix:
            case ".json":
                json.loads(file.read_text())
            case ".jsonl":
                [json.loads(line) for line in file.read_text().splitlines()]
            case ".toml":
                tomlkit.parse(file.read_text())
            case ".safetensors":
                load_file(file)
            case ".png" | ".jpg":
                Image.open(file).load()
            case ".txt":
                return bool(file.read_text())
    except (ValueError, OSError, SafetensorError, tomlkit.exceptions.ParseError):
        return False
    return True
