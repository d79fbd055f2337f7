"""The model's own pictures beside a data set, in its colours."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

from tests.test_cache import make_dataset
from tests.test_train_refusals import small_settings
from tests.training import assert_identical, new_run, trained
from zit_app.core.errors import ZitError
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.data.palette import frequent_colours, in_colours, oklab
from zit_app.data.pictures import scan_dataset
from zit_app.engine.own_pictures import draw_own_pictures
from zit_app.engine.train import resume

FLAT = ((255, 255, 255), (221, 46, 68), (85, 172, 238), (41, 47, 51))


def flat_set(folder: Path) -> Path:
    """Two pictures of four flat colours, of which the first has the most pixels; a lone dot of a fifth."""
    folder.mkdir()
    for number in range(2):
        picture = Image.new("RGB", (128, 128), FLAT[0])
        pen = ImageDraw.Draw(picture)
        for i, side in enumerate((60, 40, 20), 1):
            pen.rectangle((5 + 10 * i, 20 * i, 4 + 10 * i + side, 19 + 20 * i), fill=FLAT[i])
        picture.putpixel((127, 127), (0, 255, 0))
        picture.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"thing {number}", encoding="utf-8")
    return folder


def test_the_most_frequent_colours_are_found_in_their_order(tmp_path: Path) -> None:
    items = scan_dataset(flat_set(tmp_path / "data")).items
    counted = Counter(pixel for item in items for pixel in Image.open(item.path).convert("RGB").get_flattened_data())
    assert [tuple(map(int, colour)) for colour in frequent_colours(items, 4)] == [c for c, _ in counted.most_common(4)]
    assert len(frequent_colours(items, 256)) == 5  # no more than there are


def test_oklab_is_that_of_css_color_4() -> None:
    primaries = np.array(((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)))
    stated = (
        (0.62796, 0.22486, 0.12585),
        (0.86644, -0.23389, 0.17950),
        (0.45201, -0.03246, -0.31153),
        (1, 0, 0),
        (0,) * 3,
    )
    np.testing.assert_allclose(oklab(primaries), stated, atol=2e-5)


def quarters(colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """A picture of four areas."""
    upper, lower = (np.repeat(np.array(pair, np.uint8)[None], 64, 0) for pair in (colours[:2], colours[2:]))
    return np.repeat(np.concatenate([upper, lower]), 64, 1)


INSIDE = np.tile(np.pad(np.ones((56, 56), bool), 4), (2, 2))  # of quarters: away from the edges, where areas meet


def test_every_area_gets_the_nearest_colour_and_grain_is_gone() -> None:
    palette, generator = np.array(FLAT, np.uint8), np.random.default_rng(0)
    plain = np.clip(quarters(FLAT) + np.array((9, -14, 12)), 0, 255).astype(np.uint8)
    flat = np.asarray(in_colours(Image.fromarray(plain), palette))
    assert (flat == quarters(FLAT))[INSIDE].all()
    grainy = plain.copy()
    spots = generator.random((128, 128)) < 0.05
    grainy[spots] = 255 - grainy[spots]
    cleaned = np.asarray(in_colours(Image.fromarray(grainy), palette))
    assert (cleaned != flat).any(-1)[INSIDE].mean() < 0.002


def test_areas_keep_their_hue_where_the_plain_distance_turns_them_green_or_pink() -> None:
    green, skin, pale, brown = (119, 178, 85), (217, 158, 130), (225, 232, 237), (102, 33, 19)
    palette = np.array((green, skin, pale, brown), np.uint8)
    areas = ((128, 128, 128), (150, 150, 150), (165, 105, 75), (110, 50, 30))  # greys, light and dark brown
    plain = cKDTree(palette.astype(float)).query(np.array(areas, float))[1]
    assert plain.tolist() == [0, 1, 0, 3]
    painted = np.asarray(in_colours(Image.fromarray(quarters(areas)), palette))
    assert (painted == quarters((pale, pale, skin, brown)))[INSIDE].all()


def test_a_training_learns_both_and_leaves_the_data_set_alone(tmp_path: Path, tiny_model: Path) -> None:
    dataset = flat_set(tmp_path / "mine")
    before = {path: path.read_bytes() for path in sorted(dataset.rglob("*"))}
    plain = small_settings(max_steps=2)
    data = replace(plain.dataset, own_pictures=3, own_colors=2)
    settings = replace(plain, dataset=data)
    run = new_run(tmp_path / "run", settings, dataset, tiny_model)
    assert resume(run, Progress(run)) is not None
    assert {path: path.read_bytes() for path in sorted(dataset.rglob("*"))} == before
    folder = run.folder / "dataset" / "mine"
    own = sorted((folder / "own_pictures").glob("*.png"))
    assert [path.name for path in own] == [f"{i:06d}.png" for i in range(3)]
    assert all(path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in own)
    allowed = {tuple(map(int, colour)) for colour in frequent_colours(scan_dataset(dataset).items, 2)}
    assert all(set(Image.open(path).convert("RGB").get_flattened_data()) <= allowed for path in own)
    assert "Training on 5 pictures" in (run.folder / "log.txt").read_text(encoding="utf-8")

    # As after a kill between two drawings, and within the copy of the data set: the rest is made, nothing is another.
    killed = new_run(tmp_path / "killed", settings, dataset, tiny_model)
    (killed.folder / "dataset" / "mine.part").mkdir(parents=True)
    (killed.folder / "dataset" / "mine.part" / "0.png").write_bytes(b"half")
    prompts = tmp_path / "prompts.txt"
    texts = [path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in own]
    prompts.write_text("\n".join(texts), encoding="utf-8")
    draw_own_pictures(1, prompts, data.resolution, tiny_model, killed, Progress())
    assert resume(Run.open(killed.folder), Progress()) is not None
    assert_identical(trained(killed, 2), trained(run, 2))


def test_a_folder_of_that_name_is_not_mixed_up(tmp_path: Path, tiny_model: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    make_dataset(dataset / "own_pictures", ((64, 64),))
    plain = small_settings()
    run = new_run(tmp_path / "run", replace(plain, dataset=replace(plain.dataset, own_pictures=1)), dataset, tiny_model)
    with pytest.raises(ZitError, match="has a folder own_pictures already"):
        resume(run, Progress(run))
