"""What the tab Models & settings knows: where models came from, which precision fits, a report that names nobody."""

import getpass
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.app_content import fill
from zit_app.cli import main
from zit_app.core import paths
from zit_app.core.memory import Request
from zit_app.core.run import Run
from zit_app.service import diagnosis, doctor, downloads, model_files, planning
from zit_app.ui import choices, memory
from zit_app.ui.appearance import theme_query
from zit_app.ui.text import Words

NVIDIA_SMI = "#!/bin/sh\necho '0, Card, {mib}, 500'\n"


@pytest.fixture
def card(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Gives this machine a card of so many GB, as NVIDIA's tool tells of one."""

    def give(gigabytes: int) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(NVIDIA_SMI.format(mib=gigabytes * 1024))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        choices.cards_here.cache_clear()

    yield give
    choices.cards_here.cache_clear()


@pytest.mark.parametrize(("gigabytes", "best"), [(24, "bf16"), (16, "bf16"), (12, "int8"), (10, "int8"), (8, "int8")])
def test_what_is_recommended_is_what_the_plan_chooses(
    card: Callable[[int], None], gigabytes: int, best: str, capsys: pytest.CaptureFixture[str]
) -> None:
    card(gigabytes)
    full = planning.choose(planning.FULL, Request(1024, 1024), planning.room_of(choices.cards_here()), "auto", "auto")
    assert main(["plan", "--vram", str(gigabytes), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["settings"]
    assert (full.precision, full.text_precision) == (best, told["text_precision"]) and best == told["precision"]
    assert choices.recommended("pocket") == ("bf16", "bf16")  # a small model needs no quantization
    labels = dict(choices.precision_choices(Words("en"), ("auto", "bf16", "int8"), best))
    assert labels[f"{best} (recommended for your Card)"] == best and labels["auto (bf16)"] == "auto"


def test_without_a_card_everything_is_computed_in_full(home: Path) -> None:
    assert choices.recommended("pocket") == ("fp32", "fp32")
    assert planning.as_drawn(planning.FULL, Request(64, 64), None, "auto", "auto").text_precision == "fp32"


@pytest.mark.parametrize(
    ("gigabytes", "precision", "words"),
    [
        (24, "auto", ["stays on the card", "only to read", "all pictures together"]),
        (12, "auto", ["8 of its 30 blocks", "only to read", "tiles of 512 pixels"]),
        (12, "int8", ["stays on the card", "only to read", "all pictures together"]),
        (6, "int8", ["of its 30 blocks", "of its 36 layers", "tiles of"]),
    ],
)
def test_the_plan_is_told_in_words(
    card: Callable[[int], None], gigabytes: int, precision: str, words: list[str]
) -> None:
    card(gigabytes)
    room = planning.room_of(choices.cards_here())
    choice = planning.as_drawn(planning.FULL, Request(1024, 1024), room, precision, "auto")
    said = memory.parts_in_words(Words("en"), choice, planning.FULL)
    assert len(said) == 3 and all(part in one for part, one in zip(words, said, strict=True))
    page = memory.plan_html(Words("zh"), choice, planning.FULL, 3.2)
    assert "3 秒" in page and f"{gigabytes * 1.073741824:.1f} GB" in page and page.count("<li>") == 3
    assert "warning" not in page
    much = planning.as_drawn(planning.FULL, Request(4096, 4096), planning.budget_of(6 << 30), precision, "auto")
    assert "warning" in memory.plan_html(Words("en"), much, planning.FULL)


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
