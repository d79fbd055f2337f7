"""Several processes train as one does: two with batch 1 make the steps of one with batch 2."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.small import small_settings
from tests.test_cache import make_dataset
from tests.training import new_run, trained
from zit_app.core import process, workers
from zit_app.core.errors import ZitError
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.settings import to_toml
from zit_app.core.train_settings import DatasetSettings, TrainSettings
from zit_app.engine.jobs import train_run
from zit_app.engine.launching import launch, launch_command
from zit_app.engine.train import resume

PROJECT = Path(__file__).resolve().parents[1]
ON_THE_PROCESSOR = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Five of one size: in every epoch a short batch leaves the second process without a picture.
    return make_dataset(tmp_path_factory.mktemp("data"), [(64, 64)] * 5)


def settings(batch_size: int, **training: object) -> TrainSettings:
    plain = small_settings(max_steps=5, save_every=2, **training)
    return replace(plain, dataset=DatasetSettings(resolution=64, batch_size=batch_size))


def test_two_processes_with_batch_1_are_one_with_batch_2(tmp_path: Path, dataset: Path, tiny_model: Path) -> None:
    one = new_run(tmp_path / "one", settings(2), dataset, tiny_model)
    resume(one, Progress(one))
    two = new_run(tmp_path / "two", settings(1), dataset, tiny_model)
    with two.working():
        assert launch(two, 2, ON_THE_PROCESSOR) == two.folder / "adapter.safetensors"
    assert two.state() == "done"

    assert [line["step"] for line in two.metrics()] == [1, 2, 3, 4, 5]  # one process writes
    for a, b in zip(one.metrics(), two.metrics(), strict=True):
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-5) and b["lr"] == a["lr"]
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5) and b["nodes"] == pytest.approx(a["nodes"], rel=1e-5)
    alone, together = trained(one, 2), trained(two, 2)
    moments = [key for key in alone if key.endswith(".exp_avg")]  # of Adam: what the gradients were
    assert moments
    for key in [*moments, *(key for key in alone if key.startswith("random"))]:
        torch.testing.assert_close(together[key], alone[key], rtol=1e-4, atol=1e-7)


def test_the_command_itself_may_be_launched(home: Path, tmp_path: Path, dataset: Path, tiny_model: Path) -> None:
    """On many machines accelerate starts `zit train` everywhere, with the same words."""
    config = tmp_path / "config.toml"
    config.write_text(to_toml(settings(1, health_every=1)), encoding="utf-8")
    command = launch_command(tmp_path, 2)[: -len(["--module", "zit_app.engine.launching", "RUN"])]
    command += ["--module", "zit_app.cli", "train", "--config", str(config), "--set", "training.max_steps=2"]
    command += ["--dataset", str(dataset), "--model", str(tiny_model)]
    environment = {**os.environ, **ON_THE_PROCESSOR}
    told = subprocess.run([*command, "--out", str(tmp_path / "run"), "--json"], cwd=PROJECT, env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert told.returncode == 0, told.stderr
    answers = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
    assert [(one["state"], one["step"]) for one in answers] == [("done", 2)]  # one process speaks
    lines = Run.open(tmp_path / "run").metrics()
    assert [line["step"] for line in lines] == [1, 1, 2, 2] and sum("health" in line for line in lines) == 2


def test_a_mistake_in_launched_processes_is_told_as_in_one(tmp_path: Path, dataset: Path, tiny_model: Path) -> None:
    run = new_run(tmp_path / "run", settings(1), tmp_path / "nowhere", tiny_model)
    with pytest.raises(ZitError, match="nowhere"), run.working():
        launch(run, 2, ON_THE_PROCESSOR)
    assert run.state() == "failed" and run.status()["cause"]


def test_launched_processes_end_with_the_one_that_holds_the_lock(
    tmp_path: Path, dataset: Path, tiny_model: Path
) -> None:
    run = new_run(tmp_path / "run", settings(1, num_train_epochs=10**6), dataset, tiny_model)
    text = (run.folder / "settings.toml").read_text().replace("max_steps = 5", "max_steps = 1000000")
    (run.folder / "settings.toml").write_text(text)
    code = (
        "import sys; from pathlib import Path; from zit_app.core.run import Run; "
        "from zit_app.engine.launching import launch; run = Run.open(Path(sys.argv[1]))\n"
        f"with run.working(): launch(run, 2, {ON_THE_PROCESSOR!r})"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(run.folder)], cwd=PROJECT, stderr=subprocess.DEVNULL)
    metrics = run.folder / "metrics.jsonl"
    while holder.poll() is None and not metrics.exists():
        time.sleep(0.05)
    assert holder.poll() is None
    writer = run.status()["pid"]
    assert writer != holder.pid and run.state() == "running"
    holder.kill()
    holder.wait()
    while process.started(writer) is not None:
        time.sleep(0.05)
    assert run.state() == "interrupted"


def test_the_words_of_the_launch(tmp_path: Path) -> None:
    words = launch_command(tmp_path, 3)
    assert words[:4] == [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    assert words[words.index("--num_processes") + 1] == "3" and words[-1] == str(tmp_path)


def test_cards_are_counted_past_the_one_a_worker_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZIT_CARD", "ZIT_ALL_CARDS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    workers.choose_card(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    assert (workers.own_card(), workers.all_cards()) == (1, ["4", "6", "7"])


def test_more_cards_than_there_are_is_refused(
    tmp_path: Path, dataset: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run = new_run(tmp_path / "run", settings(1, cards=2), dataset, tiny_model)
    with pytest.raises(ZitError, match=r"cards = 2, but this machine has 0"):
        train_run(run, Progress(run))
    assert run.state() == "failed"
    everything = new_run(tmp_path / "all", settings(1, cards=0), dataset, tiny_model)
    assert train_run(everything, Progress(everything)) is not None  # all of none: the processor
