"""The bench of the training step, and that the untrained model recognises its own pictures."""

import json
from pathlib import Path

import pytest
import torch

from zit_app.cli import main
from zit_app.core.models import find_model
from zit_app.core.paths import runs
from zit_app.data.prompts import read_prompts, shipped_prompts
from zit_app.engine.recognition import recognised
from zit_app.flow.schedule import nodes
from zit_app.flow.solvers import euler
from zit_app.model.draw import noise_for
from zit_app.model.forward import predict_velocity
from zit_app.model.loading import load_text_encoder, load_transformer
from zit_app.model.text import encode_prompts


def test_the_bench_measures_every_loss_beside_a_bare_loop(
    home: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "train", "--model", str(tiny_model), "--resolution", "64", "--steps", "4", "--batch-size", "2"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["pixels"], found["steps"], found["device"]) == (64, 4, "cpu") and found["bare"] > 0
    assert set(found["modes"]) == {"standard", "standard + cos + FFT", "frequency", "style", "unified"}
    assert found["modes"]["standard"]["over_plain"] == 1
    assert all(one["seconds"] > 0 and one["over_bare_processor"] > 0 for one in found["modes"].values())
    assert not runs("train").exists()


def test_the_untrained_model_recognises_its_own_pictures_and_no_others() -> None:
    folder, cpu = find_model("pocket"), torch.device("cpu")
    transformer = load_transformer(folder, cpu, torch.float32)
    prompts = read_prompts(shipped_prompts(128))[:4]
    caps = encode_prompts(*load_text_encoder(folder, cpu, torch.float32), prompts)

    def velocity(x: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
        return predict_velocity(transformer, x, sigma.expand(len(x)), caps)

    with torch.no_grad():
        x0_MCHW = euler(velocity, noise_for(range(1000, 1004), 16, (128, 128)), nodes(8))
    assert recognised(transformer, x0_MCHW, caps) >= 0.75
    assert recognised(transformer, x0_MCHW.roll(1, 0), caps) <= 0.25
    blurred = torch.nn.functional.avg_pool2d(x0_MCHW, 15, 1, 7, count_include_pad=False)
    assert recognised(transformer, blurred, caps) < recognised(transformer, x0_MCHW, caps)
