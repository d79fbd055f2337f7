"""Captions changed one by one and many at once: what is previewed is what happens, and all of it can be undone."""

from pathlib import Path

import pytest
from PIL import Image

from zit_app.core.errors import ZitError
from zit_app.data.editing import Edit, edited
from zit_app.data.pictures import scan_dataset
from zit_app.service import edits


def dataset(folder: Path, captions: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, caption in captions.items():
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
        if caption:
            (folder / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")
    return folder


def told(folder: Path) -> dict[str, tuple[str, ...]]:
    return {item.name: item.captions for item in scan_dataset(folder).items}


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        (Edit("replace", "Cat", "dog"), "a cat and a CAT", "a dog and a dog"),
        (Edit("replace", "Cat", "dog", match_case=True), "a cat, Cat", "a cat, dog"),
        (Edit("replace", "a.b", r"\1"), "a.b axb", r"\1 axb"),
        (Edit("regex", r"(\w+) cat", r"\1 dog"), "big cat", "big dog"),
        (Edit("prepend", "tok"), "a cat", "tok, a cat"),
        (Edit("prepend", "tok"), "", "tok"),
        (Edit("append", "soft light"), "a cat,", "a cat, soft light"),
        (Edit("remove", "blurry"), "a cat, blurry, red", "a cat, red"),
        (Edit("remove", "cat"), "a cat on a category", "a on a category"),
        (Edit("remove", "红色"), "红色苹果，木桌", "苹果，木桌"),
        (Edit("trigger_in", "tok"), "a cat", "tok, a cat"),
        (Edit("trigger_in", "tok"), "a TOK cat", "a TOK cat"),
        (Edit("trigger_out", "tok"), "tok, a cat", "a cat"),
        (Edit("trigger_out", "tok"), "a cat, tok.", "a cat."),
    ],
)
def test_each_change_does_what_it_says(edit: Edit, before: str, after: str) -> None:
    assert edited(before, edit) == after


def test_shuffling_keeps_parts_and_the_first_word() -> None:
    before = "tok, red, round, ripe, small"
    after = edited(before, Edit("shuffle", "tok"), "a.png")
    assert after.startswith("tok, ") and sorted(after.split(", ")) == sorted(before.split(", "))
    assert after == edited(before, Edit("shuffle", "tok"), "a.png")
    assert len({edited(before, Edit("shuffle"), f"{i}.png") for i in range(20)}) > 5


def test_mistakes_are_said() -> None:
    for wrong in (Edit("regex", "(", "x"), Edit("regex", "a", r"\9"), Edit("replace", " "), Edit("prepend", "")):
        with pytest.raises(ZitError):
            edited("a cat", wrong)


def test_preview_apply_and_undo(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "set", {"a": "a red cat", "b": "a dog", "c": ""})
    (folder / "captions.jsonl").write_text('{"file_name": "c.png", "caption": "a tabled cat"}\n')
    before, items = told(folder), scan_dataset(folder).items
    found = edits.changes(items, Edit("replace", "cat", "fox"))
    assert [(one.name, one.before, one.after) for one in found] == [
        ("a.png", ("a red cat",), ("a red fox",)),
        ("c.png", ("a tabled cat",), ("a tabled fox",)),
    ]
    assert told(folder) == before
    assert edits.apply(folder, found, "cat to fox") == 2
    assert told(folder) == {"a.png": ("a red fox",), "b.png": ("a dog",), "c.png": ("a tabled fox",)}
    edits.apply(folder, edits.changes(scan_dataset(folder).items, Edit("prepend", "tok")), "tok in front")
    assert edits.history(folder) == ["tok in front", "cat to fox"]
    assert edits.undo(folder) == 3 and told(folder)["b.png"] == ("a dog",)
    assert edits.undo(folder) == 2 and told(folder) == before and not (folder / "c.txt").exists()
    with pytest.raises(ZitError, match="no change"):
        edits.undo(folder)


def test_undo_leaves_alone_what_somebody_changed_since(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "set", {"a": "one", "b": "two"})
    edits.apply(folder, edits.changes(scan_dataset(folder).items, Edit("append", "x")), "x")
    (folder / "a.txt").write_text("by hand")
    assert edits.undo(folder) == 1
    assert told(folder) == {"a.png": ("by hand",), "b.png": ("two",)}


def test_typing_is_one_change(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "set", {"a": "one", "b": ""})
    for text in ("one t", "one tw", "one two"):
        edits.save_caption(folder, "a.png", text)
    edits.save_caption(folder, "b.png", "new")
    edits.save_caption(folder, "b.png", "new")
    assert edits.history(folder) == ["b.png", "a.png"] and told(folder) == {"a.png": ("one two",), "b.png": ("new",)}
    edits.undo(folder)
    edits.undo(folder)
    assert told(folder) == {"a.png": ("one",), "b.png": ()} and not (folder / "b.txt").exists()


def test_removing_all_words_leaves_no_caption(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "set", {"a": "cat"})
    (folder / "a.2.txt").write_text("a cat\n")
    edits.apply(folder, edits.changes(scan_dataset(folder).items, Edit("remove", "cat")), "no cat")
    assert told(folder) == {"a.png": ("a",)} and not (folder / "a.2.txt").exists()
    edits.undo(folder)
    assert told(folder) == {"a.png": ("cat", "a cat")}
