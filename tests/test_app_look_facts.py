"""What the tab Models & settings knows: where models came from, which precision fits, a report that names nobody."""

import getpass
import os
from pathlib import Path

import pytest

from tests.app_content import fill
from zit_app.core import paths
from zit_app.core.run import Run
from zit_app.service import diagnosis, doctor, downloads, model_files
from zit_app.service.hardware import Card, recommended_precision
from zit_app.ui.appearance import theme_query

ZIMAGE = 6_154_908_736  # weights of the transformer


@pytest.mark.parametrize(("gigabytes", "best"), [(24, "bf16"), (16, "bf16"), (12, "int8"), (10, "int8"), (8, "nf4")])
def test_the_finest_precision_that_fits_is_recommended(gigabytes: int, best: str) -> None:
    assert recommended_precision(ZIMAGE, [Card(0, "card", gigabytes << 30, 0)]) == best


def test_small_models_and_processors_need_no_quantization() -> None:
    assert recommended_precision(10**7, [Card(0, "card", 4 << 30, 0)]) == "bf16"
    assert recommended_precision(ZIMAGE, []) == "fp32"


def test_models_say_where_they_came_from(home: Path, tiny_model: Path) -> None:
    own, turbo = home / "models" / "own", downloads.folder_of("turbo")
    for folder in (own, turbo):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(tiny_model)
    mirror = {"model": "turbo", "source": "hub", "endpoint": "https://mirror.example"}
    downloads.create(downloads.DownloadSettings(**mirror)).write_status("done")
    found = {model.name: (model.source, model.origin) for model in model_files.models()}
    assert found["pocket"] == ("embedded", "") and found["own"] == ("folder", "")
    assert found["turbo"] == ("mirror", "https://mirror.example") and found["base"] == ("", "")


def test_the_report_names_nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Check("home", str(home))])
    monkeypatch.setattr(getpass, "getuser", lambda: "anna")
    monkeypatch.setattr(Path, "home", lambda: home.parent)
    fill(home)
    run = Run.create("train", "broken", "")
    run.log(f"{home / 'x'} and {paths.PROJECT} and {home.parent / 'y'} of anna, not of susanna")
    run.write_status("failed", cause="It broke.", remedy="Mend it.", step=3, total=9)
    text = diagnosis.diagnosis()
    for words in ("<home folder>", "<project>", "~/y of <user>, not of susanna", "It broke. Mend it.", "step 3 of 9"):
        assert words.replace("/", os.sep) in text
    assert str(home) not in text and " anna" not in text


def test_only_a_chosen_theme_goes_into_the_address() -> None:
    assert [theme_query(mode) for mode in (None, "system", "dark", "<x>")] == ["", "", "?__theme=dark", ""]
