"""The study's arithmetic: verdicts, the noise of gradients, the page. Its trainings are `zit pocket study`'s own."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from zit_app.core import paths
from zit_app.core.train_settings import load_train_settings
from zit_app.engine.pocket.study import claims, probes
from zit_app.engine.pocket.study.claims import CLAIMS, Claim, verdict
from zit_app.engine.pocket.study.report import bars_svg, write_report
from zit_app.engine.pocket.study.rows import COMMON, ROWS
from zit_app.engine.pocket.study.sizes import SIZES, label


def rows(left: list[float], right: list[float]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        "left": {str(seed): {"error": value} for seed, value in enumerate(left)},
        "right": {str(seed): {"error": value} for seed, value in enumerate(right)},
    }


@pytest.mark.parametrize(
    ("left", "right", "word"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], claims.CONFIRMED),
        ([2.0, 2.1, 1.9], [1.0, 1.1, 0.9], claims.WRONG),
        ([1.0, 1.6, 0.5], [1.1, 1.7, 0.6], claims.NOT_CONFIRMED),
        ([1.0], [2.0, 2.1], claims.OPEN),
        ([], [2.0, 2.1], claims.OPEN),
    ],
)
def test_a_claim_is_judged_by_its_figures(left: list[float], right: list[float], word: str) -> None:
    assert verdict(Claim("§", "less", "error", "left", "right"), rows(left, right)) == word


def test_every_claim_compares_rows_that_are_trained() -> None:
    compared = {row for claim in CLAIMS for row in (claim.left, claim.right)}
    assert compared <= {*ROWS, *map(label, SIZES)} and not {*map(label, SIZES)} & {*ROWS}


def test_every_row_is_a_setting_that_exists_and_changes_something() -> None:
    demo = paths.assets() / "demo" / "train.toml"
    known = {name: load_train_settings(demo, [*COMMON, *row.changes]) for name, row in ROWS.items()}
    others = [(one, ROWS[name].pictures) for name, one in known.items()]
    assert all(others.count(one) == 1 for one in others)


def test_noise_over_signal_of_gradients_that_are_known() -> None:
    weight = torch.nn.Parameter(torch.zeros(400))
    signal, noise = torch.linspace(-1, 1, 400), 0.7

    def gradient(sigma_B: torch.Tensor, chosen: object, generator: torch.Generator) -> float:
        weight.grad = signal + noise * torch.randn(400, generator=generator)
        return 1.0 + 0.1 * float(torch.randn((), generator=generator))

    measured = probes._samplers(gradient, [weight], 24)
    expected = noise**2 * 400 / signal.square().sum().item()
    for row in measured.values():
        assert row["noise / signal"] == pytest.approx(expected, rel=0.1)
        assert row["deviation of the loss"] == pytest.approx(0.1, rel=0.6)


def test_bars_are_as_long_as_their_values() -> None:
    tree = ElementTree.fromstring(bars_svg("Less < more", [("a & b", 1.0, 0.1), ("c", 0.5, 0.0)]))
    _, *bars = tree.iter("{http://www.w3.org/2000/svg}rect")  # the first is the ground
    widths = [float(one.get("width", "0")) for one in bars]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)


def test_the_page_says_what_is_open(tmp_path: Path) -> None:
    row = {"error": 0.5, "unrelated content": 0.4, "error of the truth through the VAE": 0.1}
    levels = {level: {"loss": 1.0, "gradient": g} for level, g in (("0.02", 6.0), ("0.5", 2.0), ("0.98", 4.0))}
    figures = {
        "rows": {"untrained": {"0": row}, "nodes": {"0": row, "1": row}, "uniform": {"0": row}},
        "probes": {
            "samplers": {"uniform": {"noise / signal": 2.0}, "nodes": {"noise / signal": 1.0}},
            "levels": levels,
            "parts": {"to_q": {"share of the norm": 0.5, "numbers": 1000}},
        },
    }
    page = write_report(figures, tmp_path / "study").read_text(encoding="utf-8")
    assert claims.OPEN in page and claims.CONFIRMED not in page
    assert "Not trained yet: §8.4 the whole method" in page
    assert "Not measured yet" in page
    assert "0.50 times that of uniform" in page and "3.00 times at 0.02 and 2.00 times at 0.98" in page
    assert (tmp_path / "study" / "error.svg").exists()
    sizes = {
        "50 pictures": {str(n): {"peak, MB": 700.0 + n, "seconds a step": 0.5} for n in range(3)},
        "200 pictures": {str(n): {"peak, MB": 900.0 + n, "seconds a step": 0.5} for n in range(3)},
    }
    page = write_report({**figures, "sizes": sizes}, tmp_path / "study").read_text(encoding="utf-8")
    assert "50 pictures 701 ± 1, 200 pictures 901 ± 1 | **confirmed**" in page
    assert "| 200 pictures | 3 | 901 ± 1 | 0.5 ± 0 |" in page
