"""The run folder protocol, with real processes: locked, killed, hung, two at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from zit_app.core import process, queue
from zit_app.core.errors import ZitError
from zit_app.core.progress import Progress
from zit_app.core.run import STALE_SECONDS, Run, find_run

# A worker in a process of its own: takes the run, says so, and works until it is told to stop.
WORKER = """
import sys, time
from pathlib import Path
from zit_app.core.run import Run
run = Run.open(Path(sys.argv[1]))
with run.working():
    run.write_status("running", step=3, total=9)
    print("working", flush=True)  # only now: who hears it may kill at once
    while not run.control().get("stop"):
        run.write_status("running", step=3, total=9)
        run.append_metrics(step=3, loss=0.5)
        time.sleep(0.01)
    run.write_status("stopped")
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create("train", "My Style!", "answer = 42\n", tmp_path / "run")


@contextmanager
def worker(run: Run) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WORKER, str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None and started.stdout.readline() == "working\n"
        try:
            yield started
        finally:
            started.kill()


def test_a_new_run_is_queued_in_a_folder_of_its_own(home: Path) -> None:
    first, second = (Run.create("train", "Café / Grün!", "a = 1\n") for _ in range(2))
    assert first.folder.parent == home / "runs" / "train"
    assert first.folder.name.endswith("_café-grün") and first.folder != second.folder
    assert (first.folder / "settings.toml").read_text() == "a = 1\n"
    assert first.state() == "queued"
    assert find_run("train", second.folder.name).folder == second.folder
    with pytest.raises(ZitError, match="Did you mean"):
        find_run("train", first.folder.name[:-1] + "x")


def test_work_that_ends_well_is_done(run: Run) -> None:
    with run.working():
        assert run.state() == "running"
        with run.lock():  # an engine may lock again what its caller has locked
            assert run.state() == "running"
        assert run.state() == "running"
    assert run.state() == "done"
    assert Run.open(run.folder).state() == "done"


@pytest.mark.parametrize(
    "error, state", [(ZitError("No.", "Do."), "failed"), (KeyError("x"), "failed"), (KeyboardInterrupt(), "stopped")]
)
def test_work_that_ends_badly_says_why(run: Run, error: BaseException, state: str) -> None:
    with pytest.raises(type(error)), run.working():
        raise error
    assert run.state() == state
    assert run.status()["message"]
    if isinstance(error, KeyError):
        assert "Traceback" in (run.folder / "log.txt").read_text()


def test_another_process_works_and_is_asked_to_stop(run: Run) -> None:
    with worker(run) as other:
        assert run.state() == "running"
        assert run.status()["pid"] == other.pid
        begun = time.monotonic()
        with pytest.raises(ZitError, match="Another process works in"), run.working():
            pass
        assert time.monotonic() - begun < 30
        assert run.state() == "running", "the one that came too late changed nothing"
        run.request(stop=True)
        assert other.wait(60) == 0
    assert run.state() == "stopped"


def test_looking_does_not_keep_a_worker_out(run: Run) -> None:
    looking = "import sys, time\nfrom zit_app.core import lock\nfrom pathlib import Path\n"
    looking += "print('looking', flush=True)\nwhile True: lock.is_held(Path(sys.argv[1])) or time.sleep(0.001)"
    (run.folder / "lock").touch()
    command = [sys.executable, "-c", looking, str(run.folder / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            for _ in range(20):
                with run.lock():
                    pass
        finally:
            other.kill()


def test_a_killed_worker_is_interrupted_and_the_run_can_go_on(run: Run) -> None:
    with worker(run) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert run.state() == "interrupted"
    assert run.status()["step"] == 3
    assert all(line["loss"] == 0.5 for line in run.metrics())
    again = Run.open(run.folder)
    with again.working():
        assert run.state() == "running"
    assert run.state() == "done"


def test_a_killed_worker_whose_child_keeps_the_lock_is_interrupted(run: Run) -> None:
    """A forked child inherits the lock; the process that it was taken by is what counts."""
    child = WORKER.replace(
        "with run.working():", "import os\nwith run.working():\n    if os.fork() == 0: time.sleep(60)"
    )
    command = [sys.executable, "-c", child, str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert run.state() == "running"
        other.kill()
        other.wait()
        state = run.state()
        os.killpg(other.pid, signal.SIGKILL)
    assert state == "interrupted"


def test_a_process_number_given_again_is_not_the_worker(run: Run) -> None:
    with run.lock():
        run.write_status("running", started="another boot:1")
        assert run.state() == "interrupted"
        run.write_status("running")
        assert run.state() == "running"


def test_a_held_lock_with_an_old_heartbeat_is_not_responding(run: Run) -> None:
    with worker(run) as other:
        other.send_signal(signal.SIGSTOP)  # a suspended laptop
        os.waitpid(other.pid, os.WUNTRACED)  # it has stopped, not: it will
        status = run.status()
        status["heartbeat"] -= STALE_SECONDS + 1
        (run.folder / "status.json").write_text(json.dumps(status))
        assert run.state() == "not responding"
        with pytest.raises(ZitError), run.lock():
            pass
        other.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 60
        while run.state() != "running" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert run.state() == "running"


def test_a_reader_never_sees_half_a_status(run: Run) -> None:
    with worker(run):
        phases = {run.status().get("phase") for _ in range(2000)}
    assert phases == {"running"}


def test_a_status_lost_in_a_power_cut_is_interrupted(run: Run) -> None:
    (run.folder / "status.json").write_text("")
    assert run.state() == "interrupted"


def test_a_new_run_whose_process_was_killed_before_it_was_queued_is_interrupted(home: Path) -> None:
    code = "import os\nfrom zit_app.core.run import Run\n"
    code += "run = Run.create('train', 'new', 'a = 1')\nprint(run.folder, run.state(), flush=True)\n"
    code += "os.kill(os.getpid(), 9)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    folder, state = ran.stdout.split()
    run = Run.open(Path(folder))
    assert (state, run.state(), run.kind) == ("queued", "interrupted", "train")
    queue.enqueue(run)
    assert run.state() == "queued" and [one.folder for one in queue.order()] == [run.folder]


def test_a_request_for_a_queued_run_is_kept_and_an_old_one_is_not(run: Run) -> None:
    run.request(stop=True)
    run.request(preview=2)
    with run.working():
        assert run.control() == {"stop": True, "preview": 2}
    with Run.open(run.folder).working():
        assert run.control() == {}


def test_metrics_survive_a_line_cut_short(run: Run) -> None:
    run.append_metrics(step=1, loss=1.0)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    run.append_metrics(step=2, nodes={"0.5": 0.5})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "nodes": {"0.5": 0.5}')  # a brace at its end makes it no whole line
    run.append_metrics(step=3)
    assert run.metrics() == [{"step": 1, "loss": 1.0}, {"step": 2, "nodes": {"0.5": 0.5}}, {"step": 3}]
    run.cut_metrics(3)
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_resume_cuts_the_metrics_back_to_where_it_begins(run: Run) -> None:
    run.cut_metrics(0)  # there is none yet
    for step in (1, 2, 3):
        run.append_metrics(step=step, loss=1.0)
    run.cut_metrics(3)
    run.cut_metrics(2)
    run.append_metrics(step=3, loss=0.5)
    assert [(line["step"], line["loss"]) for line in run.metrics()] == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_a_folder_with_a_run_is_not_taken_again_unless_it_failed_at_once(run: Run) -> None:
    with pytest.raises(ZitError, match="already holds a run"):
        Run.create("train", "again", "b = 2\n", run.folder)
    run.write_status("failed")
    assert Run.create("train", "again", "b = 2\n", run.folder).state() == "queued"
    (run.folder / "checkpoints").mkdir()
    run.write_status("failed")
    with pytest.raises(ZitError, match="already holds a run"):
        Run.create("train", "again", "b = 2\n", run.folder)


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ZitError, match="holds no run"):
        Run.open(tmp_path)


def test_process_identity() -> None:
    own = process.started(os.getpid())
    assert own is not None and process.started(os.getpid()) == own
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.DEVNULL)
    assert process.started(child.pid) != own
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, not yet collected
    assert process.started(child.pid) is None
    child.wait()
    assert process.started(child.pid) is None


def test_progress_is_the_heartbeat_and_passes_requests_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(run, as_json=True)
    with run.working():
        progress.stage("Drawing")
        progress.step(1, 4)
        progress.step(4, 4, loss=0.25)
        assert not progress.stop_requested()
        run.request(stop=True)
        assert progress.stop_requested()
        progress.note("Skipped a.png")
    status = run.status()
    assert (status["message"], status["step"], status["total"], status["loss"]) == ("Drawing", 4, 4, 0.25)
    progress.result("for people", pictures=[run.folder])
    shown = capsys.readouterr()
    assert json.loads(shown.out.splitlines()[-1]) == {"pictures": [str(run.folder)]}
    assert "4/4" in shown.err and "Skipped a.png" in shown.err
    assert "Skipped a.png" in (run.folder / "log.txt").read_text()
