"""The training loop: what it writes, how it ends, and that an interruption leaves no trace."""

import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.small import small_settings
from tests.test_cache import make_dataset
from tests.training import assert_identical, new_run, stop_at, trained
from zit_app.core.errors import ZitError
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import AcrfSettings, DatasetSettings, TrainSettings
from zit_app.engine.train import resume, train
from zit_app.model.adapter_files import read_adapter

PICTURES = ((64, 64), (96, 64), (64, 64), (64, 64), (90, 60))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), PICTURES)


def go(folder: Path, settings: TrainSettings, dataset: Path, model: Path) -> Run:
    run = new_run(folder, settings, dataset, model, "style")
    assert train(settings, dataset, model, run, Progress(run)) == folder / "adapter.safetensors"
    return run


def test_a_run_leaves_adapter_metrics_status_and_the_newest_checkpoints(
    tmp_path: Path, dataset: Path, tiny_model: Path
) -> None:
    settings = small_settings(keep_last=2)
    run = go(tmp_path / "run", settings, dataset, tiny_model)
    assert run.state() == "done" and run.status()["step"] == 12
    lines = run.metrics()
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert all({"loss", "lr", "grad_norm", "seconds"} <= line.keys() for line in lines)
    nodes = {"1.0000", "0.9545", "0.9000", "0.8333", "0.7500", "0.6429", "0.5000", "0.3000"}
    assert {node for line in lines for node in line["nodes"]} == nodes
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == ["step_000008", "step_000012"]
    assert not [path for path in run.folder.rglob("*") if path.suffix in (".pt", ".pth", ".bin", ".pkl", ".ckpt")]

    adapter = read_adapter(run.folder / "adapter.safetensors")
    assert len(adapter.modules) == 14 and adapter.unmatched == ()
    state = trained(run, 12)
    for name, module in adapter.modules.items():
        torch.testing.assert_close(module.up.float(), state[f"lora {name}.lora_B.weight"], atol=0, rtol=1e-2)  # bf16
        assert module.up.abs().sum() > 0 and module.scale == 1.0
    with safe_open(run.folder / "adapter.safetensors", "pt") as file:
        metadata = file.metadata()
        assert "diffusion_model.layers.0.attention.to_q.lora_A.weight" in file.keys()  # noqa: SIM118
    assert (metadata["ss_steps"], metadata["zit.preset"], metadata["ss_network_dim"]) == ("12", "style", "4")
    assert json.loads(metadata["zit.settings"])["training"]["learning_rate"] == 1e-2


def test_learns_the_pictures(tmp_path: Path, dataset: Path, tiny_model: Path) -> None:
    settings = small_settings(max_steps=30, save_every=0, caption_dropout=0.0)
    losses = [line["loss"] for line in go(tmp_path / "run", settings, dataset, tiny_model).metrics()]
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])


@pytest.mark.parametrize(
    ("acrf", "training"),
    [
        (AcrfSettings(), {}),
        (AcrfSettings(sampler="anchor", snr_gamma=5.0, base="charbonnier", lambda_cos=0.1, lambda_fft=0.1), {}),
        (
            AcrfSettings(loss_mode="unified", anchor_source="report", turbo_steps=10),
            {"protection": "tether", "tether": 1.0},
        ),
        (AcrfSettings(sampler="logit_normal"), {"compute": "bf16", "gradient_checkpointing": True}),
    ],
)
def test_stopped_and_resumed_is_bit_identical(
    tmp_path: Path, dataset: Path, tiny_model: Path, acrf: AcrfSettings, training: dict[str, object]
) -> None:
    settings = small_settings(acrf, **training)
    whole = go(tmp_path / "whole", settings, dataset, tiny_model)
    run = new_run(tmp_path / "halves", settings, dataset, tiny_model, "style")
    assert resume(run, stop_at(run, 7)) is None
    assert run.state() == "stopped" and (run.folder / "checkpoints/step_000007").is_dir()
    again = Run.open(run.folder)
    assert resume(again, Progress(again)) == run.folder / "adapter.safetensors"
    assert_identical(trained(run, 12), trained(whole, 12))
    a, b = (read_adapter(one.folder / "adapter.safetensors") for one in (whole, run))
    assert a.metadata == b.metadata and a.modules.keys() == b.modules.keys()
    assert all(torch.equal(a.modules[name].delta(), b.modules[name].delta()) for name in a.modules)


def test_previews_change_nothing(tmp_path: Path, dataset: Path, tiny_model: Path) -> None:
    plain = go(tmp_path / "plain", small_settings(), dataset, tiny_model)
    run = go(tmp_path / "seen", small_settings(sample_every=5), dataset, tiny_model)
    samples = sorted(path.name for path in (run.folder / "samples").iterdir())
    assert samples == [f"{step:06d}_{number}.png" for step in (0, 5, 10, 12) for number in (0, 1)]
    assert not (plain.folder / "samples").exists()
    assert_identical(trained(run, 12), trained(plain, 12))


def test_killed_at_a_random_step_and_resumed_is_bit_identical(tmp_path: Path, dataset: Path, tiny_model: Path) -> None:
    settings = small_settings(max_steps=20)
    whole = go(tmp_path / "whole", settings, dataset, tiny_model)
    run = new_run(tmp_path / "killed", settings, dataset, tiny_model, "style")
    kill_at = random.randint(1, 14)
    # It waits for the kill after step 16: a busy machine must not let it end first.
    command = [sys.executable, "-m", "tests.training", str(run.folder), str(torch.get_num_threads()), "16"]
    worker = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=Path(__file__).parents[1])
    metrics = run.folder / "metrics.jsonl"
    while worker.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < kill_at):
        time.sleep(0.002)
    worker.kill()
    _, errors = worker.communicate()
    assert worker.returncode == -9, errors.decode()
    done = len(run.metrics())
    assert 0 < done < 20 and run.state() == "interrupted"

    leftover = run.folder / "checkpoints" / ".step_000016"  # as if the kill had come in the middle of a save
    leftover.mkdir(parents=True, exist_ok=True)
    (leftover / "lora.safetensors").write_bytes(b"half")
    again = Run.open(run.folder)
    resume(again, Progress(again))  # by another process than the killed one; test_worker.py resumes in a third
    assert again.state() == "done"
    assert_identical(trained(run, 20), trained(whole, 20))
    assert not leftover.exists()


def test_an_epoch_is_every_picture_once_and_a_step_may_be_short(
    tmp_path: Path, dataset: Path, tiny_model: Path
) -> None:
    settings = small_settings(max_steps=0, num_train_epochs=3, save_every=0)  # 3 epochs of 3 batches in steps of 2
    run = go(tmp_path / "run", settings, dataset, tiny_model)
    assert len(run.metrics()) == 5
    state = json.loads((run.folder / "checkpoints/step_000005/state.json").read_text())
    assert (state["step"], state["batches"]) == (5, 9)


def test_trains_what_can_be_read_and_names_the_rest(tmp_path: Path, tiny_model: Path) -> None:
    data = make_dataset(tmp_path / "data")
    (data / "0.png").write_bytes((data / "0.png").read_bytes()[:300])
    run = go(tmp_path / "run", small_settings(max_steps=1), data, tiny_model)
    assert "Skipped 0.png" in (run.folder / "log.txt").read_text()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda data: [path.unlink() for path in data.iterdir()], "holds no picture"),
        (lambda data: (data / "1.txt").unlink(), r"1 of 3 pictures .* no caption \(1\.png\)"),
    ],
)
def test_bad_data_fails_the_run_with_one_sentence(
    tmp_path: Path, tiny_model: Path, break_it: object, message: str
) -> None:
    data = make_dataset(tmp_path / "data")
    break_it(data)  # type: ignore[operator]
    run = new_run(tmp_path / "run", small_settings(), data, tiny_model)
    with pytest.raises(ZitError, match=message) as caught:
        resume(run, Progress(run))
    assert run.state() == "failed" and run.status()["message"] == str(caught.value) and caught.value.remedy


def test_a_loss_that_is_no_number_stops_before_it_spoils_a_checkpoint(
    tmp_path: Path, dataset: Path, tiny_model: Path
) -> None:
    run = new_run(tmp_path / "run", small_settings(), dataset, tiny_model)
    settings = small_settings(learning_rate=1e30, save_every=1)  # far above what a settings file may say
    with pytest.raises(ZitError, match=r"loss of step 2 is not a number; no checkpoint .* \(now 1e\+30\)"):
        train(settings, dataset, tiny_model, run, Progress(run))
    assert run.state() == "failed" and not (run.folder / "checkpoints").exists()


def test_a_resume_with_other_pictures_says_so(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "data")
    settings = small_settings(max_steps=8)
    run = new_run(tmp_path / "run", settings, data, tiny_model)
    assert resume(run, stop_at(run, 5)) is None
    (data / "0.txt").write_text("something else")
    again = Run.open(run.folder)
    assert resume(again, Progress(again)) is not None
    assert "the pictures or the unrelated prompts changed since" in capsys.readouterr().err


def test_settings_reach_the_training(tmp_path: Path, dataset: Path, tiny_model: Path) -> None:
    """Each of these changes the outcome of two steps; a key that changed nothing would be a lie."""
    plain = small_settings(max_steps=2, save_every=0)
    base = trained(go(tmp_path / "plain", plain, dataset, tiny_model), 2)
    others = {
        "seed": replace(plain, training=replace(plain.training, seed=1)),
        "weight_decay": replace(plain, training=replace(plain.training, weight_decay=0.5)),
        "max_grad_norm": replace(plain, training=replace(plain.training, max_grad_norm=0.01)),
        "tether": replace(plain, training=replace(plain.training, protection="tether", tether=50.0)),
        "snr_gamma": replace(plain, acrf=replace(plain.acrf, snr_gamma=0.001)),
        "jitter_scale": replace(plain, acrf=replace(plain.acrf, jitter_scale=0.0)),
        "anchor_share": replace(plain, acrf=replace(plain.acrf, anchor_share=1.0)),
        "shift": replace(plain, acrf=replace(plain.acrf, shift=1.0)),
        "network_alpha": replace(plain, lora=replace(plain.lora, network_alpha=8.0)),
        "dataset": replace(plain, dataset=DatasetSettings(resolution=64, batch_size=2, trigger_word="tok")),
    }
    for name, settings in others.items():
        state = trained(go(tmp_path / name, settings, dataset, tiny_model), 2)
        assert any(not torch.equal(state[key], base[key]) for key in base if key.startswith("lora")), name


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ZitError, match="holds no run"):
        Run.open(tmp_path)
