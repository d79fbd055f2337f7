"""The app's process as far as files go, without a moment's rest: what many impatient clicks would make of it.

    python -m tests.busy_app MODEL DATASET LEDGER SEED [finish]

What it has seen done stands in LEDGER, one JSON list a line: ["run", folder], ["picture", file] or
["caption", file, text]. With "finish" it begins nothing new.
"""

import json
import random
import sys
import time
from contextlib import suppress
from pathlib import Path

from PIL import Image

from tests.small import small_settings
from zit_app.core import paths, queue
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import GenerateSettings
from zit_app.core.run import Run
from zit_app.service import datasets, edits, runs, worker

STEPS = 12


def main() -> None:
    """Click on, for ever."""
    model, dataset, ledger = (Path(word) for word in sys.argv[1:4])
    rng, new = random.Random(int(sys.argv[4])), "finish" not in sys.argv
    while True:
        with suppress(ZitError):  # it came too late, or the worker was quicker
            seen = runs.list_runs()
            for view in seen:
                if view.state == "interrupted":
                    worker.resume_run(Run(view.folder))
            if new:
                click(rng, seen, model, dataset, ledger)
            waiting = queue.order()
            if waiting:
                queue.move(rng.choice(waiting), 0)
            worker.tend()
        time.sleep(0.05)


def click(rng: random.Random, seen: list[runs.RunView], model: Path, dataset: Path, log: Path) -> None:
    """One thing that a person may do at any time."""
    open_runs = [view for view in seen if view.state in ("queued", "preparing", "running")]
    if not any(view.kind == "train" for view in open_runs):
        settings = small_settings(max_steps=STEPS, save_every=1, sample_every=5)
        note(log, "run", runs.submit_train(settings, dataset, str(model), "style").folder)
    if len(open_runs) < 3:
        asked = GenerateSettings(prompts=("a cat",), count=2, width=64, height=64, steps=2)
        note(log, "run", runs.submit_generate(asked, str(model)).folder)
    for view in open_runs:
        rng.choice((worker.save_now, worker.sample_now))(Run(view.folder))
    shots = paths.home() / "datasets" / "shots"
    picture = log.parent / f"{time.time_ns() % 100}.png"
    if not picture.exists():
        Image.new("RGB", (8, 8), (rng.randrange(256), rng.randrange(256), 0)).save(picture)
    datasets.import_files("shots", [picture])
    note(log, "picture", shots / picture.name)
    text = f"caption {rng.random()}"
    edits.save_caption(shots, picture.name, text)
    note(log, "caption", shots / f"{picture.stem}.txt", text)


def note(log: Path, *promise: object) -> None:
    """Append to the ledger at once; a promise that was not written down does not count."""
    with log.open("a") as file:
        file.write(json.dumps([str(word) for word in promise]) + "\n")


if __name__ == "__main__":
    main()
