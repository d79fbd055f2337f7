"""Five hundred broken files among fifty good ones: good ones are used, bad ones named, nothing else is touched."""

import contextlib
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from zit_app.core import paths
from zit_app.data.pictures import scan_dataset

GOOD, BAD = 50, 500
MEMORY = 700 << 20  # bytes of the whole process; Pillow, numpy and the largest good picture take far less
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".tif": "TIFF", ".bmp": "BMP", ".avif": "AVIF",
}  # fmt: skip
ODD = ("", "😀🎨", "new\nline", "two  spaces ", "'quotes\"", "中文图片", "x" * 230, "x" * 295, "-rf", "%s$HOME")


def encoded(random: Random, kind: str, **more: object) -> bytes:
    """A small picture of random pixels in one of the formats."""
    picture = Image.frombytes("RGB", (40, 30), random.randbytes(40 * 30 * 3))
    data = BytesIO()
    picture.save(data, kind, **more)
    return data.getvalue()


def huge(random: Random) -> tuple[str, bytes]:
    """A header that promises more pixels than fit anywhere, and next to nothing behind it."""
    side = random.choice((40_000, 60_000, 2**31 - 1))
    if random.random() < 0.5:
        chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        return ".png", png + struct.pack(">I", 0) + b"IDAT"
    head = struct.pack("<IiiHHIIiiII", 40, min(side, 60_000), min(side, 60_000), 1, 24, 0, 0, 0, 0, 0, 0)
    return ".bmp", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head


def broken(random: Random) -> Iterator[tuple[str, bytes]]:
    """Endless broken files: suffix and contents."""
    while True:
        suffix, kind = random.choice(list(FORMATS.items()))
        whole = encoded(random, kind)
        yield suffix, whole[: random.randrange(1, len(whole) * 3 // 4)]
        yield random.choice(list(FORMATS)), b""
        yield random.choice(list(FORMATS)), random.randbytes(random.randrange(1, 4000))
        yield random.choice(list(FORMATS)), "<html>no picture, 不是图片</html>".encode()
        yield random.choice([".jpg", ".png"]), zlib.compress(random.randbytes(500))
        yield huge(random)
        yield ".jpg", encoded(random, "JPEG", exif=b"Exif\x00\x00" + random.randbytes(80))
        yield ".png", encoded(random, "PNG", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff" + random.randbytes(9))
        yield random.choice([(".jpg", encoded(random, "JPEG", icc_profile=random.randbytes(300))),
                             (".webp", encoded(random, "WEBP", icc_profile=random.randbytes(300)))])  # fmt: skip


def names(random: Random, suffix: str, number: int) -> str:
    """Names that people and fuzzers think of."""
    return f"{random.choice(ODD)}{number}{suffix}"


def fill(folder: Path, outside: Path) -> tuple[set[str], set[str]]:
    """Write the set; returns the names of the good and of the bad files."""
    random = Random(4)
    good, bad = set(), set()
    for number in range(GOOD):
        suffix, kind = random.choice(list(FORMATS.items()))
        name = f"good {number}{suffix}" if number % 5 else f"😀 gut\n{number}{suffix}"
        (folder / name).write_bytes(encoded(random, kind))
        good.add(name)
    os.symlink(folder / "loop.png", folder / "loop.png")
    os.symlink(folder / "b.jpg", folder / "a.jpg")
    os.symlink(folder / "a.jpg", folder / "b.jpg")
    os.symlink(outside / "nothing.png", folder / "dangling.png")
    os.symlink(folder, folder / "round")
    os.symlink(outside, folder / "outside")
    os.mkfifo(folder / "pipe.jpg")
    bad |= {"loop.png", "a.jpg", "b.jpg", "dangling.png", "round", "outside", "pipe.jpg"}
    makers = broken(random)
    while len(bad) < BAD:
        suffix, data = next(makers)
        name = names(random, suffix, len(bad))
        with contextlib.suppress(OSError):  # names longer than this file system takes
            (folder / name).write_bytes(data)
            bad.add(name)
    return good, bad


@pytest.mark.skipif(sys.platform != "linux", reason="links, pipes, line breaks in names and /proc need Linux")
def test_broken_files_are_named_and_good_ones_used(tmp_path: Path) -> None:
    folder, outside = tmp_path / "set", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "private.png").write_bytes(encoded(Random(0), "PNG"))
    good, bad = fill(folder, outside)
    before = {path: path.read_bytes() for path in outside.iterdir()}
    kept = {name: (folder / name).read_bytes() for name in good}

    program = """
import sys
from zit_app.cli import main
code = main(sys.argv[1:])
# not getrusage: its peak is inherited from the process that started this one
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(code)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, "check", str(folder), "--json"],
        cwd=paths.PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    assert {one["file"] for one in report["pictures"]} == good
    assert {one["file"] for one in report["unreadable"]} == bad
    assert all(one["reason"] for one in report["unreadable"])
    assert int(ran.stderr.split()[-1]) * 1024 < MEMORY
    assert {path: path.read_bytes() for path in outside.iterdir()} == before
    assert {name: (folder / name).read_bytes() for name in good} == kept
    assert {item.name for item in scan_dataset(folder).items} == good
