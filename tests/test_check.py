"""Picture health: planted defects are found, untouched pictures are not blamed, the report has the agreed form."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageFilter, ImageOps

from zit_app.cli import main
from zit_app.data.health.likeness import duplicates, signature
from zit_app.data.health.report import ADVICE, check

DEMO = Path(__file__).resolve().parents[1] / "assets" / "demo" / "pictures"


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A picture with flat parts, hard edges and gradients, another for each seed."""
    from random import Random

    from PIL import ImageDraw

    random = Random(seed)
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for _ in range(14):
        x, y = random.randrange(-20, size[0]), random.randrange(-20, size[1])
        box = (x, y, x + random.randrange(20, 120), y + random.randrange(20, 120))
        colour = tuple(random.randrange(256) for _ in range(3))
        random.choice((draw.rectangle, draw.ellipse))(box, fill=colour)
    return picture


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """Flags of a folder of scenes with one defect each, at 128 pixels; captions are the same for two."""
    folder = tmp_path_factory.mktemp("set")
    for seed in range(4):
        scene(seed).save(folder / f"good{seed}.png")
        (folder / f"good{seed}.txt").write_text(f"scene {seed}")
    scene(10).filter(ImageFilter.GaussianBlur(3)).save(folder / "blurred.png")
    scene(11).save(folder / "quality20.jpg", quality=20)
    scene(12).save(folder / "again.jpg", quality=15)
    Image.open(folder / "again.jpg").save(folder / "hidden.png")
    (folder / "again.jpg").unlink()
    ImageOps.expand(scene(13), (0, 40)).save(folder / "letterboxed.png")
    ImageOps.expand(scene(14), (50, 0), "white").save(folder / "pillars.png")
    ImageOps.expand(scene(15), 20, "navy").save(folder / "framed.png")
    ImageOps.mirror(scene(0)).resize((200, 150)).save(folder / "mirrored.png")
    scene(1).crop((20, 10, 300, 220)).save(folder / "part.jpg", quality=90)
    scene(16, (48, 40)).save(folder / "tiny.png")
    scene(17, (900, 90)).save(folder / "long.png")
    scene(18).point(lambda level: level // 6).save(folder / "night.png")
    shutil.copy(folder / "good3.png", folder / "called.jpg")
    (folder / "tiny.txt").write_text("scene 1")
    (folder / "long.txt").write_text("word " * 600)
    return {one.file: one.flags for one in check(folder, 128).pictures}


def test_untouched_pictures_have_no_flag(flags: dict[str, tuple[str, ...]]) -> None:
    assert {name: found for name, found in flags.items() if name.startswith("good")} == {
        "good0.png": (), "good1.png": ("repeated_caption",), "good2.png": (), "good3.png": (),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("blurred.png", "blurry"), ("quality20.jpg", "blocky"), ("hidden.png", "blocky"),
        ("letterboxed.png", "letterbox"), ("pillars.png", "pillarbox"), ("framed.png", "frame"),
        ("mirrored.png", "duplicate_of"), ("part.jpg", "duplicate_of"), ("tiny.png", "small"), ("long.png", "wide"),
        ("night.png", "dark"), ("called.jpg", "wrong_extension"), ("called.jpg", "duplicate_of"),
        ("blurred.png", "no_caption"), ("tiny.png", "repeated_caption"), ("long.png", "long_caption"),
    ],
)  # fmt: skip
def test_each_defect_is_found(flags: dict[str, tuple[str, ...]], name: str, flag: str) -> None:
    assert flag in flags[name]


def test_a_defect_brings_no_other_flag_of_its_kind(flags: dict[str, tuple[str, ...]]) -> None:
    assert "blurry" not in flags["letterboxed.png"] + flags["quality20.jpg"] + flags["framed.png"]
    unboxed = {*flags["blurred.png"], *flags["quality20.jpg"], *flags["night.png"]}
    assert not {"letterbox", "pillarbox", "frame"} & unboxed
    assert "duplicate_of" not in flags["blurred.png"] + flags["letterboxed.png"] + flags["framed.png"]


def test_the_demo_pictures_are_told_apart() -> None:
    """Emoji on white: much the same colours and shapes, and yet 24 different pictures."""
    signs = [signature(Image.open(file).convert("RGB")) for file in sorted(DEMO.glob("*.png"))]
    assert len(signs) == 24 and duplicates(signs) == []


@pytest.mark.parametrize("turn", range(8))
def test_a_turned_or_mirrored_picture_is_the_same(turn: int) -> None:
    other = scene(3).rotate(90 * (turn % 4), expand=True)
    other = ImageOps.mirror(other) if turn > 3 else other
    assert duplicates([signature(scene(3)), signature(scene(4)), signature(other)]) == [(0, 2)]


def test_the_report_has_the_agreed_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene(1).save(tmp_path / "one.png")
    scene(1).resize((160, 120)).save(tmp_path / "two.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "one.png").read_bytes()[:200])
    assert main(["check", str(tmp_path), "--resolution", "128", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report.keys() == {"pictures", "unreadable", "set"}
    one, two = report["pictures"]
    assert (one["file"], one["flags"]) == ("one.png", ["no_caption"])
    assert two["flags"] == ["duplicate_of", "no_caption"] and "one.png" in two["advice"]
    assert [bad["file"] for bad in report["unreadable"]] == ["torn.png"] and report["unreadable"][0]["reason"]
    assert report["set"]["count"] == 2 and report["set"]["advice"]
    assert main(["check", str(tmp_path), "--resolution", "128"]) == 0
    said = capsys.readouterr().out
    assert "two.png: duplicate of one.png, no caption" in said and "torn.png: not used" in said
    assert main(["check", str(tmp_path / "nowhere")]) == 1


def test_every_flag_has_advice_in_both_languages() -> None:
    from zit_app.ui.text import TABLES

    for flag, advice in ADVICE.items():
        assert TABLES["en"][f"advice.{flag}"] == advice
        assert TABLES["zh"][f"advice.{flag}"] and TABLES["zh"][f"flag.{flag}"]
