"""Wishes at the edge of what can be drawn, and beyond: each is drawn or refused in one sentence, never a traceback."""

from pathlib import Path

import pytest
from PIL import Image

from zit_app.cli import main
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import GenerateSettings, parse_lora
from zit_app.data.recipe import read_recipe
from zit_app.engine.generate import generate
from zit_app.engine.warm import Warm

SMALL = dict(width=32, height=32, steps=1, guidance=0.0)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--size", "100x64"], 2, "Try 96x64"),
        (["--size", "0x64"], 2, "multiples of 16"),
        (["--size", "64"], 2, "WIDTHxHEIGHT"),
        (["--size", "160000x160000"], 1, "larger than this model can draw"),
        (["--count", "0"], 2, "1 to 10000"),
        (["--count", "1000000"], 2, "1 to 10000"),
        (["--count", "1.5"], 2, "no number"),
        (["--steps", "-1"], 2, "not allowed"),
        (["--steps", "1000000"], 2, "not allowed"),
        (["--seed", "-1"], 2, "at least 0"),
        (["--seed", str(2**63 + 10**6)], 2, "not allowed"),
        (["--guidance", "nan"], 2, "not allowed"),
        (["--guidance", "inf"], 2, "not allowed"),
        (["--strength", "nan"], 2, "not allowed"),
        (["--larger", "9"], 2, "1 to 4"),
        (["--larger", "4", "--size", "512x512"], 1, "larger than this model can draw"),
        (["--sigmas", "1,x"], 2, "no number"),
        (["--sigmas", "nan"], 1, "sigmas must fall"),
        (["--sigmas", "2,1"], 1, "sigmas must fall"),
        (["--lora", "x.safetensors@1000"], 2, "-10 to 10"),
        (["--lora", "x.safetensors@1@3-2"], 2, "no range"),
        (["--attention", "fast"], 2, "auto | native"),
        (["--mask", "m.png"], 1, "needs a picture"),
        (["--image", "nowhere.png"], 1, "does not exist"),
        (["--prompt", "a {red|blue"], 1, "never closed"),
        (["--prompt", "a __thing__"], 1, "no wildcard"),
        (["--prompt", "caf\udce9"], 1, "no text"),
        (["--max-sequence-length", "1000000"], 2, "16 to 1024"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(
    words: list[str], code: int, says: str, tiny_model: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = [] if "--prompt" in words else ["--prompt", "a cat"]
    assert main(["generate", "--model", str(tiny_model), *prompt, *words]) == code
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1
    assert not (home / "runs").exists()


def test_the_longest_and_the_emptiest_prompts_are_drawn(
    tiny_model: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warm = Warm()
    for prompt in ("", "   ", "x" * 10_000, "红苹果" * 3_334, "a\nb\tc\x07", "🍎" * 300, "/../..", "%s {} {0}"):
        path = generate(GenerateSettings(prompts=(prompt,), **SMALL), tiny_model, warm=warm)[0]
        assert read_recipe(path).prompt == prompt and Image.open(path).size == (32, 32)
        assert ("its end is not read" in capsys.readouterr().err) == (len(prompt) > 500 or "🍎" in prompt)
    assert len(list((home / "runs" / "generate").iterdir())) == 8


def test_the_last_seed_has_a_successor(tiny_model: Path, home: Path) -> None:
    settings = GenerateSettings(prompts=("a cat",), seed=2**63 - 1, count=2, **SMALL)
    assert [read_recipe(path).seed for path in generate(settings, tiny_model)] == [2**63 - 1, 2**63]


def test_any_number_of_steps_is_drawn(tiny_model: Path, home: Path) -> None:
    warm = Warm()
    for steps in (1, 7, 100):
        settings = GenerateSettings(prompts=("a cat",), **{**SMALL, "steps": steps})
        assert read_recipe(generate(settings, tiny_model, warm=warm)[0]).steps == steps


def test_a_weight_out_of_range_is_named() -> None:
    with pytest.raises(ZitError, match="weight = -11.0 is not allowed"):
        parse_lora("x.safetensors@-11")
