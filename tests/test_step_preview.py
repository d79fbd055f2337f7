"""A glance at pictures while they are denoised: it shows where the path leads, and costs next to nothing."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from zit_app.core import models
from zit_app.core.generate_settings import GenerateSettings
from zit_app.core.progress import Progress
from zit_app.engine import step_preview
from zit_app.engine.generate import generate
from zit_app.engine.step_preview import StepPreview
from zit_app.flow.schedule import nodes
from zit_app.flow.solvers import euler
from zit_app.model.latents import colour_map, decode_latents, encode_pictures, normalise, to_colours
from zit_app.model.loading import load_vae

STEPS = 8


def test_it_shows_the_clean_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_preview, "SECONDS", 0.0)
    monkeypatch.setattr(step_preview, "SHARE", float("inf"))
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(step_preview, "to_colours", lambda colours, z: seen.append(z) or to_colours(colours, z))
    noise, target = torch.randn(2, 2, 4, 3, 3).unbind(0)
    sigmas = nodes(STEPS, 3.0)
    preview = StepPreview(tmp_path, torch.zeros(5, 3), noise, sigmas)
    # x0 drifts from step to step, so each step's own estimate must be found again
    euler(lambda x, sigma, i: (x - (target + i)) / sigma, noise, sigmas, preview.see)
    assert len(seen) == STEPS - 1  # the last step is the picture itself
    for i, clean in enumerate(seen):
        assert torch.allclose(clean, target + i, atol=1e-4)
    with Image.open(tmp_path / "preview.jpg") as sheet:
        assert sheet.size == (6, 3)  # two pictures of 3 × 3 beside each other
        sheet.load()
    assert (tmp_path / "preview.jpg").stat().st_size == step_preview.ROOM  # whatever is on it


def test_the_colours_of_the_embedded_model_are_near_its_decoder(home: Path) -> None:
    vae = load_vae(models.find_model("pocket"), torch.device("cpu"), torch.float32)
    picture = Image.open(Path(__file__).parents[1] / "docs" / "pocket_sheet.png").convert("RGB").crop((0, 0, 256, 256))
    x = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(256, 256, 3).permute(2, 0, 1)[None]
    z = normalise(vae, encode_pictures(vae, x.float() / 127.5 - 1)[0])
    small = to_colours(colour_map(vae), z).float()
    true = decode_latents(vae, z).float().unflatten(1, (32, 8)).unflatten(3, (32, 8)).mean((2, 4))
    unexplained = (small - true).square().mean() / (true - true.mean((1, 2), keepdim=True)).square().mean()
    assert unexplained < 0.15


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_it_takes_at_most_three_percent_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, written = Clock(), []
    monkeypatch.setattr(step_preview, "time", clock)

    def write(self: StepPreview, pictures: torch.Tensor) -> None:
        clock.now += 0.3
        written.append(clock.now)

    monkeypatch.setattr(StepPreview, "_write", write)
    x = torch.zeros(1, 4, 2, 2)
    preview = StepPreview(tmp_path, torch.zeros(5, 3), x, torch.linspace(1, 0.01, 400))
    for step in range(400):
        clock.now += 1.0
        preview.see(step, x)
    assert written[0] == 1.3  # the first one as soon as half a second is over
    assert len(written) > 30 and 0.3 * len(written) <= 0.031 * clock.now


def test_a_run_leaves_its_last_preview(tiny_model: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_preview, "SECONDS", 0.0)
    settings = GenerateSettings(prompts=("a cat",), count=3, width=64, height=48, steps=4)
    paths = generate(settings, tiny_model, progress=Progress())
    with Image.open(paths[0].parent / "preview.jpg") as sheet:
        assert sheet.size == (2 * 8, 2 * 6)  # three pictures of 8 × 6 latents, two a row
