"""Training over several cards: `accelerate launch` starts one process a card, all in the same run folder.

    accelerate launch --multi_gpu --num_processes 4 --module zit_app.engine.launching RUN

on one machine or, with accelerate's own flags, on many that share the run's folder and the dataset.
"""

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from zit_app.core import paths, workers
from zit_app.core.errors import ZitError
from zit_app.core.progress import Progress
from zit_app.core.quiet import quiet
from zit_app.core.run import ENDED, Run
from zit_app.core.train_settings import load_job
from zit_app.engine.train import resume

ENTRUSTED = "ZIT_ENTRUSTED"  # set: whoever started this process holds the run's lock and waits for it


def train_run(run: Run, progress: Progress) -> Path | None:
    """Train in this process, or over several cards when the run's settings ask for them. Returns as `resume` does.

    Raises ZitError when there are fewer cards than asked for.
    """
    with run.working(), ExitStack() as held:
        wanted, cards = load_job(run.folder / "settings.toml")[0].training.cards, workers.all_cards()
        if wanted > max(len(cards), 1):
            raise ZitError(f"training.cards = {wanted}, but this machine has {len(cards)}.", "Ask for fewer; 0 = all.")
        count = wanted or len(cards)
        if count <= 1:
            return resume(run, progress)
        own = workers.own_card()
        chosen = [own, *(card for card in range(len(cards)) if card != own)][:count]
        for card in chosen[1:]:
            held.enter_context(workers.card_for_command(run.folder, progress.note, card))
        return launch(run, count, {"CUDA_VISIBLE_DEVICES": ",".join(cards[card] for card in chosen)})


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
    folder = Path(sys.argv[1])
    if ENTRUSTED in os.environ:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        run = Run.entrusted(folder)
    else:
        run = Run.open(folder)
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
