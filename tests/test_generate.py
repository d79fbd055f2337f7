"""Pictures are those of diffusers' pipeline, and a run of generation keeps its promises."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline
from PIL import Image

from tests.test_adapters import random_lora
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import GenerateSettings, LoraUse
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.engine.generate import generate
from zit_app.flow.schedule import unshifted
from zit_app.model.adapter_files import save_adapter
from zit_app.model.draw import noise_for

SMALL = dict(width=64, height=48, steps=8, guidance=0.0)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def by_diffusers(pipeline: ZImagePipeline, prompt: str, seed: int, guidance: float, negative: str = "") -> np.ndarray:
    picture = pipeline(
        prompt,
        negative_prompt=negative,
        width=64,
        height=48,
        num_inference_steps=8,
        sigmas=unshifted(8).tolist(),
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize(
    ("guidance", "negative"), [(0.0, ""), (3.0, ""), (3.0, "a long negative prompt of other length")]
)
def test_pictures_are_those_of_the_pipeline(
    tiny_model: Path, tiny_pipeline: ZImagePipeline, home: Path, tmp_path: Path, guidance: float, negative: str
) -> None:
    settings = GenerateSettings(
        prompts=("a red apple", "扁平表情，红苹果"),
        negative_prompt=negative,
        count=2,
        seed=5,
        **{**SMALL, "guidance": guidance},
    )
    paths = generate(settings, tiny_model, tmp_path / "out")
    assert [path.name for path in paths] == ["0000_5.png", "0001_6.png", "0002_5.png", "0003_6.png"]
    shots = [(prompt, seed) for prompt in settings.prompts for seed in (5, 6)]
    for path, (prompt, seed) in zip(paths, shots, strict=True):
        expected = by_diffusers(tiny_pipeline, prompt, seed, guidance, negative)
        assert np.abs(pixels(path) - expected).max() <= 1
    assert np.abs(pixels(paths[0]) - pixels(paths[2])).max() > 8  # the prompt matters
    assert np.abs(pixels(paths[0]) - pixels(paths[1])).max() > 8  # and the seed


def test_a_picture_is_the_same_alone_and_in_a_batch(tiny_model: Path, home: Path, tmp_path: Path) -> None:
    many = generate(GenerateSettings(prompts=("a cat", "a dog " * 12), count=4, **SMALL), tiny_model, tmp_path / "many")
    for prompt, seed, index in (("a cat", 3, 3), ("a dog " * 12, 1, 5)):
        alone = tmp_path / f"{seed}.png"
        assert generate(GenerateSettings(prompts=(prompt,), seed=seed, **SMALL), tiny_model, alone) == [alone]
        assert np.abs(pixels(alone) - pixels(many[index])).max() <= 1
    assert torch.equal(noise_for([7, 3], 16, (64, 48))[1:], noise_for([3], 16, (64, 48)))


def test_explicit_sigmas_are_visited(tiny_model: Path, home: Path, tmp_path: Path) -> None:
    eight = tuple((3 * u / (1 + 2 * u)).item() for u in unshifted(8))
    settings = {key: value for key, value in SMALL.items() if key != "steps"}
    first = generate(GenerateSettings(prompts=("a cat",), **SMALL), tiny_model, tmp_path / "a.png")
    second = generate(GenerateSettings(prompts=("a cat",), sigmas=eight, **settings), tiny_model, tmp_path / "b.png")
    third = generate(
        GenerateSettings(prompts=("a cat",), sigmas=(1.0, 0.4), **settings), tiny_model, tmp_path / "c.png"
    )
    assert np.abs(pixels(first[0]) - pixels(second[0])).max() <= 1
    assert np.abs(pixels(first[0]) - pixels(third[0])).max() > 1


def test_the_recipe_is_in_the_picture(
    tiny_model: Path, tiny_pipeline: ZImagePipeline, home: Path, tmp_path: Path
) -> None:
    lora = tmp_path / "style.safetensors"
    save_adapter(lora, random_lora(copy.deepcopy(tiny_pipeline.transformer)), 4, 4.0, {})
    settings = GenerateSettings(
        prompts=("红苹果",), seed=11, loras=(LoraUse(str(lora), 0.5, 1, 2),), negative_prompt="blurry", **SMALL
    )
    path = generate(settings, tiny_model, tmp_path / "p.png")[0]
    text = Image.open(path).text
    assert text["parameters"].startswith(
        "红苹果\nNegative prompt: blurry\nSteps: 8, Sampler: Euler, CFG scale: 0, Seed: 11"
    )
    recipe = json.loads(text["zit"])
    assert recipe["prompt"] == "红苹果" and recipe["seed"] == 11 and len(recipe["sigmas"]) == 8
    assert recipe["loras"][0]["name"] == "style.safetensors" and recipe["loras"][0]["last"] == 2
    again = generate(
        GenerateSettings(
            prompts=(recipe["prompt"],),
            seed=recipe["seed"],
            sigmas=tuple(recipe["sigmas"]),
            guidance=recipe["guidance"],
            width=recipe["width"],
            height=recipe["height"],
            loras=(LoraUse(str(lora), 0.5, 1, 2),),
        ),
        tiny_model,
        tmp_path / "again.png",
    )[0]
    assert np.abs(pixels(path) - pixels(again)).max() <= 1
    bare = generate(GenerateSettings(prompts=("红苹果",), seed=11, **SMALL), tiny_model, tmp_path / "bare.png")[0]
    assert np.abs(pixels(path) - pixels(bare)).max() > 8


def test_a_run_is_a_folder(tiny_model: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    paths = generate(GenerateSettings(prompts=("a cat",), **SMALL), tiny_model, progress=progress)
    folder = paths[0].parent
    assert folder.parent == home / "runs" / "generate"
    run = Run.open(folder)
    assert run.state() == "done" and run.status()["pictures"] == [str(paths[0])]
    assert run.status()["step"] == run.status()["total"] == 8
    assert "a cat" in (folder / "settings.toml").read_text()


class StopsAfter(Progress):
    """An owner who asks to stop once some steps are done."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def step(self, done: int, total: int, **figures: float) -> None:
        super().step(done, total, **figures)
        self.left -= 1
        if self.left == 0 and self.run is not None:
            self.run.request(stop=True)


def test_stopping_keeps_whole_pictures_only(tiny_model: Path, home: Path) -> None:
    progress = StopsAfter(8 + 3)
    settings = GenerateSettings(prompts=("a cat",), count=20, **SMALL)  # 16 pictures, then 4
    paths = generate(settings, tiny_model, progress=progress)
    assert len(paths) == 16 and all(path.is_file() for path in paths)
    assert progress.run is not None and progress.run.state() == "stopped"
    assert len(list(paths[0].parent.glob("*.png"))) == 16
    assert progress.left == 0  # the step in which it was asked was the last one


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": ()}, "no prompt"),
        ({"width": 60}, "multiples of 16"),
        ({"width": 1040}, "larger than this model"),
        ({"sigmas": (0.5, 0.9)}, "sigmas must fall"),
        ({"sigmas": (1.0, 0.0)}, "sigmas must fall"),
        ({"sigmas": (1.0, 0.5)}, "2 sigmas are not 8 steps"),
        ({"count": 2}, "do not fit into"),
        ({"loras": (LoraUse("none.safetensors"),)}, "does not exist"),
        ({"loras": (LoraUse("late.safetensors", 1.0, 9, 0),)}, "begins at step 9 of 8"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_loaded(
    tiny_model: Path, home: Path, tmp_path: Path, changes: dict, words: str
) -> None:
    settings = GenerateSettings(**{"prompts": ("a cat",), **SMALL, **changes})
    with pytest.raises(ZitError, match=words):
        generate(settings, tiny_model, tmp_path / "p.png")
    assert not (home / "runs").exists()
