"""Fourier split, Lab, Gram, structure, curvature, masks and sharpness against numpy in float64, and their gradients."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from zit_app.flow.curvature import curvature, second_difference
from zit_app.flow.lab import SCALE, fit_lab, rgb_to_lab
from zit_app.flow.losses import frequency, masked, mse, split_fourier
from zit_app.flow.schedule import nodes
from zit_app.flow.sharpness import sharpness
from zit_app.flow.structure import gram, gram_distance, self_similarity, structure_distance
from zit_app.flow.style import StyleWeights, style


def pair(height: int = 9, width: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(2, 5, height, width, dtype=torch.float64, generator=generator)
    return a, a + 0.4 * torch.randn(a.shape, dtype=torch.float64, generator=generator)


def fourier_reference(x: np.ndarray, pool: int) -> np.ndarray:
    """Low frequencies of one channel (H, W) by a full complex transform."""
    fy, fx = np.meshgrid(np.fft.fftfreq(x.shape[0]), np.fft.fftfreq(x.shape[1]), indexing="ij")
    cut = 1 / (2 * pool)
    return np.fft.ifft2(np.fft.fft2(x) * 2 ** (-(fy**2 + fx**2) / (2 * cut**2))).real


def similarity_reference(x: np.ndarray, pool: int) -> np.ndarray:
    """Cosines between cells of one picture (C, H, W); cells at the border are averaged over what is there."""
    cells = np.array(
        [
            x[:, i : i + pool, j : j + pool].mean((1, 2))
            for i in range(0, x.shape[1], pool)
            for j in range(0, x.shape[2], pool)
        ]
    )
    cells = cells - cells.mean(0)
    return cells @ cells.T / np.outer(np.linalg.norm(cells, axis=1), np.linalg.norm(cells, axis=1))


def test_fourier_split_is_a_gaussian_of_the_frequency() -> None:
    x, _ = pair(9, 11)
    low, high = split_fourier(x, 3)
    torch.testing.assert_close(low + high, x)
    np.testing.assert_allclose(low[1, 2].numpy(), fourier_reference(x[1, 2].numpy(), 3), atol=1e-12)
    wave = torch.cos(2 * torch.pi * torch.arange(24, dtype=torch.float64) / 8).expand(1, 1, 24, 24)
    torch.testing.assert_close(split_fourier(wave, 4)[0], wave / 2**0.5)  # 1/8 is the cut-off of pool 4


def test_fourier_frequency_loss_is_its_formula() -> None:
    a, b = pair()
    low_a, low_b = (np.stack([fourier_reference(channel, 4) for channel in x[0].numpy()]) for x in (a, b))
    high = np.abs((a[0].numpy() - low_a) - (b[0].numpy() - low_b)).mean()
    cosine = 1 - np.vdot(low_a, low_b) / np.linalg.norm(low_a) / np.linalg.norm(low_b)
    expected = ((a[0] - b[0]) ** 2).mean().item() + 0.7 * high + 0.3 * cosine
    assert frequency(a, b, 4, 0.7, 0.3, "fourier")[0].item() == pytest.approx(expected, rel=1e-9)


def test_gram_and_self_similarity_are_their_formulas() -> None:
    a, b = pair()
    grams = [np.einsum("chw,dhw->cd", x[1].numpy(), x[1].numpy()) / (9 * 12) for x in (a, b)]
    np.testing.assert_allclose(gram(a)[1].numpy(), grams[0], atol=1e-12)
    assert gram_distance(a, b)[1].item() == pytest.approx(np.abs(grams[0] - grams[1]).mean(), rel=1e-9)
    alike = [similarity_reference(x[1].numpy(), 4) for x in (a, b)]
    np.testing.assert_allclose(self_similarity(a, 4)[1].numpy(), alike[0], atol=1e-9)
    assert structure_distance(a, b, 4)[1].item() == pytest.approx(np.abs(alike[0] - alike[1]).mean(), rel=1e-9)


def test_gram_sees_style_and_not_place_and_structure_the_reverse() -> None:
    a, _ = pair(8, 8)
    torch.testing.assert_close(gram_distance(a, a.flip(3)), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)
    turned = a.roll(1, dims=1) * -2 + 3  # other channels, other contrast, other level: the same things alike
    torch.testing.assert_close(structure_distance(a, turned, 2), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)
    assert (structure_distance(a, a.flip(3), 2) > 0.1).all() and (gram_distance(a, turned) > 0.1).all()


TERMS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "fourier": lambda a, b: frequency(a, b, 2, split="fourier"),
    "gram": gram_distance,
    "structure": lambda a, b: structure_distance(a, b, 2),
    "fitted style": lambda a, b: style(a, b, 2, lab=torch.linspace(-1, 1, 18, dtype=torch.float64).view(6, 3)),
    "curvature": lambda a, b: curvature(a, b, 0.5 * a, (0.9, 0.8, 0.5)),
    "masked": lambda a, b: mse(masked(a, b, torch.linspace(0, 1, 42, dtype=torch.float64).view(1, 1, 6, 7)), b),
}


@pytest.mark.parametrize("name", TERMS)
def test_gradient_is_that_of_differences_and_samples_do_not_mix(name: str) -> None:
    a, b = pair(6, 7)
    assert torch.autograd.gradcheck(lambda x: TERMS[name](x, b), a.clone().requires_grad_())
    torch.testing.assert_close(TERMS[name](a, b)[1:], TERMS[name](a[1:], b[1:]))


def test_known_colours_have_known_lab() -> None:
    rgb = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1], [0.5, 0.5, 0.5]], dtype=torch.float64)
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [53.39, 0, 0]]
    np.testing.assert_allclose(rgb_to_lab(rgb).numpy(), expected, atol=0.03)


def test_a_fitted_map_finds_lab_in_latents_and_says_how_well() -> None:
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(500, 3, generator=generator, dtype=torch.float64)
    lab = SCALE * (rgb_to_lab(rgb) - torch.tensor([50.0, 0, 0], dtype=torch.float64))
    mixed = lab @ torch.randn(3, 6, generator=generator, dtype=torch.float64) + 0.3  # six channels that hold it all
    solution, explained = fit_lab(mixed, rgb)
    assert solution.shape == (7, 3) and (explained > 0.999).all()
    found = torch.cat([mixed, torch.ones(500, 1)], 1).float() @ solution
    torch.testing.assert_close(found, lab.float(), atol=1e-2, rtol=1e-2)
    noise = torch.randn(500, 6, generator=generator, dtype=torch.float64)
    assert (fit_lab(noise, rgb)[1] < 0.1).all()


def test_fitted_colours_ignore_what_the_map_ignores() -> None:
    a, b = pair()
    only_last = torch.zeros(6, 3, dtype=torch.float64)
    only_last[4, 0] = 1.0
    same = b.clone()
    same[:, 4] = a[:, 4]
    light = StyleWeights(1, 1, 0, 1)
    torch.testing.assert_close(style(a, same, 4, light, only_last), torch.zeros(2, dtype=torch.float64))
    assert (style(a, same, 4, light) > 0.1).all()


def test_what_changes_evenly_has_no_curvature() -> None:
    before, slope = pair()
    sigmas = tuple(nodes(8)[2:5].tolist())
    line = [before + slope * sigma for sigma in sigmas]
    assert curvature(line[0], line[1], line[2], sigmas).abs().max() < 1e-20  # type: ignore[arg-type]
    even = second_difference(before, slope, 2 * before, (0.9, 0.7, 0.5))
    torch.testing.assert_close(even, before - 2 * slope + 2 * before)


def test_masked_errors_count_by_the_mask() -> None:
    a, b = pair()
    mask = torch.zeros(2, 1, 9, 12, dtype=torch.float64)
    mask[:, :, :, :6] = 1
    expected = ((a - b) ** 2)[..., :6].mean((1, 2, 3)) / 2
    torch.testing.assert_close(mse(masked(a, b, mask), b), expected)
    torch.testing.assert_close(masked(a, b, torch.ones_like(mask)), a)


def test_sharpness_is_the_mean_laplacian_and_falls_with_blur() -> None:
    x = torch.rand(2, 3, 10, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = (x[0].numpy() * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    laplacian = 4 * y[1:-1, 1:-1] - y[:-2, 1:-1] - y[2:, 1:-1] - y[1:-1, :-2] - y[1:-1, 2:]
    assert sharpness(x)[0].item() == pytest.approx(np.abs(laplacian).mean(), rel=1e-9)
    assert (sharpness(torch.nn.functional.avg_pool2d(x, 3, 1, 1)) < sharpness(x)).all()
