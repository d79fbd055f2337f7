"""The icon on the desktop: what it starts, read back as a desktop reads it."""

import configparser
import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from zit_app.core.errors import ZitError
from zit_app.core.paths import PROJECT
from zit_app.service import shortcut


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in a folder whose name asks for quoting; its launcher writes down that it was started."""
    folder = tmp_path / 'my "$tudio" `100%` \\ it'
    folder.mkdir()
    (folder / "launch.sh").write_text('echo "$ZIT_HOME|$0" > "$(dirname "$0")/started"\n')
    return folder


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def as_a_desktop_reads(file: Path) -> list[str]:
    """The words of the Exec line: the entry's escapes, then its quotes, then its percent signs."""
    entry = configparser.ConfigParser(interpolation=None)
    entry.optionxform = str  # type: ignore[assignment,method-assign]
    entry.read(file, encoding="utf-8")
    found = dict(entry["Desktop Entry"])
    assert found["Type"] == "Application" and found["Name"] == "ZIT Studio" and found["Terminal"] == "true"
    line = found["Exec"].replace("\\\\", "\\")
    return [word.replace("%%", "%") for word in shlex.split(line.replace("\\$", "$").replace("\\`", "`"))]


def test_the_entry_of_linux_starts_the_launcher(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIT_HOME", str(tmp_path / "my home"))
    file = shortcut.create_for_linux(project, tmp_path / "Desktop")
    assert os.access(file, os.X_OK)
    subprocess.run(as_a_desktop_reads(file), check=True)
    assert (project / "started").read_text() == f"{tmp_path / 'my home'}|{project / 'launch.sh'}\n"
    monkeypatch.delenv("ZIT_HOME")
    again = shortcut.create_for_linux(project, tmp_path / "Desktop")
    assert again == file and as_a_desktop_reads(file) == ["bash", str(project / "launch.sh")]
    assert (PROJECT / "zit_app" / "ui" / "icon.svg").is_file()


def test_the_desktop_is_the_one_the_user_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/bin")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert shortcut.linux_desktop() == tmp_path / ".local" / "share" / "applications"
    (tmp_path / "Desktop").mkdir()
    script(tmp_path / "path" / "xdg-user-dir", f'echo "{tmp_path}"')  # the answer of a machine without one
    assert shortcut.linux_desktop() == tmp_path / "Desktop"
    (tmp_path / "桌面").mkdir()
    script(tmp_path / "path" / "xdg-user-dir", f'echo "{tmp_path}/桌面"')
    assert shortcut.linux_desktop() == tmp_path / "桌面"


def test_windows_makes_its_own_link(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    with pytest.raises(ZitError, match="did not make the shortcut"):
        shortcut.create_for_windows(project)
    link = tmp_path / "ZIT Studio.lnk"
    script(tmp_path / "path" / "powershell", f'echo "$ZIT_SHORTCUT_TARGET" > "{link}"; echo "{link}"')
    assert shortcut.create_for_windows(project) == link
    assert link.read_text() == f"{project / 'launch.bat'}\n"
    assert (PROJECT / "launch.bat").is_file() and (PROJECT / "zit_app" / "ui" / "icon.ico").is_file()
