"""Pictures from pictures, other solvers, and that a PNG remembers how it was drawn."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImageImg2ImgPipeline, ZImagePipeline
from PIL import Image

from zit_app.cli import main
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import SOLVERS, GenerateSettings
from zit_app.core.models import BASE, TURBO, Limits
from zit_app.data.recipe import read_recipe
from zit_app.engine.generate import generate
from zit_app.engine.plan import make_plan
from zit_app.engine.source_picture import open_source, source_tensor
from zit_app.flow.schedule import nodes, redrawing, unshifted
from zit_app.model.draw import noise_for, starting_point
from zit_app.model.latents import encode_pictures, normalise
from zit_app.service.gallery import restore

SIZE = (64, 48)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A photo-like picture of another shape, half of it transparent."""
    across = np.linspace(0, 255, 120, dtype=np.uint8)
    data = np.dstack([np.tile(across, (90, 1)), np.tile(across[:90, None], (1, 120)), np.full((90, 120), 99, np.uint8)])
    path = tmp_path / "in put.png"
    Image.fromarray(data).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_a_redrawn_picture_is_that_of_diffusers(
    tiny_model: Path, tiny_pipeline: ZImagePipeline, home: Path, tmp_path: Path, picture: Path
) -> None:
    settings = GenerateSettings(
        prompts=("a cat",), width=64, height=48, guidance=0.0, seed=3, image=str(picture), strength=0.6, steps=8
    )
    ours = generate(settings, tiny_model, tmp_path / "a.png")[0]
    x = source_tensor(open_source(picture), SIZE)
    clean = normalise(tiny_pipeline.vae, encode_pictures(tiny_pipeline.vae, x)[0])
    visited = redrawing(nodes(8), 0.6)
    start = starting_point([3], 16, SIZE, visited, clean[0])
    pipeline = ZImageImg2ImgPipeline(**tiny_pipeline.components)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a cat",
        image=open_source(picture).resize(SIZE),
        latents=start,
        strength=0.6,
        width=64,
        height=48,
        num_inference_steps=8,
        sigmas=unshifted(8).tolist(),
        guidance_scale=0.0,
    ).images[0]
    assert np.abs(pixels(ours) - np.asarray(theirs).astype(int)).max() <= 1
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=unshifted(8).tolist())
    timestep = scheduler.timesteps[8 - len(visited)].reshape(1)
    assert torch.allclose(start, scheduler.scale_noise(clean, timestep, noise_for([3], 16, SIZE)), atol=1e-5)


@pytest.mark.parametrize(
    "steps, strength, left", [(8, 0.6, 5), (12, 0.75, 9), (8, 1.0, 8), (8, 0.05, 1), (28, 0.5, 14)]
)
def test_strength_takes_its_share_of_the_steps(steps: int, strength: float, left: int) -> None:
    visited = redrawing(nodes(steps), strength)
    assert len(visited) == left and torch.equal(visited, nodes(steps)[-left:])


def test_less_strength_stays_nearer(tiny_model: Path, home: Path, tmp_path: Path, picture: Path) -> None:
    found = []
    for strength in (0.1, 0.5, 1.0):
        settings = GenerateSettings(prompts=("a cat",), image=str(picture), strength=strength, width=64, height=48)
        found.append(pixels(generate(settings, tiny_model, tmp_path / f"{strength}.png")[0]))
    assert np.abs(found[0] - found[2]).mean() > np.abs(found[1] - found[2]).mean() > 0
    plain = GenerateSettings(prompts=("a cat",), steps=12, width=64, height=48)
    assert np.abs(pixels(generate(plain, tiny_model, tmp_path / "p.png")[0]) - found[2]).max() <= 1  # all noise


@pytest.mark.parametrize(
    "pixels, limit, size", [(1024, 2048, (1184, 880)), (1024, 1024, (1024, 768)), (64, 64, (64, 48))]
)
def test_size_and_steps_come_from_the_picture_and_the_documents(
    pixels: int, limit: int, size: tuple[int, int], picture: Path
) -> None:
    settings = GenerateSettings(prompts=("a cat",), image=str(picture))
    for flavour, steps in ((TURBO, 12), (BASE, 50)):
        plan = make_plan(settings, replace(flavour, pixels=pixels), Limits(512, limit, limit), torch.device("cpu"))
        assert plan.size == size and len(plan.sigmas) == steps and len(plan.visited) == -(-steps * 3 // 4)


@pytest.mark.parametrize("solver", ["heun", "dpm++2m"])
def test_a_png_remembers_solver_picture_and_strength(
    solver: str, tiny_model: Path, home: Path, tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.png"
    words = ["generate", "--model", str(tiny_model), "--prompt", "a cat", "--size", "64x48", "--seed", "4"]
    words += ["--sampler", solver, "--image", str(picture), "--strength", "0.5", "--steps", "6", "--out", str(out)]
    assert main(words) == 0
    text = Image.open(out).text
    name = {"heun": "Heun", "dpm++2m": "DPM++ 2M"}[solver]
    assert f"Sampler: {name}," in text["parameters"] and "Denoising strength: 0.5" in text["parameters"]
    assert json.loads(text["zit"])["solver"] == solver
    picture.unlink()  # the original may go: a copy stays
    restored = restore(out)
    assert not set(restored.missing) - {tiny_model.name}
    again = generate(restored.settings, tiny_model, tmp_path / "again.png")[0]
    assert np.array_equal(pixels(out), pixels(again))
    for kept in (home / "inputs").iterdir():
        kept.unlink()
    assert "in put.png" in restore(out).missing


def test_the_chosen_solver_draws(tiny_model: Path, home: Path, tmp_path: Path) -> None:
    found = {}
    for number, solver in enumerate(SOLVERS):
        settings = GenerateSettings(prompts=("a cat",), width=64, height=48, steps=3, solver=solver)
        found[solver] = pixels(generate(settings, tiny_model, tmp_path / f"{number}.png")[0])
    assert not np.array_equal(found["euler"], found["heun"])
    assert not np.array_equal(found["euler"], found["dpm++2m"])
    assert not np.array_equal(found["heun"], found["dpm++2m"])


@pytest.mark.parametrize("precision", ["int8", "fp8", "nf4", "int8-quanto"])
def test_a_picture_in_fewer_bits(precision: str, tiny_model: Path, home: Path, tmp_path: Path) -> None:
    full, packed = (
        GenerateSettings(prompts=("a cat",), width=64, height=48, steps=4, precision=one, text_precision=two)
        for one, two in (("auto", "auto"), (precision, precision))
    )
    expected = pixels(generate(full, tiny_model, tmp_path / "a.png")[0])
    path = generate(packed, tiny_model, tmp_path / "b.png")[0]
    assert 0 < np.abs(pixels(path) - expected).mean() < {"nf4": 40}.get(precision, 15)
    assert read_recipe(path).precision == precision and read_recipe(path).text_precision == precision
    assert len(list((home / "stored").iterdir())) == 2


@pytest.mark.parametrize("name, words", [("none.png", "does not exist"), ("broken.png", "no picture that can be read")])
def test_what_is_no_picture_is_said(name: str, words: str, tiny_model: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ZitError, match=words):
        generate(GenerateSettings(prompts=("a cat",), image=str(tmp_path / name)), tiny_model)
