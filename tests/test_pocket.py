"""The shipped pocket models against their own model card, and the parts of their builder that need no package."""

import json
from random import Random

import pytest
import torch

from zit_app.core import paths
from zit_app.core.files import sha256_of
from zit_app.engine.pocket.bank import never_shown
from zit_app.engine.pocket.base import rate_factor
from zit_app.engine.pocket.captions import canonical_caption, caption, layout_words, open_caption
from zit_app.engine.pocket.card import card_text
from zit_app.engine.pocket.concepts import Concept
from zit_app.engine.pocket.fast import batched_velocity, new_transformer, rope_tables
from zit_app.engine.pocket.judge import STYLES, look
from zit_app.engine.pocket.measure import INTENDED, canonical_prompts
from zit_app.engine.pocket.paint import Painter
from zit_app.engine.pocket.pictures import BACKGROUNDS, random_layout
from zit_app.engine.pocket.questions import Questions, load_questions
from zit_app.engine.pocket.score import Pairs, cheats, distance, isolate, judge_alone, recall_scores
from zit_app.model.forward import predict_velocity

APPLE = Concept("1f34e", 4, "red apple", "红苹果", {})
FOX = Concept("1f98a", 3, "fox", "狐狸", {})


@pytest.fixture(scope="module")
def questions() -> Questions:
    return load_questions(paths.assets() / "judge")


@pytest.fixture(scope="module")
def scores() -> dict[str, dict[str, float]]:
    return json.loads((paths.assets() / "pocket" / "scores.json").read_text(encoding="utf-8"))


def test_captions_have_the_promised_forms() -> None:
    assert open_caption(APPLE, "flat") == "flat emoji, red apple"
    assert canonical_caption(APPLE, "3d") == "3d emoji, red apple, centered, white background"
    assert open_caption(APPLE, "classic", chinese=True) == "经典表情，红苹果"
    assert canonical_caption(APPLE, "flat", chinese=True) == "扁平表情，红苹果，居中，白色背景"


def test_an_open_caption_never_names_what_the_layout_does_not_have() -> None:
    random = Random(3)
    for _ in range(300):
        layout = random_layout(random, 2)
        record = {"concept": 0, "style": 1, **layout.__dict__}
        text = caption(record, [APPLE, FOX], random)
        allowed = {*layout_words(record, True), *layout_words(record, False)}
        named = [part for part in text.replace("，", ", ").split(", ")[1:] if part not in ("red apple", "红苹果")]
        things = {"red apple and fox", "红苹果和狐狸", "red apple and red apple", "红苹果和红苹果"}
        assert set(named) <= allowed | things
        assert not any(
            color in text for color in BACKGROUNDS if color not in (layout.background, layout.gradient, "red")
        )


def test_never_shown_pairs_are_fixed_and_spread_over_the_styles() -> None:
    concepts = [Concept(str(i), 0, str(i), str(i), {}) for i in range(535)]
    pairs = never_shown(concepts)
    assert pairs == never_shown(concepts)
    assert len(pairs) == 24 and {style for _, style in pairs} == {0, 1, 2}


def test_the_fast_forward_is_the_models_own() -> None:
    torch.manual_seed(0)
    model = new_transformer(dim=64, layers=2, refiners=1, caption_width=48)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    x, sigma = torch.randn(3, 16, 16, 16), torch.tensor([1.0, 0.5, 0.1])
    captions, lengths = torch.randn(3, 32, 48), (7, 32, 20)
    real = torch.arange(32)[None] < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        fast = batched_velocity(model, x, sigma, captions, real, rope_tables(model, 8))
        own = predict_velocity(model, x, sigma, [c[:n] for c, n in zip(captions, lengths, strict=True)])
    assert (fast - own).abs().max() < 1e-5


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    factors = [rate_factor(step, 1000) for step in range(1001)]
    assert factors[0] < 0.01 and max(factors) == 1.0 and factors[1000] == 0.0


def test_the_card_tells_these_figures_and_weights() -> None:
    assets = paths.assets() / "pocket"
    card = (assets / "README.md").read_text(encoding="utf-8")
    files = sorted(assets.rglob("*.safetensors"))
    assert len(files) == 5 and sum(file.stat().st_size for file in files) < 60e6
    assert all(sha256_of(file) in card for file in files)
    assert card == card_text(assets)


def test_the_judge_is_as_good_as_the_card_says_and_not_fooled(questions: Questions, scores: dict) -> None:
    real = recall_scores(questions.truth, questions.pairs, questions.judge, questions.real_CSE)
    assert real == pytest.approx(scores["real pictures"], abs=0.02)
    for name, pictures in cheats(questions.truth).items():
        cheat = recall_scores(pictures, questions.pairs, questions.judge, questions.real_CSE)
        assert cheat["content"] == pytest.approx(scores[name]["content"], abs=0.02)
        # Blur leaves colours and coarse shapes; all cheats stay below what the pocket models must reach.
        assert cheat["style"] <= 0.7 * real["style"]
        assert cheat["content"] <= (0.45 * real["content"] if "blurred" in name else 0.1)


def test_isolating_finds_a_thing_on_any_background(questions: Questions) -> None:
    from PIL import Image

    thing = questions.flat[7].resize((48, 48))
    for color in BACKGROUNDS.values():
        canvas = Image.new("RGB", (128, 128), color)
        canvas.paste(thing, (70, 20))
        found = isolate(canvas)
        assert found is not None
        if color != (255, 255, 255):  # the thing's own white square is seen on any other colour
            assert abs(found.center[0] - 94 / 128) < 0.03 and abs(found.center[1] - 44 / 128) < 0.03
            assert abs(found.extent - 48 / 128) < 0.04


@pytest.mark.parametrize(
    "name, model, steps, guidance, apart",
    [("pocket-base, 30 steps, CFG", "pocket-base", 30, 3.0, 14), ("pocket, 8 steps, no CFG", "pocket", 8, 0.0, 8)],
)
def test_pictures_are_as_good_as_the_card_says(
    name: str, model: str, steps: int, guidance: float, apart: int, questions: Questions, scores: dict
) -> None:
    """Some of the card's 200 questions, all styles among them, drawn with the seeds of the card.

    A share may lie two standard errors of 25 answers below it: pocket-base without guidance lies lower in style.
    """
    asked = list(range(0, 200, apart))
    pairs = Pairs(questions.pairs.concepts, questions.pairs.concept[asked], questions.pairs.style[asked])
    drawn = Painter(model).paint(canonical_prompts(pairs), asked, steps, guidance)
    found = recall_scores(drawn, pairs, questions.judge, questions.real_CSE)
    for share in ("content", "style"):
        promised = scores[name][share]
        assert found[share] >= promised - 2 * (promised * (1 - promised) / 25) ** 0.5
    assert abs(distance(drawn, [questions.truth[i] for i in asked]) - scores[name]["distance"]) < 0.05


def test_the_judge_reaches_its_bars(questions: Questions, scores: dict) -> None:
    alone = judge_alone(questions.real_CSE, questions.seen_CS)
    assert alone == pytest.approx(scores["judge, real pictures of all five styles"])
    assert alone["style"] >= 0.9 and alone["content"] >= 0.8
    found, style = look(questions.judge, questions.flat)
    assert (style != questions.seen_CS[:, STYLES.index("flat")]).float().mean() < 0.01  # the answers are this judge's
    assert (found - questions.real_CSE[:, STYLES.index("flat")]).norm(dim=-1).median() < 0.01


def test_the_asked_style_is_seen_nearly_as_often_as_in_real_pictures(scores: dict) -> None:
    assert min(scores[name]["style"] for name in INTENDED) >= 0.9 * scores["real pictures"]["style"]


@pytest.mark.xfail(strict=True, reason="not even in the real pictures: see the card's bars and their ceilings")
def test_the_asked_style_is_seen(scores: dict) -> None:
    assert min(scores[name]["style"] for name in INTENDED) >= 0.9


def test_recall_and_languages_reach_their_bars(scores: dict) -> None:
    for name, bar in zip(INTENDED, (0.6, 0.5), strict=True):
        assert scores[name]["recall"] >= bar
        assert scores[name]["recall"] - scores[f"{name}, Chinese"]["recall"] <= 0.1
