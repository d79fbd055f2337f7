"""What the tab Train makes of a run folder: curves, previews, cards. No server, no browser."""

import re
from dataclasses import replace
from pathlib import Path

from zit_app.core.cache_settings import CacheSettings
from zit_app.core.run import Run
from zit_app.core.train_settings import DatasetSettings, TrainJob, TrainSettings, job_toml
from zit_app.service import runs
from zit_app.ui import cards
from zit_app.ui.advanced import PRESETS, QUICK
from zit_app.ui.cache import as_trained
from zit_app.ui.curves import curves, previews
from zit_app.ui.text import Words
from zit_app.ui.train import presets_of

W = Words("en")
STEPS = [{"step": step, "loss": 1 / step, "lr": 1e-4, "seconds": 0.1} for step in range(1, 9)]


def health(step: int, sharpness: float) -> dict[str, object]:
    drift = {"1.0000": 0.01 * step, "0.5000": 0.02 * step}
    return {"step": step, "health": {"drift": drift, "sharpness": sharpness, "distance": 0.1}}


def test_health_and_held_out_losses_become_curves_when_there_are_any() -> None:
    plain = curves(W, 10, STEPS)
    assert plain.count("<svg") == 2 and "held" not in plain
    lines = [*STEPS[:4], health(4, 1.0), *STEPS[4:], {**health(8, 0.7), "held_out": {"loss": 0.5, "nodes": {}}}]
    full = curves(W, 10, lines)
    assert full.count("<svg") == 5 and full.count('class="held"') == 1
    assert full.count('class="raw"') == 1 + 2  # the loss, and each noise level of the drift
    assert full.count('class="level"') == 1  # the untrained model's sharpness
    recalled = [*lines, {**health(9, 0.7)}]
    recalled[-1]["health"]["recall"] = 0.5  # type: ignore[index]
    assert curves(W, 10, recalled).count("<svg") == 6 and W("train.recall") in curves(W, 10, recalled)
    assert curves(W, 10, []) == ""


def test_previews_stand_by_step_with_the_newest_first() -> None:
    pictures = [Path(f"/x/samples/{step:06d}_{number}.png") for step in (0, 5, 10, 100) for number in (0, 1)]
    shown = previews(W, pictures)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", shown) == ["step 100", "step 10", "step 5", W("train.before")]
    assert shown.count("<img") == 8 and previews(W, []) == ""
    many = [Path(f"/x/samples/{step:06d}_0.png") for step in range(0, 100, 5)]
    assert previews(W, many).count("<img") == 13 and W("train.before") in previews(W, many)


def test_the_quick_preset_is_for_the_embedded_models() -> None:
    assert presets_of("turbo") == presets_of("my own") == [name for name in PRESETS if name != QUICK]
    assert len(presets_of("turbo")) == 4
    assert presets_of("pocket")[0] == QUICK


def test_a_failed_card_shows_what_would_change_and_lets_nothing_through(home: Path) -> None:
    toml = job_toml(TrainSettings(), TrainJob("pocket", "/data", ""))
    run = Run.create("train", "<b>x</b>", toml)
    run.log("<script>bad</script>")
    fields = {"cause": "The loss of step 3 is not a number; no checkpoint was saved before.", "reason": "diverged"}
    run.write_status("failed", remedy="Train again.", skipped=[["<i>.png", "not a picture"]], **fields)
    card = cards.run_card(W, runs.view(run.folder))
    assert "Learning rate: 0.0001 → 5e-05" in card and f'data-on="{run.folder}"' in card
    assert W("failure.diverged") in card and "<script>" not in card and "<b>x" not in card and "<i>" not in card
    run.write_status("failed", reason="")
    assert 'data-do="retry"' not in cards.run_card(W, runs.view(run.folder))
    (run.folder / "settings.toml").write_text("[training]\nof_tomorrow = 1\n")
    run.write_status("failed", **fields | {"reason": "memory"})
    card = cards.run_card(W, runs.view(run.folder))  # of another version of the program: shown, with no way out
    assert W("failure.memory") in card and 'data-do="retry"' not in card


def test_the_cache_is_looked_at_as_the_newest_training_encoded_it(home: Path) -> None:
    for word, sides in (("first", (256, (96,))), ("second", (0, (64,)))):
        data = DatasetSettings(
            resolution=sides[0],
            further_resolutions=sides[1],
            trigger_word=word,
            enable_bucket=word == "first",
            max_sequence_length=256,
        )
        settings = replace(TrainSettings(), dataset=data)
        Run.create("train", word, job_toml(settings, TrainJob("pocket", "/data", "")))
    future = Run.create("train", "third", "[training]\nof_tomorrow = 1\n")
    trainings = runs.list_runs("train")
    assert trainings[0].folder == future.folder
    asked, so = CacheSettings("/data", "pocket"), {"enable_bucket": False, "max_sequence_length": 256}
    assert as_trained(asked, trainings) == replace(asked, trigger_word="second", further_resolutions=(64,), **so)
    assert as_trained(replace(asked, trigger_word=" own "), trainings).trigger_word == "own"
    given = replace(asked, resolution=128)
    assert as_trained(given, trainings) == replace(given, trigger_word="second", **so)
    of_another = replace(asked, model="turbo")
    assert as_trained(of_another, trainings) == replace(of_another, trigger_word="second")
    elsewhere = replace(asked, dataset="/other")
    assert as_trained(elsewhere, trainings) == elsewhere
