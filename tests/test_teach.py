"""A LoRA on 24 pictures teaches the pocket model a style it has never seen; smaller than the card's measurement."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zit_app.core import paths
from zit_app.core.run import Run
from zit_app.core.train_settings import TrainJob, job_toml
from zit_app.engine.pocket.card import Bar
from zit_app.engine.pocket.judge import STYLES, look
from zit_app.engine.pocket.paint import Painter
from zit_app.engine.pocket.questions import Questions, load_questions
from zit_app.engine.pocket.teach import (
    computed_score,
    ink_drawings,
    judged_bounds,
    judged_score,
    recoloured_score,
    split,
    stickers,
    teach,
    write_dataset,
)
from zit_app.engine.pocket.twin import WAYS, settings_of
from zit_app.engine.pocket.unrelated import rows_unrelated, share_kept


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
    score = judged_score(questions, Painter("pocket"), None, stickers(), count=30)
    assert score["style"] <= 0.3


def test_the_judge_knows_both_arts_when_they_are_real(questions: Questions, tmp_path: Path) -> None:
    """Without that their scores would say nothing; the pictures that are taught are in the art that is asked."""
    for art in (stickers(), ink_drawings(tmp_path / "ink")):
        files = sorted(art.folder.glob("*.png"))
        assert len(files) == len(art.shown) == 24 and all(file.with_suffix(".txt").is_file() for file in files)
        assert {file.stem.replace("_", " ") for file in files} == set(art.shown)
        _, seen = look(questions.judge, [Image.open(file).convert("RGB") for file in files])
        assert (seen == STYLES.index(art.word)).float().mean() >= 0.9
        if art.word == "twemoji":  # a flat art is told by its colours, in which things stay what they are
            recoloured = recoloured_score(questions, Painter("pocket"), art, count=20)
            assert recoloured["style"] >= 0.8 and recoloured["content"] >= 0.6
        real, *cheats = judged_bounds(questions, art).values()
        assert real["style"] >= 0.9 and real["content"] >= 0.6
        assert len(cheats) == 2 and all(row["content"] <= 0.02 for row in cheats)


def test_few_of_the_unrelated_concepts_are_shown_in_another_art(questions: Questions, tmp_path: Path) -> None:
    """As the card and docs/protection.md say; what computed styles are taught with is not among them at all."""
    names = {questions.pairs.concepts[row].en for row in rows_unrelated()}
    assert len(names) == 100 and not set(rows_unrelated()) & set(split().taught)
    assert names & set(stickers().shown) == {"frog", "ghost", "grinning face", "penguin"}
    assert len(names & set(ink_drawings(tmp_path / "ink").shown)) == 12


def test_the_share_kept_is_paired_over_prompts() -> None:
    before = torch.tensor([[1.0, 1, 1, 1, 0, 0, 1, 1], [1, 1, 0, 1, 0, 1, 1, 1]])
    after = before.clone()
    after[:, 0] = 0  # one prompt of eight is lost, in both sets of seeds
    row = share_kept(before, after)
    assert row["before"] == 12 / 16 and row["after"] == 10 / 16 and row["kept"] == pytest.approx(10 / 12)
    chosen = np.random.default_rng(1).integers(8, size=(20_000, 8))
    a, b = (x.mean(0).numpy()[chosen].mean(1) for x in (after, before))
    assert (row["from"], row["to"]) == pytest.approx(tuple(np.quantile(a / b, (0.025, 0.975))), abs=0.03)
    same = share_kept(before, before)
    assert same["from"] == same["kept"] == same["to"] == 1


def test_a_bar_beyond_its_ceiling_is_told_as_such() -> None:
    assert Bar("style", 0.8, 0.9, 0.85).line() == "| style | 0.80 | at least 0.90 | 0.85 | **no**, beyond the ceiling |"
    assert Bar("style", 0.8, 0.9, 0.95).line().endswith("| 0.95 | **not yet** |")
    assert Bar("error", 0.3, 0.35, 0.2, least=False).line() == "| error | 0.30 | at most 0.35 | 0.20 | yes |"
    assert Bar("error", 0.5, 0.35, 0.4, least=False).line().endswith("beyond the ceiling |")


def test_an_interrupted_training_is_gone_on_with_and_a_finished_one_kept(tmp_path: Path) -> None:
    """A study is killed within a row more often than between two."""
    pictures = paths.assets() / "demo" / "pictures"
    settings = settings_of((), 2)
    folder = tmp_path / "row"
    Run.create("train", "row", job_toml(settings, TrainJob("pocket", str(pictures), "teach")), folder)
    adapter = teach(pictures, settings, folder)
    written = adapter.stat().st_mtime_ns
    assert teach(pictures, settings, folder) == adapter and adapter.stat().st_mtime_ns == written
