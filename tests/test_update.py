"""Updates from a real git origin: shown, taken only forward, refused where something would be lost."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from zit_app.commands import update as commands
from zit_app.core import workers
from zit_app.core.errors import ZitError
from zit_app.core.run import Run
from zit_app.service import update

Git = Callable[..., None]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """git in a folder, as somebody, without the settings of this machine."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    for name, value in {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}.items():
        monkeypatch.setenv(name, value)

    def run(folder: Path, *words: str) -> None:
        somebody = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
        subprocess.run(["git", *somebody, "-C", str(folder), *words], check=True, capture_output=True)

    return run


@pytest.fixture
def origin(tmp_path: Path, git: Git) -> Path:
    folder = tmp_path / "origin"
    folder.mkdir()
    git(folder, "init")
    commit(git, folder, "first", "program.py", "one")
    return folder


@pytest.fixture
def copy(tmp_path: Path, git: Git, origin: Path) -> Path:
    git(tmp_path, "clone", str(origin), "copy")
    return tmp_path / "copy"


def commit(git: Git, folder: Path, title: str, file: str, text: str) -> None:
    (folder / file).write_text(text)
    git(folder, "add", file)
    git(folder, "commit", "-m", title)


def test_what_is_new_is_shown_and_then_taken(home: Path, git: Git, origin: Path, copy: Path) -> None:
    assert update.look(copy) == ()
    commit(git, origin, "Second thing", "program.py", "two")
    commit(git, origin, "Third thing", "other.py", "three")
    assert update.look(copy) == ("Second thing", "Third thing")
    assert (copy / "program.py").read_text() == "one", "looking changes nothing"
    (copy / "notes.txt").write_text("mine")  # a file that git does not know harms nothing
    update.take(copy)
    assert (copy / "program.py").read_text() == "two" and (copy / "other.py").exists()
    assert (copy / "notes.txt").read_text() == "mine" and update.look(copy) == ()


def test_nothing_of_the_users_is_overwritten(home: Path, git: Git, origin: Path, copy: Path) -> None:
    commit(git, origin, "Second thing", "program.py", "two")
    assert update.look(copy)
    (copy / "program.py").write_text("edited")
    with pytest.raises(ZitError, match=r"edited: program\.py"):
        update.take(copy)
    assert (copy / "program.py").read_text() == "edited"
    git(copy, "checkout", "program.py")
    run = Run.create("train", "busy", "a = 1\n")
    with workers.holding(0):
        workers.write_record(0, "working", run.folder)
        with pytest.raises(ZitError, match="being worked on"):
            update.take(copy)
    update.take(copy)
    commit(git, copy, "Of my own", "mine.py", "1")
    with pytest.raises(ZitError, match="commits of its own"):
        update.look(copy)


def test_where_there_is_nothing_to_ask(tmp_path: Path, git: Git, origin: Path, copy: Path) -> None:
    alone = tmp_path / "unpacked"
    alone.mkdir()
    with pytest.raises(ZitError, match="no git clone"):
        update.look(alone)
    with pytest.raises(ZitError, match="follows no branch"):
        update.look(origin)
    origin.rename(tmp_path / "gone")
    with pytest.raises(ZitError, match="could not be asked"):
        update.look(copy)


def test_the_command_takes_nothing_unasked(
    home: Path, git: Git, origin: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from argparse import Namespace

    monkeypatch.setattr(update.look, "__defaults__", (copy,))
    monkeypatch.setattr(update.take, "__defaults__", (copy,))
    commit(git, origin, "Second thing", "program.py", "two")
    for yes, text in ((False, "one"), (True, "two")):
        commands.update_command(Namespace(json=True, yes=yes))
        answer = json.loads(capsys.readouterr().out)
        assert answer == {"news": ["Second thing"], "updated": yes} and (copy / "program.py").read_text() == text
