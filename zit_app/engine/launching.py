"""Training over several cards: `accelerate launch` starts one process a card, all in the same run folder.

    accelerate launch --multi_gpu --num_processes 4 --module zit_app.engine.launching RUN

on one machine or, with accelerate's own flags, on many that share the run's folder and the dataset.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

from zit_app.core import paths
from zit_app.core.errors import ZitError
from zit_app.core.lean import importing
from zit_app.core.progress import Progress
from zit_app.core.quiet import quiet
from zit_app.core.run import ENDED, Run

ENTRUSTED = "ZIT_ENTRUSTED"  # set: whoever started this process holds the run's lock and waits for it


def launch_command(run_folder: Path, processes: int) -> list[str]:
    """The words that start ``processes`` processes of one training on this machine; port 0 = any free one."""
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    accelerate += ["--num_processes", f"{processes}", "--main_process_port", "0"]
    accelerate += ["--mixed_precision", "no", "--dynamo_backend", "no"]  # the settings say it, process by process
    return [*accelerate, "--module", "zit_app.engine.launching", str(run_folder)]


def launch(run: Run, processes: int, environment: dict[str, str]) -> Path | None:
    """Entrust the run to new processes and wait for them; what they wrote into its status counts.

    They hold the other end of a pipe and end when this process does, so that nobody writes without the run's lock.
    """
    started = subprocess.Popen(
        launch_command(run.folder, processes),
        cwd=paths.PROJECT,
        stdin=subprocess.PIPE,
        env={**os.environ, **environment, ENTRUSTED: "1"},
        start_new_session=True,  # Ctrl-C reaches this process alone, which asks the run to stop
    )
    code = started.wait()
    status = run.reread()
    if status["phase"] == "failed":
        raise ZitError(status["cause"], status["remedy"])
    if code or status["phase"] not in ENDED:
        raise ZitError(f"The processes of this training ended with code {code}.", "Look into their output.")
    return run.folder / "adapter.safetensors" if status["phase"] == "done" else None


def main() -> None:
    """What every process of a launched training does."""
    quiet()
    entrusted = ENTRUSTED in os.environ
    if entrusted:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    with importing():
        from zit_app.engine.train import resume
    folder = Path(sys.argv[1])
    run = Run.entrusted(folder) if entrusted else Run.open(folder)
    try:
        resume(run, Progress(run))
    except ZitError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing is ever written: this returns when the other end is closed
    os._exit(1)


if __name__ == "__main__":
    main()
