"""The worker as a real process on the tiny model: killed, stopped, handed over to; no run is lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.small import small_settings
from tests.test_cache import make_dataset
from tests.test_queue import wait_for
from tests.training import assert_identical, end_workers, new_run, stop_at, trained
from zit_app.core import queue, workers
from zit_app.core.compare_settings import CompareSettings, Variant
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import GenerateSettings
from zit_app.core.run import Run
from zit_app.engine.train import resume
from zit_app.service import runs, worker

PATIENCE = 900.0  # seconds: a worker imports torch first, and CI machines are busy


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for all of these tests: what a test leaves of a warm worker takes the runs of the next."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZIT_HOME", str(folder))
        patch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
        yield folder
        end_workers()


# The app's process: queues a training and then waits, as a server does.
APP = """
import sys, time
from pathlib import Path
from zit_app.core.train_settings import load_job
from zit_app.service.runs import submit_train
settings, job = load_job(Path(sys.argv[1]))
print(submit_train(settings, Path(job.dataset), job.model, "mine").folder, flush=True)
time.sleep(600)
"""


def steps(run: Run) -> int:
    return len(run.metrics())


def ended(run: Run) -> bool:
    return run.state() in ("done", "failed", "stopped")


def until(true: Callable[[], object], run: Run) -> None:
    """Wait, but not for a run that has failed."""
    wait_for(lambda: true() or run.state() == "failed", PATIENCE)
    assert run.state() != "failed", runs.log_tail(run.folder)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what a process has loaded from /proc")
def test_a_prepared_worker_has_loaded_its_libraries_before_there_is_work(tiny_model: Path) -> None:
    worker.prepare_worker()
    wait_for(lambda: workers.record(0) is not None, PATIENCE)
    found = workers.record(0) or {}
    assert found["state"] == "idle"
    wait_for(lambda: "libtorch_cpu" in Path(f"/proc/{found['pid']}/maps").read_text(), PATIENCE)
    worker.prepare_worker()  # one is there
    run = runs.submit_generate(GenerateSettings(prompts=("a cat",), width=64, height=64, steps=2), str(tiny_model))
    until(lambda: ended(run), run)
    assert run.state() == "done"
    assert (workers.record(0) or {}).get("pid") == found["pid"]


def test_a_training_outlives_the_app_and_goes_on_after_its_worker_was_killed(tmp_path: Path, tiny_model: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    # So many steps that no busy machine gets to their end before this test has killed the worker.
    settings = small_settings(max_steps=100_000, lr_warmup_steps=0)
    whole = new_run(tmp_path / "whole", settings, dataset, tiny_model)
    command = [sys.executable, "-c", APP, str(whole.folder / "settings.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as app:
        assert app.stdout is not None
        run = Run(Path(app.stdout.readline().strip()))
        wait_for(lambda: workers.record(0), PATIENCE)
        os.killpg(app.pid, signal.SIGKILL)
    until(lambda: steps(run) > 5, run)
    record = workers.record(0)
    assert record is not None and runs.view(run.folder).state == "running"
    os.kill(record["pid"], signal.SIGKILL)
    wait_for(lambda: workers.record(0) is None)
    wait_for(lambda: not workers.is_held(0))  # its threads end one by one: dead, it may hold the lock for a moment more
    assert runs.view(run.folder).state == "interrupted"

    reached = steps(run)
    worker.resume_run(run)
    until(lambda: steps(run) > reached, run)
    worker.stop_run(run)
    until(lambda: ended(run), run)
    assert run.state() == "stopped", runs.log_tail(run.folder)
    wait_for(lambda: not workers.is_held(0))  # after a training it ends, so that memory is free

    last = int(run.status()["step"])
    torch.set_flush_denormal(False)  # as in the worker
    resume(whole, stop_at(whole, last))
    torch.set_flush_denormal(True)
    assert_identical(trained(run, last), trained(whole, last))
    assert [line["step"] for line in runs.metrics(run.folder)] == list(range(1, last + 1))


def test_a_run_that_is_done_does_not_go_on() -> None:
    run = Run.create("train", "done", "a = 1\n")
    with run.working():
        pass
    with pytest.raises(ZitError, match="is done"):
        worker.resume_run(run)


def test_a_stopped_training_keeps_its_checkpoint_and_the_queue_goes_on_in_its_order(
    tmp_path: Path, tiny_model: Path
) -> None:
    dataset = make_dataset(tmp_path / "data")
    settings = small_settings(max_steps=100_000, save_every=0)
    training = runs.submit_train(settings, dataset, str(tiny_model), "long")
    small = GenerateSettings(prompts=("a cat",), width=64, height=64, steps=2)
    first, second, third = (runs.submit_generate(small, str(tiny_model)) for _ in range(3))
    until(lambda: steps(training) > 2, training)
    queue.move(third, 0)
    worker.stop_run(second)
    assert second.state() == "stopped"
    view = runs.view(training.folder)
    assert (view.name, view.state, view.total) == ("long", "running", 100_000)
    worker.save_now(training)
    until(lambda: list(training.folder.glob("checkpoints/step_*")), training)
    worker.sample_now(training)
    until(lambda: len(runs.view(training.folder).samples) == 2, training)
    trainer = (workers.record(0) or {})["pid"]
    worker.stop_run(training)
    until(lambda: ended(training), training)
    step = training.status()["step"]
    assert training.state() == "stopped" and (training.folder / f"checkpoints/step_{step:06d}").is_dir()
    assert len(list(training.folder.glob("checkpoints/step_*"))) == 2

    until(lambda: ended(first), first)
    assert [run.state() for run in (third, first, second)] == ["done", "done", "stopped"], runs.log_tail(first.folder)
    assert third.status()["heartbeat"] < first.status()["heartbeat"]
    painter = (workers.record(0) or {})["pid"]
    assert first.status()["pid"] == third.status()["pid"] == painter != trainer  # warm, and not the trainer
    assert "Loading the model" in runs.log_tail(third.folder)
    assert "Loading the model" not in runs.log_tail(first.folder)
    pictures = [runs.view(run.folder).pictures[0].read_bytes() for run in (first, third)]
    assert pictures[0] == pictures[1]


def test_a_comparison_goes_on_after_a_polite_end_and_a_failed_run_hurts_no_other(tiny_model: Path) -> None:
    settings = CompareSettings(
        model=str(tiny_model),
        prompts=("a cat", "a dog"),
        seeds=tuple(range(400)),  # more than any machine draws before it is asked to end
        variants=(Variant("one", steps=30),),
        width=64,
        height=64,
    )
    broken = Run.create("generate", "broken", "[generate]\nsteps = 900\n")
    queue.enqueue(broken)
    run = runs.submit_compare(settings)
    cells = run.folder / "cells"
    until(lambda: list(cells.glob("one/*.png")), run)
    assert broken.state() == "failed" and "900" in broken.status()["message"]
    os.kill((workers.record(0) or {})["pid"], signal.SIGTERM)
    until(lambda: ended(run), run)
    before = {path: path.stat().st_mtime_ns for path in cells.rglob("*.png")}
    assert run.state() == "stopped" and 0 < len(before) < 800
    wait_for(lambda: not workers.is_held(0))
    assert not list(cells.rglob(".*"))

    worker.resume_run(run)
    until(lambda: len(list(cells.rglob("*.png"))) > len(before), run)
    worker.stop_run(run)
    until(lambda: ended(run), run)
    assert run.state() == "stopped", runs.log_tail(run.folder)
    after = {path: path.stat().st_mtime_ns for path in cells.rglob("*.png")}
    assert before.items() < after.items()
