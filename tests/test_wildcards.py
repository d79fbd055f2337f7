"""Prompts that vary with the seed: what is chosen, what stays as it is written, and what is refused."""

from collections import Counter
from pathlib import Path

import pytest

from zit_app.core.errors import ZitError
from zit_app.data.wildcards import literal, resolved, wildcards

PINNED = ["green", "green", "green", "blue", "red", "green"]


@pytest.fixture
def shelf(home: Path) -> Path:
    for name, text in {
        "fruit": "apple\n\n# not this one\npear\n",
        "kitchen/pots": "a {red|blue} pot with a __fruit__\n",
        "循环": "x __循环__\n",
        "empty": "# nothing\n",
    }.items():
        file = home / "wildcards" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return home / "wildcards"


def outcomes(prompt: str, seeds: int = 300) -> Counter[str]:
    return Counter(resolved(prompt, seed) for seed in range(seeds))


def test_a_choice_varies_with_the_seed_and_only_with_it(home: Path) -> None:
    counts = outcomes("{red|green|blue} apple")
    assert counts.keys() == {"red apple", "green apple", "blue apple"} and min(counts.values()) > 60
    assert resolved("{a|b|c|d} {a|b|c|d}", 7) == resolved("{a|b|c|d} {a|b|c|d}", 7)
    assert len(outcomes("{a|b} {a|b}")) == 4  # two groups choose by themselves
    # Pinned: a picture's seed must choose the same words next year.
    assert [resolved("{red|green|blue}", seed) for seed in range(6)] == PINNED


def test_groups_nest_and_may_be_empty(home: Path) -> None:
    assert outcomes("{big {red|blue}|small|} hat").keys() == {"big red hat", "big blue hat", "small hat", " hat"}


def test_files_give_lines_and_nest(shelf: Path) -> None:
    assert wildcards() == ["empty", "fruit", "kitchen/pots", "循环"]
    assert outcomes("one __fruit__").keys() == {"one apple", "one pear"}
    assert outcomes("__kitchen/pots__!").keys() == {
        f"a {colour} pot with a {fruit}!" for colour in ("red", "blue") for fruit in ("apple", "pear")
    }
    assert outcomes("{__fruit__|nothing}").keys() == {"apple", "pear", "nothing"}


@pytest.mark.parametrize(
    ("prompt", "drawn"),
    [
        ("", ""),
        ("a plain prompt, snake_case, a | b, 50 %", "a plain prompt, snake_case, a | b, 50 %"),
        ('{"subject": "cat", "place": {"room": 1}}', '{"subject": "cat", "place": {"room": 1}}'),
        ("a smile :} and :{", "a smile :} and :{"),
        (r"\{red|blue\} \| \__fruit__ \\", r"{red|blue} | __fruit__ \ ".rstrip()),
        (r"C:\path\new", r"C:\path\new"),
        ("____", "____"),
    ],
)
def test_what_is_no_choice_stays_as_it_is(prompt: str, drawn: str, home: Path) -> None:
    assert outcomes(prompt, 5).keys() == {drawn}


@pytest.mark.parametrize(
    "text",
    ["plain", "{red|blue} apple", "__fruit__", r"\{a\}", r"\\ \{ \| \_", '{"a": "b|c"}', "{a|b", "}{", "___x___"],
)
def test_a_literal_prompt_is_the_text_itself(text: str, home: Path) -> None:
    assert outcomes(literal(text), 5).keys() == {text}


def test_what_needs_no_escape_gets_none() -> None:
    for text in ("a plain prompt", '{"subject": "cat"}', "a | b", r"C:\new"):
        assert literal(text) == text


@pytest.mark.parametrize(
    ("prompt", "what", "remedy"),
    [
        ("a __friut__", "no wildcard __friut__", "Did you mean __fruit__?"),
        ("a __zzzzzz__", "no wildcard __zzzzzz__", "zzzzzz.txt"),
        ("{red|blue apple", "never closed", "Add the }"),
        ("__循环__", "leads back to itself", "Take it out"),
        ("__empty__", "holds no line", "one choice a line"),
    ],
)
def test_what_cannot_be_resolved_is_said(prompt: str, what: str, remedy: str, shelf: Path) -> None:
    with pytest.raises(ZitError) as caught:
        resolved(prompt, 0)
    assert what in caught.value.what and remedy in caught.value.remedy


def test_no_wildcard_leaves_its_folder(shelf: Path) -> None:
    (shelf.parent / "secret.txt").write_text("hidden\n")
    for prompt in ("__../secret__", "__/etc/passwd__", "__kitchen/../../secret__"):
        assert "hidden" not in resolved(prompt, 0)  # not a name, so it is text
