"""Which folder a model name means, and what is said when it is the wrong one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zit_app.core import paths
from zit_app.core.errors import ZitError
from zit_app.core.models import BASE, TURBO, Flavour, find_model, list_models, read_flavour
from zit_app.model.loading import load_text_encoder, load_transformer, load_vae

CPU = torch.device("cpu")


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


@pytest.fixture
def assets(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pocket model's assets, built from the small model: shared parts once, two transformers."""
    root = tmp_path / "assets"
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(tiny_model / part, root / "pocket" / "shared" / part)
    for name, flavour in (
        ("pocket", {"name": "turbo", "steps": 8, "guidance": 0.0, "pixels": 128}),
        ("pocket-base", {}),
    ):
        shutil.copytree(tiny_model / "transformer", root / "pocket" / name / "transformer")
        shutil.copy(tiny_model / "model_index.json", root / "pocket" / name)
        (root / "pocket" / name / "flavour.json").write_text(json.dumps({"zit_flavour": flavour}))
    monkeypatch.setattr(paths, "assets", lambda: root)
    return root


def refusal(model: str | Path) -> str:
    with pytest.raises(ZitError) as caught:
        find_model(model)
    assert caught.value.remedy and "\n" not in str(caught.value)
    return str(caught.value)


def test_pocket_is_assembled_whole_and_without_links(assets: Path, home: Path) -> None:
    folder = find_model("pocket")
    assert folder == home / "models" / "pocket"
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        "transformer", "vae", "text_encoder", "tokenizer", "scheduler",
    }  # fmt: skip
    assert read_flavour(folder) == Flavour("turbo", 8, 0.0, 3.0, 128)
    assert load_transformer(folder, CPU, torch.float32).dim == 64


def test_pocket_is_copied_again_only_when_stale_or_damaged(assets: Path, home: Path) -> None:
    weights = find_model("pocket") / "transformer" / "diffusion_pytorch_model.safetensors"
    first = weights.stat().st_mtime_ns
    find_model("pocket")
    assert weights.stat().st_mtime_ns == first
    weights.write_bytes(b"cut")
    find_model("pocket")
    assert weights.stat().st_size > 3
    original = assets / "pocket" / "pocket" / "transformer" / "diffusion_pytorch_model.safetensors"
    original.write_bytes(original.read_bytes()[::-1])  # same size, other content
    find_model("pocket")
    assert weights.read_bytes() == original.read_bytes()


def test_a_named_model_in_the_home_is_found(copy: Path, home: Path) -> None:
    assert "Z-Image-Turbo" in refusal("turbo")
    shutil.copytree(copy, home / "models" / "Z-Image-Turbo")
    shutil.copytree(copy, home / "models" / "mine")
    assert find_model("turbo") == home / "models" / "Z-Image-Turbo"
    assert find_model("mine") == home / "models" / "mine"
    ready = {model.name for model in list_models() if model.ready}
    assert {"turbo", "mine"} <= ready and "base" not in ready


def test_flavours_without_a_file_are_told_by_name(copy: Path) -> None:
    scheduler = copy / "scheduler" / "scheduler_config.json"
    own = json.loads(scheduler.read_text())
    scheduler.unlink()
    assert read_flavour(copy) == TURBO
    for name, flavour in (
        ("Z-Image", BASE),
        ("Z-Image-Turbo", TURBO),
        ("z-image-base", BASE),
        ("anime-turbo-v2", TURBO),
    ):
        assert read_flavour(copy.rename(copy.parent / name)) == flavour
        copy = copy.parent / name
    index = copy / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_name_or_path": "Tongyi-MAI/Z-Image"}))
    assert read_flavour(copy) == BASE
    scheduler = copy / "scheduler" / "scheduler_config.json"
    for shift in (3.0, 4.5):
        scheduler.write_text(json.dumps({**own, "shift": shift}))
        assert read_flavour(copy) == replace(BASE, shift=shift)  # what the folder says counts


def test_a_name_that_tells_nothing_leaves_it_to_the_shift(copy: Path) -> None:
    copy = copy.rename(copy.parent / "mine")
    scheduler = copy / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "shift": BASE.shift}))
    assert read_flavour(copy) == BASE


def test_wrong_folders_are_refused(copy: Path, home: Path, tmp_path: Path) -> None:
    assert "'turbo'" in refusal("turbi")
    (tmp_path / "empty").mkdir()
    assert "not a diffusers model folder" in refusal(tmp_path / "empty")
    assert "is not a Z-Image" in refusal(str(copy / "vae" / "diffusion_pytorch_model.safetensors"))
    shutil.rmtree(copy / "vae")
    assert "vae missing" in refusal(copy)
    (copy / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "FluxPipeline, not a Z-Image" in refusal(copy)
    (copy / "model_index.json").write_text('{"_class_name": ')
    assert "not a JSON file" in refusal(copy)


@pytest.mark.parametrize(
    ("part", "load"), [("transformer", load_transformer), ("vae", load_vae), ("text_encoder", load_text_encoder)]
)
def test_weights_cut_short_or_pickled_are_refused(copy: Path, part: str, load) -> None:  # type: ignore[no-untyped-def]
    file = next((copy / part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ZitError, match=file.name) as caught:
        load(copy, CPU, torch.float32)
    assert "cut short" in caught.value.what
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(ZitError, match="holds no safetensors file"):
        load(copy, CPU, torch.float32)


def test_loaded_parts_are_frozen_and_of_the_asked_type(tiny_model: Path) -> None:
    transformer = load_transformer(tiny_model, CPU, torch.bfloat16)
    _, encoder = load_text_encoder(tiny_model, CPU, torch.bfloat16)
    for module in (transformer, encoder, load_vae(tiny_model, CPU, torch.bfloat16)):
        assert not module.training
        assert {(p.dtype, p.requires_grad) for p in module.parameters()} == {(torch.bfloat16, False)}
