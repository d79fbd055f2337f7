"""Reading a dataset folder: what is found, what is skipped and named, which error a user gets."""

import os
from pathlib import Path

import pytest
from PIL import Image

from zit_app.core.errors import ZitError
from zit_app.data.captions import read_caption
from zit_app.data.formats import load_picture
from zit_app.data.index import load_known, save_known
from zit_app.data.pictures import captions, scan_dataset


def picture(path: Path, size: tuple[int, int] = (40, 30), caption: str | None = "a thing", seed: int = 0) -> Path:
    """Random pixels, so that the file is large enough to be cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = os.urandom(size[0] * size[1] * 3) if seed == 0 else bytes(seed for _ in range(size[0] * size[1] * 3))
    Image.frombytes("RGB", size, raw).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def test_finds_pictures_in_folders_below_and_in_order_of_names(tmp_path: Path) -> None:
    picture(tmp_path / "b.png", caption="second")
    picture(tmp_path / "a" / "Z.JPG", caption="first")
    picture(tmp_path / ".hidden" / "c.png")
    picture(tmp_path / "._b.png")
    scan = scan_dataset(tmp_path)
    assert [(item.name, item.caption) for item in scan.items] == [("a/Z.JPG", "first"), ("b.png", "second")]
    assert scan.skipped == ()


def test_truncated_and_foreign_files_are_skipped_and_named(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    cut = picture(tmp_path / "cut.jpg", (200, 200))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.webp").write_bytes(b"")
    scan = scan_dataset(tmp_path)
    assert [item.name for item in scan.items] == ["good.png"]
    assert {skipped.name for skipped in scan.skipped} == {"cut.jpg", "text.png", "empty.webp"}
    assert all(skipped.reason for skipped in scan.skipped)


@pytest.mark.parametrize("kind", [".png", ".jpg", ".webp", ".avif", ".tif", ".gif", ".bmp"])
def test_every_format_is_checked_to_its_last_byte(tmp_path: Path, kind: str) -> None:
    whole = picture(tmp_path / f"whole{kind}", (120, 90))
    (tmp_path / f"cut{kind}").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    assert [skipped.name for skipped in scan_dataset(tmp_path).skipped] == [f"cut{kind}"]


def test_folders_without_anything_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(ZitError, match="no dataset folder"):
        scan_dataset(tmp_path / "missing")
    with pytest.raises(ZitError, match="holds no picture"):
        scan_dataset(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    with pytest.raises(ZitError, match=r"None of the 1 pictures .*bad\.png"):
        scan_dataset(tmp_path)


def test_missing_and_empty_captions_need_a_trigger_word(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", caption="a red apple")
    picture(tmp_path / "b.png", caption=None)
    picture(tmp_path / "c.png", caption=" \n")
    picture(tmp_path / "d.png", caption="an apple, TOK style")
    scan = scan_dataset(tmp_path)
    assert scan.uncaptioned == ["b.png", "c.png"]
    with pytest.raises(ZitError, match=r"2 of 4 pictures .* no caption \(b\.png, c\.png\)"):
        captions(scan)
    assert captions(scan, "tok") == [("tok, a red apple",), ("tok",), ("tok",), ("an apple, TOK style",)]


def test_captions_are_utf8_with_or_without_mark(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", caption="﻿红苹果\n")
    assert read_caption(path) == "红苹果"
    path.with_suffix(".txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ZitError, match=r"a\.txt is not UTF-8"):
        read_caption(path)


def test_an_unchanged_picture_is_not_decoded_again_and_a_changed_one_is(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    first = scan_dataset(tmp_path)
    save_known(first)
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)  # broken, but size and time say "unchanged"
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert scan_dataset(tmp_path, load_known(tmp_path)) == first
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert [s.name for s in scan_dataset(tmp_path, load_known(tmp_path)).skipped] == ["a.png"]


def test_a_damaged_memory_is_forgotten(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    save_known(scan_dataset(tmp_path))
    memory = tmp_path / ".zit_cache" / "pictures.jsonl"
    for damaged in (memory.read_text()[:-9], '{"a.png": {"size": 3}}', "[]", "3"):
        memory.write_text(damaged)
        assert load_known(tmp_path) == {}


def test_pictures_are_loaded_upright_opaque_and_in_range(tmp_path: Path) -> None:
    turned = Image.new("RGB", (40, 20), "red")
    turned.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the left half is shown above
    turned.save(tmp_path / "turned.png", exif=exif)
    (item,) = scan_dataset(tmp_path).items
    assert item.size == (20, 40)
    loaded = load_picture(item.path, (16, 32), (0.0, 0.0, 20.0, 40.0))
    assert loaded.size == (16, 32)
    assert loaded.getpixel((8, 2)) == (0, 0, 255) and loaded.getpixel((8, 29)) == (255, 0, 0)

    Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert load_picture(tmp_path / "clear.png", (8, 8), (0, 0, 8, 8)).getpixel((4, 4)) == (255, 255, 255)
    grey = Image.new("I;16", (8, 8), 0x8080)
    grey.save(tmp_path / "grey.png")
    assert load_picture(tmp_path / "grey.png", (8, 8), (0, 0, 8, 8)).getpixel((4, 4)) == (128, 128, 128)
