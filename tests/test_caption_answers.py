"""Answers of captioners become captions: without introductions, quotes and markdown, and not longer than is read."""

import pytest

from zit_app.core.caption_settings import LANGUAGES, STYLES
from zit_app.data.caption_answers import cleaned
from zit_app.data.caption_questions import question


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("This image shows a cat on a mat.", "A cat on a mat."),
        ("The image is a photograph of a dog.", "A photograph of a dog."),
        ("This is a close-up photo of a cat.", "A close-up photo of a cat."),
        ("The image features a red apple, centered.", "A red apple, centered."),
        ("The illustration depicts a fox. It sits.", "A fox. It sits."),
        ("In this image, a woman stands.", "A woman stands."),
        ("In the picture we can see a woman.", "A woman."),
        ("Sure! Here's a caption for the picture:\n\nA red apple.", "A red apple."),
        ("**Caption:** A *red* apple.", "A red apple."),
        ("# Description\nA **red** apple on `wood`.", "Description A red apple on wood."),
        ("- a cat\n- a dog", "a cat, a dog"),
        ("```\nA cat.\n```", "A cat."),
        ('"A red apple."', "A red apple."),
        ("“一只猫”", "一只猫"),
        ("<think>a cat or a dog?</think>\n\nA cat.", "A cat."),
        ("<s>A cat</s><|im_end|>", "A cat"),
        ("A  cat\n\n sits.", "A cat sits."),
        ("这张图片展示了一只猫。", "一只猫。"),
        ("图中是一只猫。", "一只猫。"),
        ("画面中，一只猫坐着。", "一只猫坐着。"),
        ("好的，以下是描述：一只狗", "一只狗"),
        # what only looks like an introduction stays
        ("The image of a saint hangs on a wall.", "The image of a saint hangs on a wall."),
        ('A sign says "OPEN".', 'A sign says "OPEN".'),
        ('"OPEN" and "CLOSED"', '"OPEN" and "CLOSED"'),
        ("red apple, centered", "red apple, centered"),
        ("图书馆里有人。", "图书馆里有人。"),
        ("画中人站在窗前。", "画中人站在窗前。"),
        ("2 * 3 * 4 on a board", "2 * 3 * 4 on a board"),
        ("", ""),
    ],
)
def test_an_answer_becomes_a_caption(answer: str, caption: str) -> None:
    assert cleaned(answer, words, 50) == caption


@pytest.mark.parametrize(
    ("answer", "most", "caption"),
    [
        ("One two three. Four five six. Seven eight", 7, "One two three. Four five six."),
        ("One two three, four five six", 4, "One two three"),
        ("One two three four", 2, "One two"),
    ],
)
def test_a_long_answer_ends_with_what_is_whole(answer: str, most: int, caption: str) -> None:
    assert cleaned(answer, words, most) == caption


def test_chinese_and_endless_words_are_cut_too() -> None:
    assert cleaned("一只猫。一只狗。", len, 5) == "一只猫。"
    assert cleaned("一只猫一只狗", len, 5) == "一只猫一只"
    assert cleaned("a" * 50, len, 7) == "a" * 7


def test_questions_speak_both_languages_and_call_the_subject_by_its_word() -> None:
    asked = {(style, language): question(style, language, "zxc").text for style in STYLES for language in LANGUAGES}
    assert len(set(asked.values())) == 8
    assert all("{" not in text for text in asked.values())
    assert [key for key, text in asked.items() if "zxc" in text] == [
        ("person", "en"), ("person", "zh"), ("product", "en"), ("product", "zh")
    ]  # fmt: skip
    assert "style" in asked["style", "en"] and "画风" in asked["style", "zh"]
    assert "zxc" not in question("person", "en").text and "Call" not in question("person", "en").text
