"""Pictures drawn again in part, larger, with choices of the seed, or with attention computed in another way."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ZImageInpaintPipeline, ZImagePipeline
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from diffusers.pipelines.z_image import pipeline_z_image_inpaint
from PIL import Image, ImageFilter

from tests.test_generate import StopsAfter
from zit_app.cli import main
from zit_app.core.attention import BACK_ENDS, installed
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import GenerateSettings
from zit_app.data.recipe import read_recipe
from zit_app.engine.generate import generate
from zit_app.engine.source_picture import fitted, open_mask, open_source
from zit_app.engine.warm import Warm
from zit_app.flow.schedule import redrawing, unshifted
from zit_app.service.gallery import picture as picture_of
from zit_app.service.gallery import restore

SIZE = (64, 48)
SMALL = dict(width=64, height=48, guidance=0.0, seed=3)
Draw = Callable[..., Path]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture(scope="module")
def warm() -> Warm:
    return Warm()


@pytest.fixture
def draw(tiny_model: Path, home: Path, tmp_path: Path, warm: Warm) -> Draw:
    """Draw one picture: `draw("a", steps=3)`."""

    def one(name: str, prompt: str = "a cat", **more: object) -> Path:
        settings = GenerateSettings(prompts=(prompt,), **{**SMALL, **more})
        return generate(settings, tiny_model, tmp_path / f"{name}.png", warm=warm)[0]

    return one


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """White right of the middle, on the grid of the latents."""
    white = np.zeros((48, 64), dtype=np.uint8)
    white[:, 32:] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


# ---------------------------------------------------------------- in part


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_the_inside_of_a_mask_is_that_of_diffusers(
    strength: float, draw: Draw, tiny_pipeline: ZImagePipeline, photo: Path, mask: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = draw("a", image=str(photo), mask=str(mask), mask_blur=0, strength=strength, steps=8)
    mean = partial(pipeline_z_image_inpaint.retrieve_latents, sample_mode="argmax")
    monkeypatch.setattr(pipeline_z_image_inpaint, "retrieve_latents", mean)
    pipeline = ZImageInpaintPipeline(**tiny_pipeline.components)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a cat",
        image=open_source(photo),
        mask_image=Image.open(mask),
        strength=strength,
        width=64,
        height=48,
        num_inference_steps=8,
        sigmas=unshifted(8).tolist(),
        guidance_scale=0.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images[0]
    right = np.s_[:, 32:]
    assert np.abs(pixels(ours)[right] - (theirs * 255).round().astype(int)[right]).max() <= 1
    assert np.array_equal(pixels(ours)[:, :32], pixels(photo)[:, :32])  # put back, to the bit


@pytest.mark.parametrize("solver", ["euler", "heun", "dpm++2m"])
def test_what_a_mask_keeps_is_kept_with_every_solver(solver: str, draw: Draw, photo: Path, mask: Path) -> None:
    for blur in (0, 4):
        drawn = pixels(draw(f"{blur}", image=str(photo), mask=str(mask), mask_blur=blur, solver=solver, steps=4))
        assert np.array_equal(drawn[:, :32], pixels(photo)[:, :32])
        assert np.abs(drawn[:, 40:] - pixels(photo)[:, 40:]).mean() > 5


def test_the_edge_is_soft_inwards(draw: Draw, photo: Path, mask: Path) -> None:
    hard, soft = (draw(f"{n}", image=str(photo), mask=str(mask), mask_blur=n) for n in (0, 6))
    nearer = np.abs(pixels(soft) - pixels(photo)).mean(axis=(0, 2)) / np.abs(pixels(hard) - pixels(photo)).mean(
        axis=(0, 2)
    ).clip(1e-9)
    assert nearer[33] < 0.7 and nearer[60] == pytest.approx(1, abs=1e-6) and nearer[34] < nearer[40]


def test_mask_and_picture_of_any_size_are_cut_alike(tmp_path: Path, photo: Path) -> None:
    Image.open(photo).resize((200, 100)).save(tmp_path / "wide.png")
    painted = Image.new("RGBA", (100, 50))  # as an editor saves it: white paint on nothing
    painted.paste((255, 255, 255, 255), (40, 0, 60, 50))
    painted.save(tmp_path / "painted.png")
    found = fitted(open_mask(tmp_path / "painted.png", open_source(tmp_path / "wide.png")), (48, 48))
    columns = np.asarray(found).mean(0) > 127
    assert columns[:14].sum() == 0 and columns[15:33].all() and columns[34:].sum() == 0  # the middle of the square


@pytest.mark.parametrize(
    ("colour", "size", "changes", "words"),
    [
        (0, SIZE, {}, "black everywhere"),
        (255, (48, 64), {}, "their shapes differ"),
        (255, SIZE, {"image": ""}, "needs a picture"),
        (255, SIZE, {"larger": 2.0}, "not drawn larger"),
        (255, SIZE, {"mask": "none.png"}, "does not exist"),
    ],
)
def test_a_mask_that_cannot_work_is_said(
    colour: int, size: tuple[int, int], changes: dict, words: str, draw: Draw, photo: Path, tmp_path: Path
) -> None:
    Image.new("L", size, colour).save(tmp_path / "m.png")
    with pytest.raises(ZitError, match=words):
        draw("p", **{"image": str(photo), "mask": str(tmp_path / "m.png"), **changes})


# ---------------------------------------------------------------- larger


def test_a_larger_picture_is_the_small_one_redrawn(draw: Draw, tmp_path: Path) -> None:
    both = draw("both", steps=4, larger=1.5, larger_strength=0.5, larger_steps=6)
    small = draw("small", steps=4)
    by_hand = draw("by_hand", image=str(small), strength=0.5, steps=6, width=96, height=64)
    assert Image.open(both).size == (96, 64)  # 72 is no multiple of 16
    assert np.array_equal(pixels(both), pixels(by_hand))


def test_a_batch_drawn_larger_is_the_pictures_alone(tiny_model: Path, home: Path, tmp_path: Path, draw: Draw) -> None:
    settings = GenerateSettings(prompts=("a cat",), count=3, steps=2, larger=2.0, **{**SMALL, "seed": 1})
    many = generate(settings, tiny_model, tmp_path / "many")
    assert np.abs(pixels(many[2]) - pixels(draw("one", steps=2, larger=2.0))).max() <= 1


def test_steps_of_both_passes_count_and_the_second_can_be_stopped(tiny_model: Path, home: Path) -> None:
    left = len(redrawing(unshifted(12), 0.3))
    settings = GenerateSettings(prompts=("a cat",), steps=3, larger=2.0, **SMALL)
    progress = StopsAfter(3 + left - 1)
    assert generate(settings, tiny_model, progress=progress) == []
    assert progress.run is not None and progress.run.status()["total"] == 3 + left


def test_what_is_too_large_is_said(draw: Draw) -> None:
    with pytest.raises(ZitError, match="2048x1536 is larger than this model"):
        draw("p", width=1024, height=768, larger=2.0)


# ---------------------------------------------------------------- attention


def test_exact_attention_gives_the_same_picture(draw: Draw) -> None:
    names = installed(card=False)
    assert {"native", "_native_math"} <= set(names) and "_native_cudnn" not in names
    found = {name: pixels(draw(name, attention=name, steps=4)) for name in names}
    for name in names:
        assert np.abs(found[name] - found["native"]).max() <= 1
        assert _AttentionBackendRegistry.get_active_backend()[0] == AttentionBackendName.NATIVE  # only while drawing


def test_prompts_of_unequal_length_go_with_attention_that_takes_no_mask(
    tiny_model: Path, home: Path, tmp_path: Path, draw: Draw
) -> None:
    prompts = ("a cat", "a dog and a very long story about it " * 3)
    settings = GenerateSettings(prompts=prompts, attention="_native_flash", steps=2, **{**SMALL, "guidance": 2.0})
    both = generate(settings, tiny_model, tmp_path / "both")
    for prompt, path in zip(prompts, both, strict=True):
        assert np.abs(pixels(path) - pixels(draw("one", prompt, steps=2, guidance=2.0))).max() <= 1


def test_attention_that_is_not_there_is_refused(draw: Draw, capsys: pytest.CaptureFixture[str]) -> None:
    missing = next(name for name in BACK_ENDS if name not in installed(card=False))
    with pytest.raises(ZitError, match=f"{missing} is not installed here. Choose auto or one of: native"):
        draw("p", attention=missing)


def test_installed_attention_is_measured(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "attention", "--size", "128x128", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {one["name"] for one in told["measured"]} == set(installed(card=False))
    assert (told["auto"], told["tokens"], told["failed"]) == ("native", 64, [])
    assert all(one["error"] < 1e-5 and one["seconds"] > 0 for one in told["measured"])


# ---------------------------------------------------------------- the recipe


def test_a_png_remembers_all_of_it(
    tiny_model: Path, home: Path, tmp_path: Path, photo: Path, mask: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "wildcards").mkdir(parents=True)
    (home / "wildcards" / "pet.txt").write_text("cat\ndog\n")
    common = ["generate", "--model", str(tiny_model), "--size", "64x48", "--seed", "5", "--steps", "3"]
    words = ["--prompt", r"a {red|blue} __pet__ \{x\}", "--larger", "1.5", "--larger-strength", "0.3"]
    assert main([*common, *words, "--attention", "_native_math", "--out", str(tmp_path / "a.png")]) == 0
    text, recipe = Image.open(tmp_path / "a.png").text, read_recipe(tmp_path / "a.png")
    assert recipe.prompt in {f"a {c} {p} {{x}}" for c in ("red", "blue") for p in ("cat", "dog")}
    assert recipe.template == r"a {red|blue} __pet__ \{x\}" and recipe.attention == "_native_math"
    assert text["parameters"].startswith(f"{recipe.prompt}\nSteps: 3") and "Hires upscale: 1.5" in text["parameters"]
    assert "Denoising strength: 0.3" in text["parameters"] and recipe.larger_steps == 12
    facts = text["parameters"].split("Template: ")[1].split(", Version")[0]
    assert json.loads(facts) == recipe.template
    assert picture_of(tmp_path / "a.png").width == 96
    # drawn again without the wildcards, to the bit
    (home / "wildcards" / "pet.txt").unlink()
    restored = restore(tmp_path / "a.png").settings
    assert np.array_equal(pixels(generate(restored, tiny_model, tmp_path / "b.png")[0]), pixels(tmp_path / "a.png"))
    assert read_recipe(tmp_path / "b.png").prompt == recipe.prompt and read_recipe(tmp_path / "b.png").template == ""

    words = ["--prompt", "a cat", "--image", str(photo), "--mask", str(mask), "--mask-blur", "3"]
    assert main([*common, *words, "--out", str(tmp_path / "c.png")]) == 0
    mask.unlink()
    restored = restore(tmp_path / "c.png").settings
    assert np.array_equal(pixels(generate(restored, tiny_model, tmp_path / "d.png")[0]), pixels(tmp_path / "c.png"))
    assert "Mask blur: 3" in Image.open(tmp_path / "c.png").text["parameters"]
    next((home / "inputs").glob(f"{read_recipe(tmp_path / 'c.png').mask_sha256[:32]}.*")).unlink()
    assert "mask.png" in restore(tmp_path / "c.png").missing


def test_each_picture_of_a_prompt_has_its_own_words(tiny_model: Path, home: Path, tmp_path: Path) -> None:
    settings = GenerateSettings(prompts=("a {red|green|blue|grey} cat",), count=12, steps=1, **SMALL)
    found = [read_recipe(path).prompt for path in generate(settings, tiny_model, tmp_path / "out")]
    assert len(set(found)) == 4
    alone = GenerateSettings(prompts=(found[4],), steps=1, **{**SMALL, "seed": 7})
    path = generate(alone, tiny_model, tmp_path / "alone.png")[0]
    assert np.abs(pixels(path) - pixels(tmp_path / "out" / "0004_7.png")).max() <= 1
