"""The presets' measurement: its settings, its subject, its ranks. The trainings are `zit pocket promises`' own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zit_app.core import paths
from zit_app.core.train_settings import load_preset, preset_names
from zit_app.engine.pocket.promises import BETTER, PLAIN, VARIANTS, mean_ranks, settings_of, write_subject
from zit_app.engine.pocket.score import isolate


def test_presets_are_measured_as_they_ship_and_plain_is_bare() -> None:
    assert {preset for preset, _ in VARIANTS.values()} == set(preset_names()) - {"adapter"}
    plain, detail = settings_of(PLAIN, "art", 0), settings_of("detail", "art", 3)
    assert plain.training.protection == "none" and plain.acrf.sampler == "uniform" and plain.acrf.base == "mse"
    assert plain.training.max_steps == detail.training.max_steps and plain.dataset == detail.dataset
    assert detail.training.seed == 3
    for name in (name for name, (_, changes) in VARIANTS.items() if not changes):
        shipped, measured = load_preset(name), settings_of(name, "subject", 0)
        assert (measured.acrf, measured.lora) == (shipped.acrf, shipped.lora)
        assert measured.training.protection == shipped.training.protection == "auto"


def test_the_subject_stands_in_other_places_and_sizes(tmp_path: Path) -> None:
    folder = write_subject(tmp_path / "subject")
    assert {path.read_text() for path in folder.glob("*.txt")} == {"flat emoji, frog, white background\n"}
    found = [isolate(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    things = [thing for thing in found if thing is not None]
    assert len(things) == 12
    assert np.std([thing.extent for thing in things]) > 0.05 and np.std([thing.center for thing in things]) > 0.05
    whole = isolate(Image.open(paths.assets() / "demo" / "pictures" / "frog.png").convert("RGB"))
    assert whole is not None
    unmirrored = [np.abs(np.subtract(thing.picture, whole.picture, dtype=float)).mean() for thing in things]
    assert np.median(unmirrored) < 12  # of 255: the same thing, redrawn at another size


def test_ranks_share_places_and_know_which_way_is_better() -> None:
    good = dict.fromkeys(BETTER, 1.0) | {"subject's error": 0.1}
    bad = dict.fromkeys(BETTER, 0.5) | {"subject's error": 0.2}
    rows = {"untrained": good, "a, seed 0": good, "a, seed 1": bad, "b, seed 0": bad, "c, x, seed 0": bad}
    rows["real pictures"] = {"sharpness": 0.6}
    assert mean_ranks(rows) == {"a": 1.0, "b": pytest.approx(2.5), "c, x": pytest.approx(2.5)}


def test_sharper_than_real_pictures_is_no_better() -> None:
    one = dict.fromkeys(BETTER, 0.5)
    rows = {"untrained": one, "real pictures": {"sharpness": 0.6}}
    rows |= {"a, seed 0": one | {"sharpness": 0.7}, "b, seed 0": one | {"sharpness": 0.9}}
    rows |= {"c, seed 0": one | {"unrelated sharpness": 0.9}}
    places = mean_ranks(rows)
    assert places["a"] == places["b"] < places["c"]
