"""Z-Image Omni: drawing with pictures that the prompt speaks of is what diffusers' own pipeline draws."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ZImageOmniPipeline
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.siglip2.configuration_siglip2 import Siglip2VisionConfig
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionModel

from tests.live_bytes import LiveBytes
from tests.test_generate import pixels
from tests.test_memory import CPU, FEW, FULL, MARGIN, OMNI, made, pack, parameters
from tests.tiny import make_tiny_omni
from zit_app.cli import main
from zit_app.core import memory, sizes
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import GenerateSettings
from zit_app.core.memory import Numbers, Request
from zit_app.core.models import find_model, read_flavour, read_limits
from zit_app.core.progress import Progress
from zit_app.data.recipe import read_recipe
from zit_app.engine.generate import generate
from zit_app.engine.warm import Warm
from zit_app.flow.schedule import unshifted
from zit_app.model.adapters import attach_lora
from zit_app.model.forward import predict_velocity
from zit_app.model.loading import load_transformer
from zit_app.model.omni import Reference, looking_at
from zit_app.service import gallery

SMALL: dict[str, Any] = dict(width=64, height=48, steps=3)
Draw = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_omni(tmp_path_factory.mktemp("omni") / "Z-Image-Omni-Base")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """One whose sides are whole patches, one whose sides are not."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    files = []
    for name, (width, height) in (("red bag.png", (96, 80)), ("袋.png", (133, 71))):
        noise = draw.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        Image.fromarray(noise).resize((width, height)).save(folder / name)
        files.append(str(folder / name))
    return files


@pytest.fixture
def by_diffusers(omni: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    """Its own pipeline; it rounds pictures to bf16 whatever the VAE is, which ours does not and fp32 cannot."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor)
    pipeline = ZImageOmniPipeline.from_pretrained(omni)
    pipeline.set_progress_bar_config(disable=True)

    def drawn(prompt: str, seed: int, files: list[str], guidance: float = 0.0, negative: str = "") -> np.ndarray:
        picture = pipeline(
            image=[Image.open(file) for file in files] or None,
            prompt=prompt,
            negative_prompt=negative,
            width=64,
            height=48,
            num_inference_steps=3,
            sigmas=unshifted(3).tolist(),
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        return np.asarray(picture).astype(int)

    return drawn


def test_an_omni_is_recognised(omni: Path, tiny_model: Path) -> None:
    flavour = read_flavour(find_model(omni))
    assert (flavour.name, flavour.steps, flavour.guidance) == ("omni", 50, 4.0)
    assert flavour.shift == 3.0  # its scheduler's
    assert read_limits(omni).references == 8 and read_limits(tiny_model).references == 0


@pytest.mark.parametrize(("count", "guidance", "negative"), [(0, 0.0, ""), (1, 0.0, ""), (2, 3.0, "a blurry one")])
def test_pictures_are_those_of_the_pipeline(
    omni: Path, by_diffusers: Draw, pictures: list[str], home: Path, tmp_path: Path, count: int, guidance: float,
    negative: str,
) -> None:  # fmt: skip
    files = pictures[:count]
    prompts = ("put the bag on a table, and let it be rather a longer prompt than the other one", "红袋")
    settings = GenerateSettings(
        prompts=prompts, seed=5, guidance=guidance, negative_prompt=negative, references=tuple(files), **SMALL
    )
    paths = generate(settings, omni, tmp_path / "out")
    for path, prompt in zip(paths, prompts, strict=True):
        assert np.abs(pixels(path) - by_diffusers(prompt, 5, files, guidance, negative)).max() <= 1
    if files:
        bare = generate(GenerateSettings(prompts=prompts[:1], seed=5, guidance=guidance, **SMALL), omni, tmp_path / "b")
        assert np.abs(pixels(paths[0]) - pixels(bare[0])).max() > 8  # what it looks at matters


def test_large_pictures_are_seen_in_the_size_of_the_drawing(
    omni: Path, by_diffusers: Draw, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "large.png"
    Image.effect_noise((1100, 1000), 90).convert("RGB").save(file)
    path = generate(GenerateSettings(prompts=("x",), guidance=0.0, references=(str(file),), **SMALL), omni, tmp_path)
    assert np.abs(pixels(path[0]) - by_diffusers("x", 0, [str(file)])).max() <= 1


def test_the_command_draws_and_the_recipe_brings_the_pictures_back(
    omni: Path, pictures: list[str], home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.png"
    words = ["generate", "--model", str(omni), "--prompt", "a bag", "--size", "64x48", "--steps", "2", "--seed", "3"]
    told = [*words, *(word for file in pictures for word in ("--reference", file)), "--out", str(out), "--json"]
    assert main(told) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pictures"] == [str(out)]
    recipe = read_recipe(out)
    assert [one.name for one in recipe.references] == ["red bag.png", "袋.png"]
    assert recipe.guidance == 4.0 and 'References: "red bag.png, 袋.png"' in recipe.parameters()
    restored = gallery.restore(out)
    assert len(restored.settings.references) == 2 and not set(pictures) & set(restored.settings.references)
    again = generate(restored.settings, omni, tmp_path / "again.png")
    assert np.abs(pixels(again[0]) - pixels(out)).max() <= 1
    for kept in restored.settings.references:
        Path(kept).unlink()
    assert {"red bag.png", "袋.png"} <= set(gallery.restore(out).missing)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_packed_and_coming_and_going_it_draws_the_same(
    omni: Path, pictures: list[str], home: Path, tmp_path: Path, precision: str
) -> None:
    settings = GenerateSettings(
        prompts=("a bag",), guidance=0.0, precision=precision, references=tuple(pictures[:1]), **{**SMALL, "steps": 2}
    )
    whole = generate(settings, omni, tmp_path / "whole.png")
    lean = generate(settings, omni, tmp_path / "lean.png", warm=Warm(free=lambda: 400_000))
    assert np.abs(pixels(whole[0]) - pixels(lean[0])).max() <= 1


def test_pictures_that_were_seen_are_not_seen_again(
    omni: Path, pictures: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warm, first, second = Warm(), Progress(), Progress()
    settings = GenerateSettings(prompts=("a bag",), guidance=0.0, references=tuple(pictures), **SMALL)
    generate(settings, omni, progress=first, warm=warm)
    assert "Looking at the pictures" in capsys.readouterr().err
    generate(settings, omni, progress=second, warm=warm)
    assert "Looking at the pictures" not in capsys.readouterr().err


def test_what_cannot_be_looked_at_is_refused_in_one_sentence(
    omni: Path, tiny_model: Path, pictures: list[str], home: Path, tmp_path: Path
) -> None:
    small, long, broken = (tmp_path / name for name in ("small.png", "long.png", "broken.png"))
    Image.new("RGB", (40, 90)).save(small)
    Image.new("RGB", (900, 70)).save(long)
    broken.write_bytes(b"no picture")
    for model, files, words in (
        (tiny_model, pictures, "looks at no pictures"),
        (omni, [str(small)], "is only 40x90"),
        (omni, [str(long)], "is too long"),
        (omni, [str(broken)], "no picture that can be read"),
        (omni, [str(tmp_path / "none.png")], "does not exist"),
        (omni, pictures * 5, "10 pictures are too many"),
    ):
        with pytest.raises(ZitError, match=words):
            generate(GenerateSettings(prompts=("x",), references=tuple(files), **SMALL), model, tmp_path / "p.png")
    assert not (home / "runs").exists()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_omni_learns_through_what_it_draws_with(omni: Path, home: Path, checkpointing: bool) -> None:
    transformer = load_transformer(omni, CPU, torch.float32)
    x, sigma = torch.randn(3, 16, 6, 8), torch.tensor([0.9, 0.6, 0.3])
    caps = [torch.randn(length, 32) for length in (40, 7, 50)]
    with torch.no_grad():
        each = [predict_velocity(transformer, x[i : i + 1], sigma[i : i + 1], caps[i : i + 1]) for i in range(3)]
        exact = torch.cat(each)
    attach_lora(transformer, rank=4, alpha=4.0, seed=1)
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    found = predict_velocity(transformer, x, sigma, caps)
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-4)  # a LoRA begins with no change
    found.square().mean().backward()
    learning = [one for one in transformer.parameters() if one.requires_grad]
    assert learning and all(one.grad is not None and one.grad.isfinite().all() for one in learning)
    assert any(one.grad.abs().max() > 0 for one in learning if one.grad is not None)


def test_the_plan_is_told_of_pictures(
    omni: Path, tiny_model: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def weighed(*more: str) -> dict[str, Any]:
        assert main(["plan", "--model", str(omni), "--vram", "8", "--size", "512x512", "--json", *more]) == 0
        return {one["phase"]: one["total"] for one in json.loads(capsys.readouterr().out.splitlines()[-1])["drawing"]}

    bare, seeing = weighed(), weighed("--references", "2")
    assert seeing["draw"] > bare["draw"] and seeing["read"] >= bare["read"]
    assert main(["plan", "--model", str(tiny_model), "--references", "1"]) == 1
    assert "looks at no pictures" in capsys.readouterr().err


def test_an_omni_without_its_siglip_is_incomplete(tmp_path: Path, home: Path) -> None:
    folder = make_tiny_omni(tmp_path / "omni")
    for file in (folder / "siglip").iterdir():
        file.unlink()
    with pytest.raises(ZitError, match="holds no safetensors file"):
        generate(
            GenerateSettings(prompts=("x",), references=(str(_picture(tmp_path)),), **SMALL), folder, tmp_path / "p.png"
        )
    (folder / "siglip").rmdir()
    with pytest.raises(ZitError, match="siglip missing"):
        find_model(folder)


def _picture(folder: Path) -> Path:
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    return folder / "red.png"


SO400M = dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16)


@pytest.mark.parametrize("config", [SO400M, {}])
def test_weights_of_siglip_are_counted_to_the_last(config: dict[str, int]) -> None:
    with torch.device("meta"):
        assert sizes.sight_numbers(config) == parameters(Siglip2VisionModel(Siglip2VisionConfig(**config)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_looking_takes_what_is_counted(dtype: torch.dtype) -> None:
    model = made(lambda: Siglip2VisionModel(Siglip2VisionConfig(num_hidden_layers=2)), dtype).eval()
    seen = {"pixel_attention_mask": torch.ones(1, 256, dtype=torch.int32), "spatial_shapes": torch.tensor([[16, 16]])}
    patches = torch.randn(1, 256, 768)
    with torch.no_grad(), LiveBytes() as live:
        model(pixel_values=patches, **seen)
    assert memory.looking_activations({}, Numbers(2, "", dtype.itemsize, "")) == pytest.approx(live.peak, rel=MARGIN)


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (Request(1024, 1024, caption_tokens=100), ""),
        (Request(1024, 1024, guided=True, caption_tokens=100, references=((1024, 1024), (512, 512))), ""),
        (Request(768, 1024, caption_tokens=100, references=((1024, 1024),)), "int8"),
    ],
)
def test_drawing_with_the_full_omni_takes_what_is_counted(request_: Request, kind: str) -> None:
    count, seen = 2 if request_.guided else 1, len(request_.references)
    lengths = [[8] * seen + [request_.caption_tokens] + [8] if seen else [request_.caption_tokens]] * count
    with FakeTensorMode(), torch.no_grad():
        model = made(lambda: ZImageTransformer2DModel(**{**OMNI, **FEW}), torch.bfloat16)
        pack(model, kind) if kind else None
        references = [
            Reference(torch.randn(16, height // 8, width // 8), torch.randn(16, 16, 1152))
            for width, height in request_.references
        ]
        caps = [torch.randn(sum(lengths[0]), 2560, dtype=torch.bfloat16)] * count
        x = torch.randn(count, 16, request_.height // 8, request_.width // 8)
        with LiveBytes() as live:
            looking_at(references, lengths)(model, x, torch.full((count,), 0.7), caps)  # type: ignore[arg-type]
    counted = memory.drawing_activations(OMNI, Numbers(2, kind, 2, ""), request_)
    assert counted == pytest.approx(live.peak, rel=MARGIN)


def test_the_plan_knows_what_looking_takes() -> None:
    numbers, bare = Numbers(2, "int8", 2, "nf4"), Request(1024, 1024)
    model = replace(FULL, transformer=OMNI, siglip=SO400M)
    seeing = replace(bare, references=((1024, 1024),) * 2)
    for gigabytes in (6, 8, 12, 16, 24):
        budget = memory.budget_of(gigabytes * 2**30)
        plans = [memory.plan_layout(model, numbers, request, budget) for request in (bare, seeing)]
        assert all(max(phase.total for phase in plan.phases) <= budget for plan in plans if plan.fits)
        assert plans[1].phases[1].total > plans[0].phases[1].total or plans[1].transformer_away
    small = {**FULL.text_encoder, "num_hidden_layers": 1, "vocab_size": 1000}
    read, draw, _ = memory.plan_layout(replace(model, text_encoder=small), numbers, seeing, None).phases
    assert read.weights - draw.weights == 2 * sizes.sight_numbers(SO400M)  # a small encoder stays beside it
