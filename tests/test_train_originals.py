"""The pictures behind the latents: masks lie where the pictures lie, Lab is found in real latents."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.small import small_settings
from tests.test_cache import make_dataset
from tests.training import new_run
from zit_app.core import paths
from zit_app.core.errors import ZitError
from zit_app.core.models import find_model
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import AcrfSettings, DatasetSettings, TrainSettings
from zit_app.engine.cache import build_cache
from zit_app.engine.encoding import picture_tensor
from zit_app.engine.originals import find_masks, fitted_lab, pictures_of
from zit_app.engine.train import resume

MASKED = TrainSettings(dataset=DatasetSettings(resolution=64, mask_loss=True, mask_outside=0.25))


def halves(size: tuple[int, int], mode: str) -> Image.Image:
    """White on the left, black on the right."""
    image = Image.new(mode, size, "black")
    image.paste("white", (0, 0, size[0] // 2, size[1]))
    return image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = make_dataset(tmp_path / "data", ((64, 64), (150, 64)))
    (folder / "dataset.toml").write_text('[dataset]\nmasks = "areas"\nflip = true\n', encoding="utf-8")
    (folder / "areas").mkdir()
    for name, size in (("0", (64, 64)), ("1", (150, 64))):
        halves(size, "RGB").save(folder / f"{name}.png")
        halves((2 * size[0], 2 * size[1]), "L").save(folder / "areas" / f"{name}.png")  # of twice the size
    return folder


def test_a_mask_is_cropped_scaled_and_mirrored_as_its_picture(data: Path, tiny_model: Path) -> None:
    cache = build_cache(data, tiny_model, 64, further=(32,))
    masks, pictures = find_masks(MASKED, cache, tiny_model), pictures_of(MASKED, cache, tiny_model)
    assert masks is not None and len(cache.samples) == len(pictures) == 8  # two sizes, and their mirror images
    for sample in cache.samples:
        seen = F.avg_pool2d((picture_tensor(pictures[sample.latents])[:1] + 1) / 2, 8)
        torch.testing.assert_close(masks.load([sample])[0], 0.25 + 0.75 * seen, atol=0.12, rtol=0)
    means = {sample.latents: masks.load([sample])[0, 0].mean(0) for sample in cache.samples}
    assert all(
        torch.equal(each, each.sort()[0]) or torch.equal(each, each.sort(descending=True)[0]) for each in means.values()
    )
    assert sum(bool(each[0] > each[-1]) for each in means.values()) == 4  # half of them are mirrored


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda data: (data / "dataset.toml").unlink(), "mask_loss is on, but .* has no masks"),
        (lambda data: (data / "areas" / "1.png").unlink(), "2 pictures have no mask .* such as 1.png"),
    ],
)
def test_missing_masks_are_refused_before_the_first_step(
    break_it: object, message: str, data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    break_it(data)  # type: ignore[operator]
    if (data / "areas" / "1.png").exists():
        shutil.rmtree(data / "areas")
    run = new_run(tmp_path / "run", MASKED, data, tiny_model)
    with pytest.raises(ZitError, match=message) as caught:
        resume(run, Progress(run))
    assert caught.value.remedy and run.state() == "failed" and not run.metrics()


def test_lab_is_found_in_the_latents_of_real_pictures(home: Path, tmp_path: Path) -> None:
    data = shutil.copytree(paths.assets() / "demo" / "pictures", tmp_path / "data")
    settings = TrainSettings(AcrfSettings(loss_mode="style", lab="fitted"), dataset=DatasetSettings(resolution=128))
    model = find_model("pocket")
    cache = build_cache(data, model, 128, only="latents")
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    config = AutoencoderKL.load_config(model / "vae")
    found = fitted_lab(settings, cache, model, config["shift_factor"], config["scaling_factor"], Progress())
    assert found is not None and found[0].shape == (17, 3)
    assert min(found[1]) > 0.7 and found[1][0] > 0.85  # lightness best


def test_how_well_lab_was_found_stands_in_the_adapter(tmp_path: Path, tiny_model: Path) -> None:
    from zit_app.model.adapter_files import read_adapter

    data = make_dataset(tmp_path / "data")
    settings = small_settings(AcrfSettings(loss_mode="style", lab="fitted"), max_steps=1)
    run: Run = new_run(tmp_path / "run", settings, data, tiny_model)
    adapter = resume(run, Progress(run))
    assert adapter is not None and "zit.lab_r2" in read_adapter(adapter).metadata
    assert "Lab fitted on 3 pictures" in (run.folder / "log.txt").read_text(encoding="utf-8")
