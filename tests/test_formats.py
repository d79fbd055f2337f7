"""Pictures of every kind come out upright, in sRGB, 8 bit and opaque, and their captions and options are found."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from zit_app.core.errors import ZitError
from zit_app.data.captions import estimated_tokens
from zit_app.data.formats import load_picture
from zit_app.data.index import load_known, save_known
from zit_app.data.options import write_options
from zit_app.data.pictures import captions, scan_dataset

# 32 × 16 pixels, the left half blue, the right half red; written by libheif.
HEIC = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAb1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ADRpbG9jAAAAAERAAAIAAQAAAAAB4QABAAAAAAAAAK4AAgAAAAACjwABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA/GlwcnAAAADcaXBjbwAAAHVodmNDAQNwAAAA"
    "kAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq"
    "rprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFw"
    "AAAAIAAAAAEAAAAQAAAAAf///+AAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAAA"
    "GmlyZWYAAAAAAAAADmNkc2MAAgABAAEAAADabWRhdAAAAKooAa8JyGetqjkjV3//53IOR+2Hv/6VHirx+DhH/+FUNv+zNP5Tr/TJ"
    "qi7CJ6cg4m2zp+lHsYHLw5KAXHaqPjIw4VNwP4ntp9qwVhRcFcYsAq/Y0PsFu5TiVylBmPi/L8rpmqEqrrgDbZCOcEBg+s7ye1oU"
    "YBxGQAeS+EDgm32I0IfL2GtFxB8X5flaxQniu9UhAyEr9tr1cb997uhFWrZmBg2bz8qzKPDeQgAAAAZFeGlmAABNTQAqAAAACAAB"
    "ARIAAwAAAAEABgAAAAAAAA=="
)
# The primaries of Adobe RGB (1998) as a matrix to XYZ (D50) and its gamma, as a profile without lcms' help would say.
WIDE_RED = (0.60974, 0.31111, 0.01947)


def colour(path: Path, background: str = "white") -> tuple[int, ...]:
    """The pixel in the middle of a picture as it is trained on."""
    (item,) = [item for item in scan_dataset(path.parent).items if item.path == path]
    middle = load_picture(path, (16, 16), (0, 0, *item.size), background).getpixel((8, 8))
    assert isinstance(middle, tuple)
    return middle


def wide_gamut() -> bytes:
    """A profile of the primaries of Adobe RGB, built from sRGB's by exchanging its red and green."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    wanted = {b"rXYZ": WIDE_RED, b"gXYZ": (0.20528, 0.62567, 0.06087), b"bXYZ": (0.14919, 0.06322, 0.74457)}
    for i in range(count):
        entry = 132 + 12 * i
        if (name := bytes(data[entry : entry + 4])) in wanted:
            at = int.from_bytes(data[entry + 4 : entry + 8], "big") + 8
            for j, value in enumerate(wanted[name]):
                data[at + 4 * j : at + 4 * j + 4] = round(value * 65536).to_bytes(4, "big")
        if name == b"desc":
            at, size = (int.from_bytes(data[entry + k : entry + k + 4], "big") for k in (4, 8))
            data[at : at + size] = bytes(data[at : at + size]).replace(b"s\x00R", b"A\x00R").replace(b"sRGB", b"ARGB")
    return bytes(data)


def test_a_phones_heic_is_read(tmp_path: Path) -> None:
    path = tmp_path / "phone.HEIC"
    path.write_bytes(base64.b64decode(HEIC))
    (item,) = scan_dataset(tmp_path).items
    assert item.size == (32, 16)
    picture = load_picture(path, (32, 16), (0, 0, 32, 16))
    left, right = picture.getpixel((6, 8)), picture.getpixel((26, 8))
    assert left[2] > 120 > left[0] and right[0] > 120 > right[2]


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "avif"])
def test_every_kind_is_shown_upright(tmp_path: Path, kind: str) -> None:
    picture = Image.new("RGB", (64, 32), "red")
    picture.paste("blue", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the left half is above
    picture.save(tmp_path / f"turned.{kind}", exif=exif)
    for verify in (False, True):
        (item,) = scan_dataset(tmp_path, verify=verify).items
        assert item.size == (32, 64)
    loaded = load_picture(item.path, (32, 64), (0, 0, 32, 64))
    assert loaded.getpixel((16, 8))[2] > 200 and loaded.getpixel((16, 56))[0] > 200


def test_wide_gamut_colours_become_those_of_srgb(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (120, 180, 90)).save(tmp_path / "wide.png", icc_profile=wide_gamut())
    Image.new("RGB", (8, 8), (120, 180, 90)).save(tmp_path / "plain.png")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (8, 8), (120, 180, 90)).save(tmp_path / "srgb.jpg", icc_profile=srgb, quality=100)
    wide = colour(tmp_path / "wide.png")
    assert colour(tmp_path / "plain.png") == (120, 180, 90)
    assert max(abs(a - b) for a, b in zip(colour(tmp_path / "srgb.jpg"), (120, 180, 90), strict=True)) <= 2
    assert wide[0] < 95 and abs(wide[1] - 180) < 8  # the green of Adobe RGB is greener than sRGB can say


def test_cmyk_sixteen_bits_lab_and_palettes(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    Image.fromarray(np.full((8, 8), 0xC0C0, np.uint16)).save(tmp_path / "grey16.png")
    Image.fromarray(np.full((8, 8), 0x4040, np.uint16)).save(tmp_path / "grey16.tif")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.new("P", (8, 8), 3).save(tmp_path / "palette.gif")
    red = colour(tmp_path / "cmyk.jpg")
    assert red[0] > 230 and max(red[1:]) < 30
    assert colour(tmp_path / "grey16.png") == (192,) * 3 and colour(tmp_path / "grey16.tif") == (64,) * 3
    assert colour(tmp_path / "float.tif")[0] in (127, 128)
    assert len(colour(tmp_path / "palette.gif")) == 3


def test_transparency_lies_on_the_datasets_background(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    half = Image.new("LA", (8, 8), (0, 128))
    half.save(tmp_path / "half.png")
    assert colour(tmp_path / "clear.png") == (255, 255, 255)
    assert colour(tmp_path / "clear.png", "#102030") == (16, 32, 48)
    assert 126 <= colour(tmp_path / "half.png")[0] <= 128
    assert all(item.transparent for item in scan_dataset(tmp_path).items)


def test_the_first_frame_of_a_moving_picture_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), name) for name in ("lime", "red", "blue")]
    for name in ("moving.gif", "moving.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert colour(tmp_path / name) == (0, 255, 0)


def test_a_mirrored_picture_is_mirrored(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8), "red")
    picture.paste("blue", (0, 0, 4, 8))
    picture.save(tmp_path / "a.png")
    plain, mirrored = (load_picture(tmp_path / "a.png", (8, 8), (0, 0, 8, 8), mirrored=m) for m in (False, True))
    assert plain.getpixel((1, 4)) == mirrored.getpixel((6, 4)) == (0, 0, 255)


@pytest.mark.parametrize("damage", [{"exif": b"Exif\x00\x00garbage!"}, {"icc_profile": b"no profile at all"}])
def test_damaged_exif_or_profile_is_named_and_not_guessed(tmp_path: Path, damage: dict[str, bytes]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "bad.jpg", **damage)
    scan = scan_dataset(tmp_path)
    assert [item.name for item in scan.items] == ["good.jpg"] and "damaged" in scan.skipped[0].reason


def test_a_quick_look_reads_headers_only(tmp_path: Path) -> None:
    Image.effect_noise((60, 40), 50).save(tmp_path / "a.png")
    data = BytesIO()
    Image.effect_noise((60, 40), 50).save(data, "PNG")
    (tmp_path / "cut.png").write_bytes(data.getvalue()[:900])
    quick = scan_dataset(tmp_path, verify=False)
    assert [(item.name, item.size, item.sha256) for item in quick.items] == [
        ("a.png", (60, 40), ""), ("cut.png", (60, 40), ""),
    ]  # fmt: skip
    save_known(quick)
    thorough = scan_dataset(tmp_path, load_known(tmp_path))
    assert [item.name for item in thorough.items] == ["a.png"] and thorough.items[0].sha256
    save_known(thorough)
    assert scan_dataset(tmp_path, load_known(tmp_path), verify=False).items[0].sha256


# ---------------------------------------------------------------- captions and options


def plain(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def test_tables_text_files_and_further_captions(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png", "deep/d.png"):
        plain(tmp_path / name)
    (tmp_path / "captions.jsonl").write_text(
        '{"file_name": "a.png", "text": ["one", "two"], "category": "x"}\n\n{"image": "./b.png", "caption": "tabled"}\n'
    )
    (tmp_path / "deep" / "captions.csv").write_text("file_name,text\nd.png,below\n")
    (tmp_path / "b.txt").write_text("written")
    (tmp_path / "c.txt").write_text("first")
    (tmp_path / "c.2.txt").write_text("second")
    scan = scan_dataset(tmp_path)
    assert {item.name: (item.captions, item.category) for item in scan.items} == {
        "a.png": (("one", "two"), "x"),
        "b.png": (("written",), ""),
        "c.png": (("first", "second"), ""),
        "deep/d.png": (("below",), "deep"),
    }
    assert captions(scan, "tok")[2] == ("tok, first", "tok, second")
    (tmp_path / "deep" / "captions.csv").write_bytes(b"\xff\xfe\x00")
    assert [skipped.name for skipped in scan_dataset(tmp_path).skipped] == ["deep/captions.csv"]


def test_a_caption_of_another_encoding_is_named_and_the_picture_used(tmp_path: Path) -> None:
    plain(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    scan = scan_dataset(tmp_path)
    assert scan.items[0].captions == () and scan.skipped[0].name == "a.txt"


def test_dataset_toml_says_what_counts_how_often(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "a/3.png", "a/4.png", "b/1.png", "b/2.png", "masks/a/1.png"):
        plain(tmp_path / name)
    (tmp_path / "dataset.toml").write_text('[dataset]\nrepeats = 2\nmasks = "masks"\n[folders]\nb = 3\n')
    assert {item.name: item.repeats for item in scan_dataset(tmp_path).items} == {
        "a/1.png": 2, "a/2.png": 2, "a/3.png": 2, "a/4.png": 2, "b/1.png": 6, "b/2.png": 6,
    }  # fmt: skip
    (tmp_path / "dataset.toml").write_text('[dataset]\nbalance = "category"\nmasks = "masks"\ntrigger_word = "tok"\n')
    scan = scan_dataset(tmp_path)
    assert [item.repeats for item in scan.items] == [1, 1, 1, 1, 2, 2] and captions(scan)[0] == ("tok",)
    (tmp_path / "dataset.toml").write_text('[dataset]\ncategories = ["b"]\n')
    assert [item.name for item in scan_dataset(tmp_path).items] == ["b/1.png", "b/2.png"]
    for wrong in ('[dataset]\nrepeat = 2\n', '[dataset]\nbackground = "whitish"\n', "[other]\n", "[folders]\na = 0\n",
                  '[dataset]\nmasks = "../x"\n', '[dataset]\ncategories = ["c"]\n', "[dataset\n"):  # fmt: skip
        (tmp_path / "dataset.toml").write_text(wrong)
        with pytest.raises(ZitError):
            scan_dataset(tmp_path)


def test_options_are_written_without_touching_the_rest(tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text("# mine\n[dataset]\nrepeats = 3 # often\n[folders]\nb = 3\n")
    write_options(tmp_path, {"trigger_word": "tok", "flip": False})
    text = (tmp_path / "dataset.toml").read_text()
    assert "# mine" in text and "repeats = 3 # often" in text and 'trigger_word = "tok"' in text and "flip" not in text
    write_options(tmp_path, {"trigger_word": ""})
    assert "trigger_word" not in (tmp_path / "dataset.toml").read_text()


def test_tokens_are_estimated_a_little_high() -> None:
    assert 8 <= estimated_tokens("A red apple on a wooden table, soft light.") <= 16
    assert estimated_tokens("一个红苹果放在木桌上") == 10
