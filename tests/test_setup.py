"""The logic of the launchers: when an environment is ready, which torch it gets, what its words mean."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from zit_app.core.errors import ZitError
from zit_app.service import browser, environment, setup, torch_source, uv
from zit_app.service.environment import Layout
from zit_app.service.torch_source import TorchSource

PROJECT = Path(__file__).resolve().parents[1]
LAUNCH, LAUNCH_WINDOWS = PROJECT / "launch.sh", PROJECT / "launch.bat"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A project whose environment is a link to this Python, with a stamp."""
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(PROJECT / name, tmp_path / name)
    layout = Layout(tmp_path)
    layout.python.parent.mkdir(parents=True)
    layout.python.symlink_to(sys.executable)
    write_stamp(layout)
    return layout


def write_stamp(layout: Layout, extras: tuple[str, ...] = ()) -> None:
    environment.write_stamp(layout, extras, found="2.0 on the CPU", source="a test")


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_stamped_environment_is_ready_until_something_changes(layout: Layout) -> None:
    assert environment.is_ready(layout, ())
    assert not environment.is_ready(layout, ("dev",)), "the tests need more than the program"
    write_stamp(layout, ("dev",))
    assert environment.is_ready(layout, ("dev",)) and environment.is_ready(layout, ())
    (layout.project / "constraints.txt").write_text("torch==1.0\n")
    assert not environment.is_ready(layout, ())


def test_an_environment_that_lost_its_python_or_its_stamp_is_not_ready(layout: Layout) -> None:
    layout.python.unlink()
    assert not environment.is_ready(layout, ())
    layout.python.symlink_to("/usr/bin/env")  # another one than the stamp names
    assert not environment.is_ready(layout, ())
    layout.stamp.write_text('{"half":')
    assert environment.read_stamp(layout) == {}


def test_a_moved_project_is_installed_again(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.copytree(layout.project, moved, symlinks=True)
    assert not environment.is_ready(Layout(moved), ())


def test_words(layout: Layout) -> None:
    python, app = str(layout.python), str(layout.project / "app.py")
    assert setup.command_for(layout, []) == [python, app]
    assert setup.command_for(layout, ["doctor", "--json"]) == [python, app, "doctor", "--json"]
    assert setup.command_for(layout, ["test"])[1:3] == ["-m", "pytest"]
    assert setup.command_for(layout, ["test", "-k", "run"])[-2:] == ["-k", "run"]


def test_a_working_uv_is_found_and_a_broken_or_old_one_is_not(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    on_path = script(tmp_path / "path" / "uv", "exit 127")  # a shim without a version behind it
    assert uv.find_uv(layout) is None
    script(on_path, "echo uv 0.4.30")
    assert uv.find_uv(layout) is None
    own = script(layout.own_uv / "pip" / "bin" / "uv", "echo 'uv 0.13.8 (x86_64)'")
    assert uv.find_uv(layout) == own
    script(on_path, "echo uv 1.0.0")
    assert uv.find_uv(layout) == on_path


def test_a_torch_wheel_is_taken_only_when_it_fits(tmp_path: Path) -> None:
    tag, machine = "cp311", os.uname().machine
    system = "linux" if sys.platform == "linux" else "macosx_14_0"
    names = [
        f"torch-2.13.0+cpu-cp310-cp310-manylinux_2_28_{machine}.whl",
        f"torch-2.9.1+cpu-{tag}-{tag}-{system}_{machine}.whl",
        f"torch-2.13.0+cpu-{tag}-{tag}-{system}_{machine}.whl",
        f"torch-2.14.0+cpu-{tag}-{tag}-win_amd64.whl",
        f"torchvision-9.0-{tag}-{tag}-{system}_{machine}.whl",
    ]
    for name in names:
        (tmp_path / name).touch()
    assert torch_source.find_torch_wheel([tmp_path], tag) == tmp_path / names[2]
    assert torch_source.find_torch_wheel([tmp_path], "cp399") is None


def test_find_links_are_local_folders_that_exist(tmp_path: Path) -> None:
    words = f"{tmp_path} file://{tmp_path} https://example.org/wheels {tmp_path / 'missing'}"
    assert torch_source.find_links({"PIP_FIND_LINKS": words}) == [tmp_path, tmp_path]


def test_which_torch(tmp_path: Path) -> None:
    system = "linux" if sys.platform == "linux" else "macosx_14_0"
    wheel = tmp_path / f"torch-2.13.0+cpu-cp311-cp311-{system}_{os.uname().machine}.whl"
    wheel.touch()

    def unasked() -> bool:
        raise AssertionError("no network is needed here")

    offered = torch_source.choose_torch("cp311", False, [tmp_path], unasked)
    assert offered == TorchSource(wheel.name, "torch==2.13.0+cpu", ("--find-links", str(tmp_path)))
    with_card = torch_source.choose_torch("cp311", True, [tmp_path], lambda: True)
    assert with_card.backend == "auto", "a CPU build is not what a card is for"
    plain = torch_source.choose_torch("cp310", False, [tmp_path], lambda: False)
    assert plain.backend == "" and "plain registry" in plain.words and "cannot be reached" in plain.words
    assert torch_source.choose_torch("cp311", False, [tmp_path], unasked, chosen="cu130").backend == "cu130"


def test_an_index_that_does_not_answer_is_not_reachable() -> None:
    assert not torch_source.index_reachable("http://127.0.0.1:9/")


def test_the_first_product_of_torch_and_what_is_said_without_one(tmp_path: Path) -> None:
    assert " on " in torch_source.verify(Path(sys.executable))
    broken = script(tmp_path / "python", "echo 'ImportError: libcudart' >&2; exit 1")
    with pytest.raises(ZitError, match="ImportError: libcudart.*UV_TORCH_BACKEND=cpu"):
        torch_source.verify(broken)


def test_setup_stops_with_one_sentence_where_nothing_can_be_installed(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """uv that cannot install: the stamp is gone, the exit code is not 0, and the sentence says what to do."""
    layout.stamp.unlink()
    script(tmp_path / "path" / "uv", 'case "$1" in --version) echo uv 0.13.0;; *) exit 2;; esac')
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    monkeypatch.setenv("UV_TORCH_BACKEND", "cpu")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert setup.main(["doctor"], layout.project) == 1
    assert not layout.stamp.exists()
    assert "PYTHONDONTWRITEBYTECODE" not in os.environ, "every start would compile its libraries again"
    last = capfd.readouterr().err.splitlines()[-1]
    assert "start again" in last or "Check free disk space" in last


def test_launch_is_short_and_takes_the_first_python_that_is_new_enough(tmp_path: Path) -> None:
    assert len(LAUNCH.read_text().splitlines()) < 40
    old = "#!/bin/sh\nexit 1\n"
    for name, text in {"python3": old, "python3.11": '#!/bin/sh\n[ "$1" = -c ] || echo found "$@"\n'}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    search = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    ran = subprocess.run(["bash", LAUNCH, "a b", "c"], env=search, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    if not (Path("/usr/bin/python3.14").exists() or Path("/usr/bin/python3.13").exists()):
        assert ran.stdout.split("\n")[0] == f"found {PROJECT}/launch.py a b c"


def test_the_launcher_for_windows_does_the_same(tmp_path: Path) -> None:
    raw = LAUNCH_WINDOWS.read_bytes()
    lines = raw.decode("ascii").split("\r\n")
    assert len(lines) < 40 and b"\n" not in raw.replace(b"\r\n", b""), "cmd.exe loses its place in other line ends"
    checks = [re.search(r"import sys; sys\.exit\([^'\"]*\)", file.read_text()) for file in (LAUNCH, LAUNCH_WINDOWS)]
    assert checks[0] and checks[1] and checks[0].group() == checks[1].group()
    assert sum("launch.py" in line and not line.startswith("rem") for line in lines) == 1
    assert not [line for line in lines if "powershell" in line.lower() or "goto" in line.lower()]


def test_a_browser_is_found_by_its_name_or_on_the_path(tmp_path: Path) -> None:
    search = {"PATH": str(tmp_path)}
    assert browser.find_browser(search) is None
    chrome = script(tmp_path / "google-chrome", "")
    assert browser.find_browser(search) == chrome
    chromium = script(tmp_path / "chromium", "")
    assert browser.find_browser(search) == chromium
    assert browser.find_browser({**search, "ZIT_CHROMIUM": str(chrome)}) == chrome
    assert browser.find_browser({**search, "ZIT_CHROMIUM": str(tmp_path / "missing")}) is None


def test_a_browser_is_installed_where_that_is_allowed_and_missed_in_one_sentence_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ZIT_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    browser.provide_browser()
    assert capfd.readouterr().err.count("browser tests are skipped") == 1
    for tool in ("env", "sh", "touch", "chmod"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool, path="/usr/bin:/bin")))
    script(tmp_path / "sudo", 'if [ "$1" = -n ]; then shift; fi; exec "$@"')
    (tmp_path / "true").symlink_to("/bin/true")
    made = tmp_path / "chromium"
    script(tmp_path / "apt-get", f'case "$*" in *"install --yes"*chromium) touch {made}; chmod +x {made};; esac')
    browser.provide_browser()
    assert browser.find_browser() == made and "Installing Chromium" in capfd.readouterr().err
    (tmp_path / "apt-get").unlink()  # with a browser nothing is asked for
    browser.provide_browser()
    assert capfd.readouterr().err == ""


def test_constraints_name_versions_and_no_addresses() -> None:
    text = (PROJECT / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all("==" in line for line in lines)
    assert not re.search(r"://|file:|--|@", "\n".join(lines))
    names = {line.split("==")[0] for line in lines}
    assert {"torch", "gradio", "diffusers", "pytest", "resvg-py", "tomlkit"} <= names
    assert not {name for name in names if name.startswith(("nvidia", "cuda", "torchvision"))}
