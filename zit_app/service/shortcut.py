"""An icon on the desktop that starts the launcher. Made only when asked for; nothing else of the system is touched."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from zit_app.core import paths
from zit_app.core.errors import ZitError
from zit_app.core.files import write_atomic

NAME = "ZIT Studio"
# Text comes in through the environment: no quoting of paths between two shells. The desktop may lie in OneDrive.
POWERSHELL = """
$shell = New-Object -ComObject WScript.Shell
$file = Join-Path $shell.SpecialFolders('Desktop') ($env:ZIT_SHORTCUT_NAME + '.lnk')
$link = $shell.CreateShortcut($file)
$link.TargetPath = $env:ZIT_SHORTCUT_TARGET
$link.WorkingDirectory = $env:ZIT_SHORTCUT_FOLDER
$link.IconLocation = $env:ZIT_SHORTCUT_ICON
$link.Save()
Write-Output $file
"""


def create(project: Path = paths.PROJECT) -> Path:
    """Put the icon on this user's desktop, on Linux without one into the menu; returns the file.

    An older one is replaced. Raises ZitError when the system refuses.
    """
    if sys.platform == "win32":
        return create_for_windows(project)
    if sys.platform == "darwin":
        words = f"exec bash {shlex.quote(str(project / 'launch.sh'))}\n"
        return _write(Path.home() / "Desktop" / f"{NAME}.command", words)
    return create_for_linux(project, linux_desktop())


def linux_desktop() -> Path:
    """The desktop's folder in the user's language; the menu's where there is no desktop."""
    asked = shutil.which("xdg-user-dir")
    found = subprocess.run([asked, "DESKTOP"], capture_output=True, text=True, check=False).stdout if asked else ""
    for folder in (Path(found.strip()) if found.strip() else None, Path.home() / "Desktop"):
        if folder is not None and folder.is_dir() and folder != Path.home():
            return folder
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "applications"


def create_for_linux(project: Path, folder: Path) -> Path:
    """A desktop entry of freedesktop.org that opens a terminal with the launcher's stages."""
    home = os.environ.get("ZIT_HOME")
    words = ["env", f"ZIT_HOME={Path(home).absolute()}"] if home else []
    command = " ".join(_in_entry(word) for word in [*words, "bash", str(project / "launch.sh")])
    lines = (
        "[Desktop Entry]",
        "Type=Application",
        f"Name={NAME}",
        "Comment=Train LoRAs for Z-Image-Turbo and draw with them",
        f"Exec={command}",
        f"Icon={_escaped(str(project / 'zit_app' / 'ui' / 'icon.svg'))}",
        "Terminal=true",
        "Categories=Graphics;",
    )
    file = _write(folder / "zit-studio.desktop", "\n".join(lines) + "\n")
    gio = shutil.which("gio")
    if gio is not None:  # GNOME starts what it was told to trust only; elsewhere this says nothing
        subprocess.run([gio, "set", str(file), "metadata::trusted", "true"], capture_output=True, check=False)
    return file


def create_for_windows(project: Path) -> Path:
    """A link to launch.bat, made by Windows itself."""
    given = {"NAME": NAME, "TARGET": str(project / "launch.bat"), "FOLDER": str(project)}
    given["ICON"] = str(project / "zit_app" / "ui" / "icon.ico")
    surroundings = {**os.environ, **{f"ZIT_SHORTCUT_{key}": value for key, value in given.items()}}
    command = ["powershell", "-NoProfile", "-NonInteractive", "-Command", POWERSHELL]
    try:
        ran = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        remedy = f"Drag {project / 'launch.bat'} to the desktop with the right mouse button instead."
        raise ZitError("Windows did not make the shortcut.", remedy) from error
    return Path(ran.stdout.strip().splitlines()[-1])


def _write(file: Path, text: str) -> Path:
    write_atomic(file, text)
    file.chmod(0o755)
    return file


def _in_entry(word: str) -> str:
    """A word of an Exec line: quoted, percent signs doubled (desktop entry specification, "The Exec key")."""
    quoted = "".join(f"\\{letter}" if letter in '\\"`$' else letter for letter in word).replace("%", "%%")
    return _escaped(f'"{quoted}"')


def _escaped(text: str) -> str:
    """A value of a desktop entry: backslashes doubled."""
    return text.replace("\\", "\\\\")
