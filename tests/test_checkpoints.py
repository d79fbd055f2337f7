"""Checkpoints on bad days: a full disk, a damaged file, another LoRA."""

import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.small import small_settings
from tests.test_cache import make_dataset
from tests.training import assert_identical, new_run, trained
from zit_app.core.errors import ZitError
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import TrainJob, job_toml
from zit_app.engine.checkpoints import latest_checkpoint
from zit_app.engine.train import resume


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Gives a file system of so many bytes of its own; called again, the same one in another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size: int) -> Path:
        how = f"size={size},remount" if folder.is_mount() else f"size={size}"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(folder)], capture_output=True).returncode:
            pytest.skip("only root may mount a small disk")
        return folder

    yield resize
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_checkpoint_before_whole(
    tmp_path: Path, mount: Callable[[int], Path], dataset: Path, tiny_model: Path
) -> None:
    settings = small_settings(max_steps=4, save_every=2)
    whole = new_run(tmp_path / "whole", settings, dataset, tiny_model)
    resume(whole, Progress(whole))
    checkpoint = sum(path.stat().st_size for path in (whole.folder / "checkpoints/step_000002").iterdir())
    run = new_run(mount(checkpoint * 3 // 2 + 50_000) / "run", settings, dataset, tiny_model)
    with pytest.raises(ZitError, match="disk is full"):
        resume(run, Progress(run))
    assert run.state() == "failed"
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["step_000002"]
    assert_identical(trained(run, 2), trained(whole, 2))

    mount(checkpoint * 4 + 200_000)
    again = Run.open(run.folder)
    assert resume(again, Progress(again)) is not None
    assert_identical(trained(run, 4), trained(whole, 4))


def test_a_file_size_limit_counts_as_a_full_disk(tmp_path: Path, dataset: Path, tiny_model: Path) -> None:
    run = new_run(tmp_path / "run", small_settings(max_steps=2), dataset, tiny_model)
    resume(run, Progress(run))  # fills the cache, so that only checkpoints meet the limit
    run = new_run(tmp_path / "limited", small_settings(max_steps=2), dataset, tiny_model)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(ZitError, match="disk is full"):
            resume(run, Progress(run))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.state() == "failed" and list((run.folder / "checkpoints").iterdir()) == []


def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(
    tmp_path: Path, dataset: Path, tiny_model: Path
) -> None:
    settings = small_settings(max_steps=8)
    run = new_run(tmp_path / "run", settings, dataset, tiny_model)
    resume(run, Progress(run))
    expected = trained(run, 8)
    newest = latest_checkpoint(run.folder)
    assert newest is not None and newest.name == "step_000008"
    moments = newest / "optimizer.safetensors"
    moments.write_bytes(moments.read_bytes()[:-10])
    with pytest.raises(ZitError, match=r"step_000008 is damaged: .*optimizer\.safetensors is cut short") as caught:
        resume(run, Progress(run))
    assert "Remove that folder" in caught.value.remedy
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    resume(run, Progress(run))
    assert_identical(trained(run, 8), expected)


def test_a_checkpoint_of_another_rank_is_refused(tmp_path: Path, dataset: Path, tiny_model: Path) -> None:
    settings = small_settings(max_steps=1)
    run = new_run(tmp_path / "run", settings, dataset, tiny_model)
    resume(run, Progress(run))
    text = job_toml(settings, TrainJob(str(tiny_model), str(dataset)))
    (run.folder / "settings.toml").write_text(text.replace("network_dim = 4", "network_dim = 8"))
    with pytest.raises(ZitError, match="do not fit"):
        resume(run, Progress(run))


def test_checkpoints_hold_fp32_weights_and_nothing_but_safetensors_and_json(
    tmp_path: Path, dataset: Path, tiny_model: Path
) -> None:
    run = new_run(tmp_path / "run", small_settings(max_steps=1, compute="bf16"), dataset, tiny_model)
    resume(run, Progress(run))
    folder = run.folder / "checkpoints" / "step_000001"
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    state = trained(run, 1)
    assert all(tensor.dtype == torch.float32 for key, tensor in state.items() if not key.startswith("random"))
    weights = [key for key in state if key.startswith("lora")]
    assert len(weights) == 28 and len([key for key in state if key.endswith(".exp_avg_sq")]) == 28
