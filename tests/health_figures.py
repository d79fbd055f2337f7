"""How many planted defects `zit check` finds, and how many untouched pictures it blames: the table in docs/dataset.md.

    python -m tests.health_figures [--emoji FOLDER] [--count 40]

Pictures: the sample photographs of scikit-image and scikit-learn, and emoji at full size (256 pixels) on white. Without
a folder of emoji the package `@lobehub/fluent-emoji-3d` is fetched by npm, where there is one. The bounds of
`data/health/report.py` were chosen on the photographs and on the emoji that `TUNED_ON` draws; others are judged here.
"""

import argparse
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from zit_app.data.health.likeness import duplicates, signature
from zit_app.data.health.measure import measure
from zit_app.data.health.report import picture_flags
from zit_app.data.health.writing import counted
from zit_app.data.pictures import Item
from zit_app.data.reading import Reader, is_installed

PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip  # of scikit-image; a stereo partner, drawings, texts and the moved clock are left out
TUNED_ON = 60  # emoji that the bounds were chosen on: the first of the shuffled names
SKIN = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}  # the same emoji in other tones are near duplicates indeed
Defect = Callable[[Image.Image, Random], Image.Image]


def photographs() -> dict[str, Image.Image]:
    """The sample photographs of scikit-image and scikit-learn."""
    import skimage
    import sklearn

    found = {name: Path(skimage.__file__).parent / "data" / name for name in PHOTOGRAPHS}
    images = Path(sklearn.__file__).parent / "datasets" / "images"
    found |= {name: images / name for name in ("china.jpg", "flower.jpg")}
    return {name: Image.open(path).convert("RGB") for name, path in found.items()}


def emoji(folder: Path, count: int) -> dict[str, Image.Image]:
    """Emoji that the bounds were not chosen on, on white."""
    files = sorted(folder.glob("*.webp"))
    Random(0).shuffle(files)
    fresh = [file for file in files[TUNED_ON:] if not SKIN & set(file.stem.split("-"))][:count]
    return {file.name: _on_white(Image.open(file)) for file in fresh}


def fetched(work: Path) -> Path:
    """The package of emoji from npm."""
    command = ["npm", "pack", "--silent", "@lobehub/fluent-emoji-3d@1.1.0"]
    name = subprocess.run(command, cwd=work, check=True, capture_output=True, text=True).stdout.strip()
    with tarfile.open(work / name.splitlines()[-1]) as archive:
        archive.extractall(work, filter="data")
    return work / "package" / "assets"


def recompressed(quality: int) -> Defect:
    """Saved as JPEG and read again, so that only the pixels tell."""

    def spoil(picture: Image.Image, random: Random) -> Image.Image:
        data = BytesIO()
        picture.save(data, "JPEG", quality=quality)
        return Image.open(data).convert("RGB")

    return spoil


def cropped(share: float, mirrored: bool = False) -> Defect:
    """A part that keeps this share of each side, anywhere in the picture."""

    def cut(picture: Image.Image, random: Random) -> Image.Image:
        width, height = int(picture.width * share), int(picture.height * share)
        left, top = random.randint(0, picture.width - width), random.randint(0, picture.height - height)
        part = picture.crop((left, top, left + width, top + height))
        return ImageOps.mirror(part) if mirrored else part

    return cut


SPOILT: dict[str, tuple[str, Defect]] = {
    "blurred, σ 1.5": ("blurry", lambda picture, _: picture.filter(ImageFilter.GaussianBlur(1.5))),
    "blurred, σ 2": ("blurry", lambda picture, _: picture.filter(ImageFilter.GaussianBlur(2))),
    "blurred, σ 4": ("blurry", lambda picture, _: picture.filter(ImageFilter.GaussianBlur(4))),
    "JPEG 30, saved again as PNG": ("blocky", recompressed(30)),
    "JPEG 20, saved again as PNG": ("blocky", recompressed(20)),
    "JPEG 10, saved again as PNG": ("blocky", recompressed(10)),
    "letterboxed, black": ("letterbox", lambda p, _: ImageOps.expand(p, (0, p.height // 8), "black")),
    "framed in blue": ("frame", lambda p, _: ImageOps.expand(p, (p.width // 10, p.height // 10), "#224488")),
    "side bars, grey": ("pillarbox", lambda p, _: ImageOps.expand(p, (p.width // 10, 0), "#555555")),
}
COPIED: dict[str, Defect] = {
    "mirrored": lambda picture, _: ImageOps.mirror(picture),
    "half the size": lambda picture, _: picture.resize((picture.width // 2, picture.height // 2)),
    "squeezed to 70 × 85 %": lambda p, _: p.resize((int(p.width * 0.7), int(p.height * 0.85))),
    "JPEG 20": recompressed(20),
    "90 % of each side": cropped(0.9),
    "75 % of each side": cropped(0.75),
    "80 %, mirrored": cropped(0.8, mirrored=True),
}


def flags(picture: Image.Image, work: Path, **saved: object) -> list[str]:
    """The flags of a picture that is saved as PNG, or as JPEG of a `quality`."""
    path = work / ("picture.jpg" if saved else "picture.png")
    picture.save(path, **({"compress_level": 1} | saved))  # type: ignore[arg-type]
    item = Item(work, path.name, ("caption",), picture.size, "x", (0, 0))
    return picture_flags(item, measure(path, work / "thumbnail.webp"), min(picture.size))


def figures(pictures: dict[str, Image.Image], work: Path) -> list[tuple[str, int, int, list[str]]]:
    """What was planted, how many were found, of how many, and which were not (or were blamed without a cause)."""
    rows = []
    random = Random(1)
    blamed = [f"{name}: {', '.join(found)}" for name, one in pictures.items() if (found := flags(one, work))]
    rows.append(("untouched, blamed", len(blamed), len(pictures), blamed))
    for what, (flag, spoil) in SPOILT.items():
        missed = [name for name, one in pictures.items() if flag not in flags(spoil(one, random), work)]
        rows.append((what, len(pictures) - len(missed), len(pictures), missed))
    for quality in (40, 15):
        missed = [name for name, one in pictures.items() if "blocky" not in flags(one, work, quality=quality)]
        rows.append((f"JPEG {quality}", len(pictures) - len(missed), len(pictures), missed))
    signs = {name: signature(one) for name, one in pictures.items()}
    for what, copy in COPIED.items():
        missed = [name for name, one in pictures.items() if not duplicates([signs[name], signature(copy(one, random))])]
        rows.append((f"copy, {what}", len(pictures) - len(missed), len(pictures), missed))
    if is_installed():
        reader = Reader()
        rows.append(_read("untouched, writing read", reader, pictures, lambda picture: picture, blamed=True))
        rows += [_read(f"writing, {what}", reader, pictures, mark) for what, mark in MARKED.items()]
    names = list(pictures)
    pairs = [f"{names[a]} = {names[b]}" for a, b in duplicates(list(signs.values()))]
    rows.append(("untouched, taken for copies", len(pairs), len(pictures), pairs))
    return rows


def marked(text: str, size: float, opacity: int, corner: bool) -> Callable[[Image.Image], Image.Image]:
    """White letters with a thin dark edge, so high in shares of the longer side, in the lower right or the middle."""

    def mark(picture: Image.Image) -> Image.Image:
        font = ImageFont.load_default(max(12, round(size * max(picture.size))))
        sheet = Image.new("RGBA", picture.size)
        pen = ImageDraw.Draw(sheet)
        _, _, width, height = pen.textbbox((0, 0), text, font)
        right, bottom = picture.width - width - 8, picture.height - height - 8
        place = (right, bottom) if corner else (right // 2, bottom // 2)
        pen.text(place, text, (255, 255, 255, opacity), font, stroke_width=1, stroke_fill=(0, 0, 0, opacity // 2))
        return Image.alpha_composite(picture.convert("RGBA"), sheet).convert("RGB")

    return mark


MARKED = {
    "© and a name in a corner": marked("© Sample 2024", 0.06, 150, corner=True),
    "a pale word across the middle": marked("SAMPLE", 0.15, 110, corner=False),
}


def _read(
    what: str, reader: Reader, pictures: dict[str, Image.Image], mark: Callable[[Image.Image], Image.Image],
    blamed: bool = False,
) -> tuple[str, int, int, list[str]]:
    """In how many pictures writing is found, and in which it is not (or, without any, is)."""
    read = {name for name, one in pictures.items() if counted(reader.lines(mark(one)))}
    return what, len(read), len(pictures), [name for name in pictures if (name in read) == blamed]


def _on_white(picture: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--emoji", type=Path, help="folder of emoji as WebP; default: fetched by npm")
    parser.add_argument("--count", type=int, default=40, help="emoji to take")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sets = {"photographs": photographs(), "emoji": emoji(arguments.emoji or fetched(work), arguments.count)}
        print("| pictures | planted | found | not found (or blamed) |\n| --- | --- | --- | --- |")
        for name, pictures in sets.items():
            for what, found, count, which in figures(pictures, work):
                spoken = ", ".join(which[:4]) + (" …" if len(which) > 4 else "")
                print(f"| {name} | {what} | {found} of {count} | {spoken} |", flush=True)


if __name__ == "__main__":
    main()
