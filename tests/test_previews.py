"""A preview is the picture that `zit generate` draws from the saved file, as the model is meant to be run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small import small_settings
from tests.test_cache import make_dataset
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import GenerateSettings, LoraUse
from zit_app.core.preview_lines import PreviewLine, read_preview
from zit_app.core.progress import Progress
from zit_app.core.train_settings import AcrfSettings, TrainJob, job_toml
from zit_app.engine.cache import build_cache
from zit_app.engine.generate import generate
from zit_app.engine.parallel import new_accelerator
from zit_app.engine.preparation import prepare
from zit_app.engine.previews import draw_previews
from zit_app.engine.refusals import refuse_contradictions
from zit_app.engine.shipped import write_adapter
from zit_app.model.adapters import lora_state

GUIDED = {"name": "base", "pixels": 64, "steps": 3, "guidance": 2.0}
WORDED = ("a boat --w 96 --h 32 --d 41 --s 2 --n a cat", "a TOK cup --n a cat", "a hat --h 48")
BOAT: dict[str, Any] = {"prompts": ("tok, a boat",), "steps": 2, "seed": 41, "width": 96, "height": 32}
CUP: dict[str, Any] = {"prompts": ("a TOK cup",), "seed": 1}
HAT: dict[str, Any] = {"prompts": ("tok, a hat",), "seed": 2, "height": 48}
NOT: dict[str, Any] = {"negative_prompt": "a cat"}
# By name: flavour, the previews that are asked for, what `zit generate` is asked for to draw the same.
FLAVOURS: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[dict[str, Any], ...]]] = {
    "a few-step model at its training's nodes, what was asked for": (
        {"pixels": 64},
        ("a boat", "a TOK cup"),
        ({"prompts": ("tok, a boat",), "steps": 5, "seed": 0}, CUP | {"steps": 5}),
    ),
    "a guided one at its own steps, a caption": (GUIDED, (), ({"seed": 0},)),
    "a few-step model with options": ({"pixels": 64}, WORDED, (BOAT, CUP | {"steps": 5}, HAT | {"steps": 5})),
    "a guided one with options": (GUIDED, WORDED, (BOAT | NOT, CUP | NOT, HAT)),
}


@pytest.mark.parametrize("name", FLAVOURS)
def test_a_preview_is_drawn_as_the_model_is_run(name: str, home: Path, tiny_model: Path, tmp_path: Path) -> None:
    flavour, asked, drawn_by = FLAVOURS[name]
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "flavour.json").write_text(json.dumps({"zit_flavour": flavour}), encoding="utf-8")
    cache = build_cache(make_dataset(tmp_path / "data", ((64, 64),)), model, 64, further=(32,))
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
    for number, (preview, wanted) in enumerate(zip(previews, drawn_by, strict=True)):
        usual = {"prompts": (caption,), "width": 64, "height": 64, "loras": (LoraUse(str(file)),)}
        (drawn,) = generate(GenerateSettings(**{**usual, **wanted}), model, tmp_path / f"{number}.png")
        assert np.array_equal(np.asarray(Image.open(preview)), np.asarray(Image.open(drawn)))


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("a boat --x 3", "no option --x"),
        ("a boat --w 100", "--w 100 in a preview"),
        ("a boat --s", "--s  in a preview"),
        ("a boat --d -1", "--d -1 in a preview"),
        ("--w 64", "has no prompt"),
    ],
)
def test_a_line_that_says_nothing_is_refused_before_there_is_a_run(line: str, sentence: str) -> None:
    with pytest.raises(ZitError, match=sentence):
        job_toml(small_settings(sample_prompts=(line,)), TrainJob("pocket", "data", ""))


def test_dashes_within_a_prompt_are_no_options() -> None:
    assert read_preview(" a well-known -- really -- boat ") == PreviewLine("a well-known -- really -- boat")


def test_a_preview_that_the_model_cannot_draw_is_refused_before_anything_is_loaded(tiny_model: Path) -> None:
    with pytest.raises(ZitError, match="larger than this model"):
        asked = small_settings(sample_prompts=("a boat --w 4096 --h 64",))
        refuse_contradictions(asked, Path("data"), tiny_model, torch.device("cpu"))
