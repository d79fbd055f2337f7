"""The queue of runs, and who may hold the card: files and locks, no model."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from zit_app.core import paths, process, queue, workers
from zit_app.core.errors import ZitError
from zit_app.core.run import Run
from zit_app.service import runs as run_list
from zit_app.service import worker as worker_service

# Holds the card and works in the run of argv[1] until it is asked to stop, or for ever with argv[2].
HOLDER = """
import sys, time
from pathlib import Path
from zit_app.core import workers
from zit_app.core.run import Run
run = Run.open(Path(sys.argv[1]))
with workers.holding(0) as taken, run.working():
    assert taken
    workers.write_record(0, "working", run.folder)
    run.write_status("running", step=1, total=9)
    print("working", flush=True)
    while len(sys.argv) > 2 or not run.control().get("stop"):
        run.write_status("running")
        time.sleep(0.02)
    run.write_status("stopped")
"""


def wait_for(true: Callable[[], object], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.1)


def new(name: str) -> Run:
    run = Run.create("generate", name, "a = 1\n")
    queue.enqueue(run)
    return run


def names() -> list[str]:
    return [run.status()["name"] for run in queue.order()]


@contextmanager
def holder(run: Run, *deaf: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(run.folder), *deaf]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as held:
        assert held.stdout is not None and held.stdout.readline() == "working\n"
        try:
            yield held
        finally:
            held.kill()


def test_runs_wait_in_the_order_they_came_and_can_be_moved_and_cancelled(home: Path) -> None:
    _, second, third = new("first"), new("second"), new("third")
    assert names() == ["first", "second", "third"]
    queue.move(third, 0)
    assert names() == ["third", "first", "second"]
    queue.move(third, 99)
    assert names() == ["first", "second", "third"]
    assert queue.cancel(second)
    assert not queue.cancel(second)
    assert names() == ["first", "third"] and second.state() == "stopped"
    assert [view.name for view in run_list.waiting()] == ["first", "third"]


def test_the_order_outlives_every_process_and_even_its_file(home: Path) -> None:
    for name in ("first", "second", "third"):
        new(name)
    code = "from zit_app.core import queue; print([run.status()['name'] for run in queue.order()])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "['first', 'second', 'third']"
    for damaged in ("", "{", "3", None):
        file = home / "queue.json"
        file.unlink() if damaged is None else file.write_text(damaged)
        assert names() == ["first", "second", "third"]
    new("fourth")
    assert names() == ["first", "second", "third", "fourth"]


def test_a_run_of_the_command_line_is_not_in_the_queue(home: Path) -> None:
    Run.create("train", "by hand", "a = 1\n")
    assert queue.order() == []
    new("by the app")
    (home / "queue.json").unlink()
    assert names() == ["by the app"]


def test_many_processes_may_queue_at_once(home: Path) -> None:
    code = "from zit_app.core import queue\nfrom zit_app.core.run import Run\n"
    code += "for i in range(5): queue.enqueue(Run.create('generate', 'x', 'a = 1'))"
    several = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [one.wait() for one in several] == [0, 0, 0]
    assert len(queue.order()) == 15


def test_a_run_goes_back_into_the_queue_without_its_old_requests(home: Path) -> None:
    run = new("again")
    with run.working():
        run.request(stop=True)
        with pytest.raises(ZitError, match="being worked on"):
            queue.enqueue(run)
        run.write_status("stopped", step=4)
    queue.enqueue(run)
    assert run.state() == "queued" and run.control() == {} and run.status()["step"] == 4
    queue.enqueue(run)
    assert len(queue.order()) == 1


def test_what_a_person_sees_of_a_run(home: Path) -> None:
    run = new("red apple")
    assert run_list.view(run.folder).can_stop and run_list.list_runs("train") == []
    with run.working():
        assert run_list.view(run.folder).state == "preparing"
        run.write_status("running", step=3, total=12, left=9.5)
        view = run_list.view(run.folder)
        assert (view.state, view.share, view.left, view.kind) == ("running", 0.25, 9.5, "generate")
        run.request(stop=True)
        assert run_list.view(run.folder).state == "stopping"
    assert [one.state for one in run_list.list_runs()] == ["done"]
    with pytest.raises(ZitError), run.working():
        raise ZitError("It was too much.", "Ask for less.")
    view = run_list.view(run.folder)
    assert (view.state, view.cause, view.remedy, view.can_resume) == (
        "failed",
        "It was too much.",
        "Ask for less.",
        True,
    )
    assert "It was too much." in run_list.log_tail(run.folder)
    with run.working():
        assert run_list.view(run.folder).cause == ""


def test_a_run_is_asked_to_stop(home: Path) -> None:
    run = Run.create("train", "busy", "a = 1\n")
    with holder(run) as other:
        assert run_list.view(run.folder).state == "running"
        worker_service.stop_run(run)
        assert other.wait(60) == 0
    assert run.state() == "stopped"


def test_a_run_that_ignores_a_stop_is_ended_after_a_minute_of_silence(home: Path) -> None:
    run = Run.create("train", "deaf", "a = 1\n")
    with holder(run, "deaf") as other:
        run.request(stop=time.time() - worker_service.PATIENCE_SECONDS - 5)
        worker_service.tend()
        assert other.poll() is None, "it gives signs of life"
        other.send_signal(signal.SIGSTOP)
        os.waitpid(other.pid, os.WUNTRACED)  # it has stopped, not: it will
        old = {**run.status(), "heartbeat": time.time() - worker_service.PATIENCE_SECONDS - 5}
        (run.folder / "status.json").write_text(json.dumps(old))
        worker_service.tend()
        assert other.wait(60) == -signal.SIGKILL
    assert run.state() == "interrupted"


def test_a_command_waits_for_the_card_and_says_so_once(home: Path) -> None:
    run = Run.create("train", "busy", "a = 1\n")
    said: list[str] = []

    def note(text: str) -> None:
        said.append(text)
        run.request(stop=True)

    with holder(run) as other, workers.card_for_command(None, note):
        assert other.wait(60) == 0
        record = workers.record(0)
        assert record is not None and record["pid"] == os.getpid()
        assert not workers.yield_wanted(0)
    assert said == [f"Waiting: {run.folder.name} uses the card."]
    assert not workers.is_held(0)


def test_an_idle_worker_gives_way(home: Path) -> None:
    pid = workers.spawn(0)
    wait_for(lambda: workers.record(0))
    assert (workers.record(0) or {})["pid"] == pid
    one_too_many = workers.spawn(0)  # finds the lock taken
    wait_for(lambda: process.started(one_too_many) is None)
    assert (workers.record(0) or {})["pid"] == pid
    said: list[str] = []
    with workers.card_for_command(None, said.append):
        assert (workers.record(0) or {})["pid"] == os.getpid()
    assert said == ["Waiting for the card."]


@pytest.fixture
def three_cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torn down after the workers, which ask for the cards once more; the next test must not find these."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,8,9")  # there are none; the workers compute on the processor
    worker_service.cards.cache_clear()
    yield
    worker_service.cards.cache_clear()


def test_every_card_gets_a_worker_but_none_that_has_nothing_to_do(
    home: Path, three_cards: None, own_workers: None
) -> None:
    assert list(worker_service.cards()) == [0, 1, 2]
    pid = workers.spawn(0)
    wait_for(lambda: workers.record(0))
    os.kill(pid, signal.SIGSTOP)  # it is idle and stays so
    new("first")
    worker_service.ensure_workers()
    assert not workers.is_held(1) and not (home / "workers" / "1.log").exists()
    new("second")
    new("third")
    worker_service.ensure_workers()
    wait_for(lambda: workers.record(1) and workers.record(2))
    for card in worker_service.cards():
        worker_service.end_worker(card)
    assert not any(workers.is_held(card) for card in worker_service.cards())


def test_sigterm_ends_an_idle_worker(home: Path) -> None:
    pid = workers.spawn(0)
    wait_for(lambda: workers.record(0))
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not workers.is_held(0))
    assert (paths.home() / "workers" / "0.log").read_text() == ""
