"""The report on this machine: a page that a stranger can read, and what it says when something is broken."""

import stat
import sys
from pathlib import Path

import pytest

from zit_app.service import doctor
from zit_app.service.doctor import Check
from zit_app.service.probe import probe


def test_this_machine(home: Path) -> None:
    checks = doctor.examine()
    by_name = {check.name: check for check in checks}
    assert {"python", "torch", "card", "memory", "disk", "home", "model", "packages"} <= set(by_name)
    for name in ("python", "torch", "memory", "home", "packages"):
        assert by_name[name].remedy == "", doctor.page(checks)
    assert str(home) in by_name["home"].found
    assert "torch" not in by_name["packages"].found and "gradio" in by_name["packages"].found


def test_the_page_shows_the_remedy_below_the_problem() -> None:
    page = doctor.page([Check("disk", "1 GiB free", "Free some space."), Check("home", "here")])
    assert page.splitlines() == [
        "problem  disk       1 GiB free",
        "                    → Free some space.",
        "ok       home       here",
        "1 of 2 need attention, see →.",
    ]
    assert doctor.page([Check("home", "here")]).endswith("Everything is fine.")


def python_that(tmp_path: Path, does: str) -> str:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for Python")
@pytest.mark.parametrize("does", ["echo 'cannot allocate' >&2; exit 3", "kill -SEGV $$", "echo no json"])
def test_a_torch_that_takes_its_process_along_is_a_problem_with_a_remedy(tmp_path: Path, does: str) -> None:
    facts = probe(python_that(tmp_path, does))
    (check,) = doctor.torch_checks(facts)
    assert "does not work" in check.found and "bash launch.sh" in check.remedy


CARD = {"name": "RTX 4090", "memory": 24 << 30, "free": 20 << 30, "product": True}


def test_what_cards_say() -> None:
    torch = {"version": "2.13.0", "cuda": "13.0", "hip": None, "threads": 8, "seconds": 2.0, "product": True}
    assert doctor.torch_checks(torch) == [Check("torch", "2.13.0, CUDA 13.0, 8 threads, imported in 2.0 s")]
    assert "wrong products" in doctor.torch_checks({**torch, "product": False})[0].remedy
    (good,) = doctor.card_checks({"cards": [CARD]})
    assert good == Check("card", "RTX 4090, 24.0 GiB, 20.0 GiB free")
    (old,) = doctor.card_checks({"cards": [{**CARD, "error": "no kernel image is available"}]})
    assert "no kernel image" in old.found and "driver" in old.remedy


def test_a_torchvision_of_another_torch_is_named() -> None:
    assert doctor.torchvision_checks({}) == doctor.torchvision_checks({"torchvision": ""}) == []
    (check,) = doctor.torchvision_checks({"torchvision": "RuntimeError: operator torchvision::nms does not exist"})
    assert "nms" in check.found and check.remedy


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZIT_HOME", str(tmp_path / "file" / "home"))
    check = doctor.home_check()
    assert "could not be written" in check.found and "ZIT_HOME" in check.remedy


def test_models_found(home: Path) -> None:
    folder = home / "models" / "Z-Image-Turbo"
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    found = [check.found for check in doctor.model_checks()]
    assert any(text.startswith(f"turbo: ready at {folder}") for text in found)
    assert any(text.startswith("base: not here") for text in found)
