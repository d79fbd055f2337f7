"""A preview is the picture that `zit generate` draws from the saved file, as the model is meant to be run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small import small_settings
from tests.test_cache import make_dataset
from zit_app.core.generate_settings import GenerateSettings, LoraUse
from zit_app.core.progress import Progress
from zit_app.core.train_settings import AcrfSettings
from zit_app.engine.cache import build_cache
from zit_app.engine.generate import generate
from zit_app.engine.parallel import new_accelerator
from zit_app.engine.preparation import prepare
from zit_app.engine.previews import draw_previews
from zit_app.engine.shipped import write_adapter
from zit_app.model.adapters import lora_state

FLAVOURS = {
    "a few-step model at its training's nodes, what was asked for": ({"pixels": 64}, 5, ("a boat", "a TOK cup")),
    "a guided one at its own steps, a caption": ({"name": "base", "pixels": 64, "steps": 3, "guidance": 2.0}, 0, ()),
}


@pytest.mark.parametrize("name", FLAVOURS)
def test_a_preview_is_drawn_as_the_model_is_run(name: str, home: Path, tiny_model: Path, tmp_path: Path) -> None:
    flavour, steps, asked = FLAVOURS[name]
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "flavour.json").write_text(json.dumps({"zit_flavour": flavour}), encoding="utf-8")
    cache = build_cache(make_dataset(tmp_path / "data", ((64, 64),)), model, 64)
    settings = small_settings(AcrfSettings(turbo_steps=5), sample_prompts=asked)
    settings = replace(settings, dataset=replace(settings.dataset, trigger_word="tok" if asked else ""))
    work, state = prepare(settings, "", cache, model, new_accelerator("fp32"), Progress())
    for key, weight in lora_state(state.transformer).items():
        if ".lora_B." in key:
            weight.copy_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)))
    previews = draw_previews(work, state, tmp_path)
    file = tmp_path / "adapter.safetensors"
    write_adapter(work, state, file)
    caption = (cache.dataset / "0.txt").read_text(encoding="utf-8")
    prompts = ("tok, a boat", "a TOK cup") if asked else (caption,)
    for seed, (preview, prompt) in enumerate(zip(previews, prompts, strict=True)):
        wanted = GenerateSettings(
            prompts=(prompt,), width=64, height=64, steps=steps, seed=seed, loras=(LoraUse(str(file)),)
        )
        (drawn,) = generate(wanted, model, tmp_path / f"{seed}.png")
        assert np.array_equal(np.asarray(Image.open(preview)), np.asarray(Image.open(drawn)))
