"""A file is the old one or the new one, on a disk that is full, too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zit_app.core.errors import ZitError
from zit_app.core.files import read_json, replacing, sha256_of, write_atomic, write_json

MEGABYTE = 1 << 20


def test_write_and_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    write_json(path, {"größe": [1, 2.5, None]})
    assert read_json(path) == {"größe": [1, 2.5, None]}
    write_atomic(path, b"abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# What the operating system answers beyond a file size limit is one of the answers of a full disk (EFBIG), and the only
# one that every Linux user can call forth. In a process of its own: the limit cannot be raised again.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from zit_app.core.errors import ZitError
from zit_app.core.files import replacing, write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
path = Path(sys.argv[1])
try:
    if sys.argv[2] == "bytes":
        write_atomic(path, b"x" * (2 << 20))
    else:
        import numpy, safetensors.numpy
        with replacing(path) as temporary:
            safetensors.numpy.save_file({"x": numpy.zeros(2 << 20, numpy.uint8)}, temporary)
except ZitError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file size limit to set")
@pytest.mark.parametrize("writer", ["bytes", "safetensors"])
def test_a_full_disk_is_one_sentence_and_costs_nothing(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "weights.safetensors"
    write_atomic(path, "old")
    ran = subprocess.run([sys.executable, "-c", FULL_DISK, path, writer], capture_output=True, text=True, check=False)
    assert ran.stdout.startswith(f"The disk is full: {path}"), ran.stderr
    assert "Free some space" in ran.stdout
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount a small filesystem")
def test_a_really_full_filesystem(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        path = tmp_path / "a"
        write_atomic(path, b"o" * 1000)
        with pytest.raises(ZitError, match="The disk is full"):
            write_atomic(path, b"n" * 2 * MEGABYTE)
        assert path.read_bytes() == b"o" * 1000
        assert list(tmp_path.iterdir()) == [path]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ZitError, match="could not be written"):
        write_atomic(tmp_path / "file" / "below.txt", "x")


def test_what_is_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(ZitError, match="does not exist"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"half":')
    with pytest.raises(ZitError, match="a.json is not a JSON file"):
        read_json(tmp_path / "a.json")
