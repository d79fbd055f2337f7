"""A LoRA on 24 pictures teaches the pocket model a style it has never seen; smaller than the card's measurement."""

from pathlib import Path

import pytest

from zit_app.core import paths
from zit_app.core.run import Run
from zit_app.core.train_settings import TrainJob, job_toml
from zit_app.engine.pocket.paint import Painter
from zit_app.engine.pocket.questions import Questions, load_questions
from zit_app.engine.pocket.teach import computed_score, judged_score, split, teach, write_dataset
from zit_app.engine.pocket.twin import WAYS, settings_of


@pytest.fixture(scope="module")
def questions() -> Questions:
    return load_questions(paths.assets() / "judge")


def test_asked_concepts_are_never_taught() -> None:
    parts = split()
    assert len(parts.taught) == 24 and len(parts.asked) == 60
    assert not set(parts.taught) & set(parts.asked)


@pytest.fixture(scope="module")
def hues(questions: Questions, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], dict[str, float]]:
    """Scores with and without a LoRA of 60 steps (instead of 500), on 30 concepts (instead of 60)."""
    folder = tmp_path_factory.mktemp("teach")
    dataset = write_dataset(questions, "hues", folder / "hues")
    adapter = teach(dataset, settings_of(WAYS["on the base's weights"], 60), folder / "run")
    painter = Painter("pocket")
    return computed_score(questions, painter, adapter, "hues", 30), computed_score(questions, painter, None, "hues", 30)


def test_turned_hues_come_nearer_to_the_truth(hues: tuple[dict[str, float], dict[str, float]]) -> None:
    taught, untaught = hues
    assert taught["relative"] <= 0.75
    assert taught["error"] < 0.8 * untaught["error"]


def test_the_right_truth_is_found_more_often(hues: tuple[dict[str, float], dict[str, float]]) -> None:
    taught, untaught = hues
    assert taught["found"] > untaught["found"]


def test_without_a_lora_nothing_looks_like_a_sticker(questions: Questions) -> None:
    score = judged_score(questions, Painter("pocket"), None, "flat", "twemoji", count=30)
    assert score["style"] <= 0.3


def test_an_interrupted_training_is_gone_on_with_and_a_finished_one_kept(tmp_path: Path) -> None:
    """A study is killed within a row more often than between two."""
    pictures = paths.assets() / "demo" / "pictures"
    settings = settings_of((), 2)
    folder = tmp_path / "row"
    Run.create("train", "row", job_toml(settings, TrainJob("pocket", str(pictures), "teach")), folder)
    adapter = teach(pictures, settings, folder)
    written = adapter.stat().st_mtime_ns
    assert teach(pictures, settings, folder) == adapter and adapter.stat().st_mtime_ns == written
