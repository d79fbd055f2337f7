"""What cannot work is refused before the first step, and where possible before anything is cached or loaded."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.small import small_settings
from tests.test_cache import make_dataset
from tests.test_settings import ACRF_CONFIG
from tests.training import new_run
from zit_app.cli import main
from zit_app.core.errors import ZitError
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import AcrfSettings, LoraSettings, TrainSettings
from zit_app.data.index import latents_path
from zit_app.engine.cache import build_cache
from zit_app.engine.train import resume
from zit_app.model.adapter_files import save_adapter
from zit_app.model.cache_files import write_latents


def refused(settings: TrainSettings, dataset: Path, model: Path, folder: Path, message: str) -> Run:
    run = new_run(folder, settings, dataset, model)
    with pytest.raises(ZitError, match=message) as caught:
        resume(run, Progress(run))
    assert caught.value.remedy and run.state() == "failed" and not run.metrics()
    return run


def test_contradictions_are_seen_before_anything_is_cached(tmp_path: Path, tiny_model: Path) -> None:
    dataset, plain = make_dataset(tmp_path / "data"), small_settings()
    large, prompts = tmp_path / "large.safetensors", tmp_path / "prompts.txt"
    prompts.write_text("a red kite\n", encoding="utf-8")
    halves = {"A": (4, 3840), "B": (3840, 4)}
    tensors = {f"layers.0.attention.to_q.lora_{half}.weight": torch.ones(shape) for half, shape in halves.items()}
    save_adapter(large, tensors, 4, 4.0, {})
    cases = {
        "needs the file of a training adapter": small_settings(protection="adapter"),
        "fits this model": small_settings(protection="both", protection_adapter=str(large)),
        "8 does not fit|128 does not fit": replace(plain, lora=LoraSettings(network_type="lokr", lokr_factor=128)),
        "must stay frozen": replace(plain, lora=LoraSettings(extra_targets="attention.norm_q, norm1")),
        "'1-2' names none of this model's main blocks, 0 to 1": replace(plain, lora=LoraSettings(layers="0, 1-2")),
        "'all' names none": replace(plain, lora=LoraSettings(layers="all")),
        "'1-0' names none": replace(plain, lora=LoraSettings(layers="1-0")),
        "holds neither the pictures": small_settings(protection="tether", tether_pictures=False, tether_unrelated=0.0),
        "has no masks": replace(plain, dataset=replace(plain.dataset, mask_loss=True)),
        "have no masks": replace(plain, dataset=replace(plain.dataset, mask_loss=True, own_pictures=2)),
        "alone, dataset.own_pictures": replace(plain, dataset=replace(plain.dataset, drawn=2, own_pictures=2)),
        "nothing.txt cannot be read": replace(
            plain, dataset=replace(plain.dataset, own_pictures=2, own_prompts=str(tmp_path / "nothing.txt"))
        ),
        "from the very prompts that are to stay": replace(
            small_settings(protection="tether", tether_unrelated=1.0, unrelated_prompts=str(prompts)),
            dataset=replace(plain.dataset, own_pictures=2, own_prompts=str(prompts)),
        ),
        "needs three nodes": small_settings(AcrfSettings(curvature=1.0, turbo_steps=2)),
        "add up to more than 1": small_settings(picture_focus=0.6, concept_focus=0.6),
        "needs a graphics card": small_settings(optimizer="adamw8bit"),
    }
    for number, (message, settings) in enumerate(cases.items()):
        refused(settings, dataset, tiny_model, tmp_path / f"{number}", message)
    assert not (dataset / ".zit_cache").exists()
    refused(small_settings(concept_focus=0.5), dataset, tiny_model, tmp_path / "one", "all pictures in .* are of one")


def test_a_model_that_makes_no_numbers_leaves_none_in_the_cache(tmp_path: Path, tiny_model: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight * float("nan") for name, weight in load_file(file).items()}, file, {"format": "pt"})
    run = refused(small_settings(), dataset, broken, tmp_path / "run", r"VAE makes no finite numbers of \d\.png")
    assert run.status()["reason"] == "weights"
    assert not list(dataset.rglob("latents/*.safetensors"))


def test_spoilt_numbers_in_the_cache_are_found_before_the_first_step_and_made_anew(
    tmp_path: Path, tiny_model: Path
) -> None:
    dataset, settings = make_dataset(tmp_path / "data"), small_settings(max_steps=1)
    latents = build_cache(dataset, tiny_model, 64).samples[2].latents
    spoilt = torch.full((16, 8, 8), float("inf"))
    write_latents(latents_path(dataset, latents), latents, spoilt, spoilt.clone())
    run = refused(settings, dataset, tiny_model, tmp_path / "run", "cannot be used: mean is empty or not finite")
    assert resume(Run.open(run.folder), Progress()) is not None  # as its remedy says


def test_the_documents_config_runs_unchanged(tmp_path: Path, home: Path, tiny_model: Path) -> None:
    """Ten nodes, ten epochs, accumulation 4, at the model's own size."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "flavour.json").write_text(json.dumps({"zit_flavour": {"pixels": 64}}), encoding="utf-8")
    config = tmp_path / "acrf_config.toml"
    config.write_text(ACRF_CONFIG, encoding="utf-8")
    dataset = make_dataset(tmp_path / "data", ((64, 64),))
    out = tmp_path / "run"
    words = ["train", "--config", str(config), "--dataset", str(dataset), "--model", str(model), "--out", str(out)]
    assert main(words) == 0
    lines = [line for line in Run.open(out).metrics() if "loss" in line]
    assert len(lines) == 3 and sum("health" in line for line in Run.open(out).metrics()) == 3
    assert (out / "adapter.safetensors").is_file()
