"""What stands between controls and settings: nothing is lost on the way there and back."""

import re
from pathlib import Path

import pytest

from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import GenerateSettings, LoraUse
from zit_app.core.settings import describe
from zit_app.service.comparisons import VariantReport
from zit_app.ui import forms
from zit_app.ui.advanced import PRESETS, advanced_fields, preset_settings
from zit_app.ui.chart import loss_chart, smoothed
from zit_app.ui.loras import lora_uses, stack_values, with_word
from zit_app.ui.shapes import ASPECTS, SIDES, pixels_of, side_choices, size_of, without_defaults
from zit_app.ui.spread import all_in_words
from zit_app.ui.text import Words

W = Words("en")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_its_controls(name: str) -> None:
    settings, fields = preset_settings(name), advanced_fields()
    values = [forms.shown(info, getattr(getattr(settings, table), info.name)) for table, info in fields]
    assert forms.train_settings(W, fields, values) == settings


def test_a_wrong_value_is_named_with_what_is_allowed() -> None:
    fields = advanced_fields()
    values = [getattr(getattr(preset_settings("style"), table), info.name) for table, info in fields]
    rank = [info.name for _, info in fields].index("network_dim")
    with pytest.raises(ZitError, match=r"\[lora\]: network_dim = 0 is not allowed. Allowed: 1 to 512"):
        forms.train_settings(W, fields, [*values[:rank], 0, *values[rank + 1 :]])
    with pytest.raises(ZitError, match="Network dim is empty"):
        forms.train_settings(W, fields, [*values[:rank], None, *values[rank + 1 :]])


def test_lists_of_numbers_are_written_with_commas_of_either_language() -> None:
    info = next(info for info in describe(GenerateSettings) if info.name == "sigmas")
    assert forms.shown(info, (1.0, 0.75, 0.5)) == "1, 0.75, 0.5"
    assert forms.read(W, info, "1, 0.75，0.5") == [1.0, 0.75, 0.5]
    assert forms.read(W, info, "") == []
    with pytest.raises(ZitError, match="numbers with commas"):
        forms.read(W, info, "1 0.5")


def test_lists_of_texts_are_written_one_a_line() -> None:
    info = next(info for _, info in advanced_fields() if info.name == "sample_prompts")
    assert forms.shown(info, ("a boat, at sea", "猫")) == "a boat, at sea\n猫"
    assert forms.read(W, info, " a boat, at sea\n\n猫 ") == ["a boat, at sea", "猫"]
    assert forms.read(W, info, "") == []


def test_a_choice_that_was_emptied_is_an_empty_text() -> None:
    info = next(info for _, info in advanced_fields() if info.name == "start_from")
    assert forms.read(W, info, None) == "" and forms.read(W, info, "ink") == "ink"


def test_shapes_keep_the_area_of_the_model_in_steps_of_16(tiny_model: Path) -> None:
    assert size_of(str(tiny_model), "square") == (0, 0)
    for aspect, ratio in (("3:4", 3 / 4), ("4:3", 4 / 3)):
        width, height = size_of(str(tiny_model), aspect)
        assert width % 16 == height % 16 == 0
        assert width / height == pytest.approx(ratio, abs=0.05)
        assert pixels_of(str(tiny_model), aspect, 1, 0, 0) == (width, height)
    assert pixels_of(str(tiny_model), "square", 1, 0, 96) == (1024, 96)


def test_sizes_go_up_to_twice_the_models_own_as_far_as_it_reaches(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text('{"_name_or_path": "Z-Image-Turbo"}')
    (tmp_path / "transformer" / "config.json").write_text('{"axes_lens": [1536, 512, 512]}')
    turbo = str(tmp_path)
    assert side_choices(turbo) == [("1024", 1.0), ("1536", 1.5), ("2048", 2.0)]
    assert size_of(turbo, "square", 2.0) == (2048, 2048)
    for aspect, ratio in ASPECTS.items():
        width, height = pixels_of(turbo, aspect, 2.0, 0, 0)
        assert width % 16 == height % 16 == 0 and width * height == pytest.approx(2048**2, rel=0.02)
        assert width / height == pytest.approx(ratio, rel=0.02)
        for side in SIDES:  # back from what was drawn to the chips
            size = pixels_of(turbo, aspect, side, 0, 0)
            drawn = GenerateSettings(prompts=("x",), steps=8, width=size[0], height=size[1])
            assert without_defaults(drawn, turbo)[:2] == (aspect, side)
    assert size_of(str(tiny_model), "square", 2.0) == (1024, 1024)  # its positions end there


def test_a_restored_picture_shows_only_what_differs_from_the_model(tiny_model: Path) -> None:
    plain = [3 * u / (1 + 2 * u) for u in (1 - i / 8 for i in range(8))]
    settings = GenerateSettings(prompts=("x",), steps=8, width=1024, height=1024, sigmas=tuple(plain))
    aspect, side, shown = without_defaults(settings, str(tiny_model))
    assert (aspect, shown.sigmas, shown.width, shown.height) == ("square", (), 0, 0)
    own = GenerateSettings(prompts=("x",), steps=2, width=96, height=64, sigmas=(1.0, 0.5))
    assert without_defaults(own, str(tiny_model)) == ("square", 1, own)


def test_empty_rows_of_the_stack_are_no_loras() -> None:
    rows = [
        (True, "a.safetensors", 0.8, 1, 4),
        (True, "", 1.0, 1, 0),
        (False, "off.safetensors", 1.0, 1, 0),
        (True, "b.safetensors", -1, None, None),
    ]
    uses = lora_uses([value for row in rows for value in row])
    assert uses == [LoraUse("a.safetensors", 0.8, 1, 4), LoraUse("b.safetensors", -1.0, 1, 0)]
    assert lora_uses(stack_values(uses)) == uses


def test_a_trigger_word_comes_in_once() -> None:
    assert with_word("red apple", "zxc") == "zxc, red apple"
    assert with_word("a ZXC apple", "zxc") == "a ZXC apple" and with_word(" ", "zxc") == "zxc"
    assert with_word("red apple", "") == "red apple"


def test_the_smoothed_curve_begins_at_its_first_value_and_follows() -> None:
    assert smoothed([4.0, 4.0, 4.0], 0.9) == pytest.approx([4.0, 4.0, 4.0])
    falling = smoothed([float(100 - i) for i in range(100)], 0.9)
    assert falling[0] == 100 and all(a > b for a, b in zip(falling, falling[1:], strict=False))


def test_the_chart_stays_inside_its_frame_and_keeps_the_last_point() -> None:
    losses = [50.0, *[1.0 + i % 7 / 10 for i in range(1999)]]
    svg = loss_chart(list(range(1, 2001)), losses, 4000, "loss")
    points = [tuple(map(float, pair.split(","))) for pair in re.findall(r"[\d.]+,[\d.]+", svg)]
    assert all(0 <= x <= 640 and 0 <= y <= 220 for x, y in points)
    assert max(x for x, _ in points) == pytest.approx(52 + (640 - 60) * 0.5, abs=0.1)  # half of the steps are done
    assert len(points) < 1000


def test_numbers_of_a_comparison_in_words() -> None:
    reports = [
        VariantReport("base", 0.2, 0.1),
        VariantReport("mine", 0.1, 0.1),
        VariantReport("near", 0.22, 0.1),
        VariantReport("late", None, None),
    ]
    assert all_in_words(W, reports, pictures=16) == [
        "the others are measured against this one",
        "seeds differ 50 % less than in “base”",
        "no clear difference to “base” (+10 %; chance alone can do 20 %)",
        "–",
    ]
    assert all_in_words(W, reports, pictures=400)[2] == "seeds differ 10 % more than in “base”"
    still = [VariantReport("a", 0.0, 0.0), VariantReport("b", 0.0, 0.0), VariantReport("c", 0.1, 0.1)]
    assert [text.split()[0] for text in all_in_words(W, still, 16)[1:]] == ["every", "seeds"]
