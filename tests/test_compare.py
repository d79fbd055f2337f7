"""Comparisons: the measures against plain numpy, the words of the command line, the files of a run."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_adapters import random_lora
from zit_app.cli import main
from zit_app.core.compare_settings import (
    CompareSettings,
    Variant,
    compare_toml,
    load_comparison,
    parse_seeds,
    parse_variant,
)
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import LoraUse
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.engine.compare import cell_path, compare
from zit_app.flow.diversity import mean_pairwise_distance, pixel_deviation
from zit_app.model.adapter_files import save_adapter
from zit_app.model.loading import load_transformer
from zit_app.service.comparisons import read_report


def test_measures_are_their_formulas() -> None:
    x = torch.rand(5, 3, 96, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    small = x.numpy().reshape(5, 3, 32, 3, 32, 2).mean((3, 5))
    pairs = [np.sqrt(((a - b) ** 2).mean()) for a, b in itertools.combinations(small, 2)]
    assert mean_pairwise_distance(x).item() == pytest.approx(np.mean(pairs), rel=1e-9)
    assert pixel_deviation(x).item() == pytest.approx(x.numpy().std(0).mean(), rel=1e-9)


def test_measures_at_their_ends() -> None:
    same = torch.rand(1, 3, 64, 64).expand(4, -1, -1, -1)
    assert mean_pairwise_distance(same).item() == pytest.approx(0, abs=1e-4)
    assert pixel_deviation(same).item() == pytest.approx(0, abs=1e-6)
    black_and_white = torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)])
    assert mean_pairwise_distance(black_and_white).item() == pytest.approx(1)
    assert pixel_deviation(black_and_white).item() == pytest.approx(0.5)


def test_seeds_and_variants_in_words() -> None:
    assert parse_seeds("0-3,9,2") == (0, 1, 2, 3, 9)
    assert parse_variant("base=") == Variant("base")
    assert parse_variant("mine=a b.safetensors@0.5") == Variant("mine", loras=(LoraUse("a b.safetensors", 0.5),))
    full = parse_variant("slow=model=pocket-base;lora=a.safetensors@1@2-3;lora=b.safetensors;steps=30;guidance=4")
    loras = (LoraUse("a.safetensors", 1.0, 2, 3), LoraUse("b.safetensors"))
    assert full == Variant("slow", "pocket-base", loras, 30, 4.0)


@pytest.mark.parametrize("read, text", [(parse_seeds, "5-2"), (parse_seeds, "x"), (parse_variant, "only a name")])
def test_words_that_are_not_understood(read: object, text: str) -> None:
    with pytest.raises(ZitError):
        read(text)  # type: ignore[operator]


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ZitError, match="Did you mean 'steps'"):
        parse_variant("a=step=3")


@pytest.mark.parametrize("names", [("a", "A"), ("../out",), ("",), ("dot.",)])
def test_names_that_cannot_be_folders_are_refused(names: tuple[str, ...]) -> None:
    settings = CompareSettings("pocket", ("a cat",), (0, 1), tuple(Variant(name) for name in names))
    with pytest.raises(ZitError):
        compare_toml(settings)


def test_settings_come_back_from_their_file(tmp_path: Path) -> None:
    variants = (Variant("base"), parse_variant("two=model=m;lora=a.safetensors@0.5@1-2;steps=3"))
    settings = CompareSettings("pocket", ("a cat", '"quoted" 猫'), (0, 7), variants, 64, 48)
    file = tmp_path / "settings.toml"
    file.write_text(compare_toml(settings), encoding="utf-8")
    assert load_comparison(file) == settings


def test_a_comparison_draws_measures_and_reports(
    home: Path, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = tmp_path / "style.safetensors"
    transformer = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    save_adapter(lora, random_lora(transformer), 4, 4.0, {})
    out = tmp_path / "out"
    words = ["compare", "--model", str(tiny_model), "--prompts", "a cat", "a dog", "--seeds", "0-2", "--size", "64x48"]
    words += ["--variant", "base=steps=2", "--variant", f"mine=lora={lora};steps=2", "--out", str(out), "--json"]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    numbers = answer["variants"]
    assert numbers["base"]["distance"] > 0 and numbers["base"]["distance"] != numbers["mine"]["distance"]
    assert len(numbers["base"]["prompts"]) == 2 and Image.open(answer["grid"]).width > 3 * 64

    stack = torch.stack(
        [
            torch.from_numpy(np.asarray(Image.open(cell_path(out, "base", 0, seed))).copy()).permute(2, 0, 1) / 255
            for seed in range(3)
        ]
    )
    assert numbers["base"]["prompts"][0]["deviation"] == pytest.approx(stack.numpy().std(0).mean(), abs=1e-5)
    report = read_report(out)
    assert [variant.distance for variant in report.variants] == [numbers[name]["distance"] for name in ("base", "mine")]
    assert len(report.cells) == 12 and report.grid is not None

    gone = cell_path(out, "mine", 1, 2)
    kept, picture = cell_path(out, "mine", 1, 1).stat().st_mtime_ns, np.asarray(Image.open(gone)).astype(int)
    gone.unlink()
    run = Run.open(out)
    again = compare(load_comparison(out / "settings.toml"), run, Progress(run))
    assert again is not None and again["base"] == numbers["base"]
    assert again["mine"]["distance"] == pytest.approx(numbers["mine"]["distance"], abs=1e-4)
    assert cell_path(out, "mine", 1, 1).stat().st_mtime_ns == kept
    assert np.abs(np.asarray(Image.open(gone)).astype(int) - picture).max() <= 1  # alone it may round otherwise
