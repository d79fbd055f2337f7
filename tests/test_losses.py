"""The losses against plain numpy and scipy in float64, and their gradients against differences."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from zit_app.flow.losses import charbonnier, cosine, fft_l1, frequency, huber, l1, mse, split_frequencies
from zit_app.flow.style import StyleWeights, ssim, statistics_distance, style, unified

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
LOSSES: dict[str, Loss] = {
    "mse": mse,
    "l1": l1,
    "charbonnier": charbonnier,
    "huber": lambda a, b: huber(a, b, 0.08),
    "cosine": cosine,
    "fft_l1": fft_l1,
    "frequency": frequency,
    "style": style,
    "unified": unified,
}


def pair(height: int = 14, width: int = 18, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(3, 5, height, width, dtype=torch.float64, generator=generator)
    return a, a + 0.4 * torch.randn(a.shape, dtype=torch.float64, generator=generator)


def low_reference(x: np.ndarray, pool: int) -> np.ndarray:
    """Average cells of ``pool``, then linear interpolation between the cells' centres, flat beyond the outer ones."""
    for axis in (-2, -1):
        size = x.shape[axis]
        x = np.moveaxis(x, axis, -1)
        cells = np.concatenate([x, np.repeat(x[..., -1:], -size % pool, -1)], -1)
        cells = cells.reshape(*cells.shape[:-1], -1, pool).mean(-1)
        centres = (np.arange(cells.shape[-1]) + 0.5) * pool - 0.5
        flat = [np.interp(np.arange(size), centres, row) for row in cells.reshape(-1, cells.shape[-1])]
        x = np.moveaxis(np.stack(flat).reshape(*x.shape[:-1], size), -1, axis)
    return x


def ssim_reference(a: np.ndarray, b: np.ndarray, data_range: float = 6.0) -> float:
    """Wang et al. 2004 on one picture (H, W)."""
    side = min(11, *a.shape)
    side -= 1 - side % 2
    kernel = np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    edge = side // 2

    def blur(x: np.ndarray) -> np.ndarray:
        full = correlate1d(correlate1d(x, kernel, 0), kernel, 1)
        return full[edge : x.shape[0] - edge, edge : x.shape[1] - edge]

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    ma, mb = blur(a), blur(b)
    va, vb, vab = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    return float(np.mean((2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))))


def cosine_reference(a: np.ndarray, b: np.ndarray) -> float:
    return 1 - float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def frequency_reference(a: np.ndarray, b: np.ndarray) -> float:
    low_a, low_b = low_reference(a, 4), low_reference(b, 4)
    high = np.abs((a - low_a) - (b - low_b)).mean()
    return float(((a - b) ** 2).mean() + 1.0 * high + 0.2 * cosine_reference(low_a, low_b))


def style_reference(a: np.ndarray, b: np.ndarray) -> float:
    def statistics(channels: list[int]) -> float:
        return float(np.mean([abs(a[c].mean() - b[c].mean()) + abs(a[c].std() - b[c].std()) for c in channels]))

    high = np.abs((a[0] - low_reference(a[0], 4)) - (b[0] - low_reference(b[0], 4))).mean()
    return float((1 - ssim_reference(a[0], b[0])) + 0.5 * statistics([0]) + 0.3 * statistics([1, 2, 3]) + 0.5 * high)


def huber_reference(a: np.ndarray, b: np.ndarray) -> float:
    distance = np.abs(a - b)
    return float(np.where(distance <= 0.08, distance**2 / 2, 0.08 * (distance - 0.04)).mean())


REFERENCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mse": lambda a, b: float(((a - b) ** 2).mean()),
    "l1": lambda a, b: float(np.abs(a - b).mean()),
    "charbonnier": lambda a, b: float((np.sqrt((a - b) ** 2 + 1e-6) - 1e-3).mean()),
    "huber": huber_reference,
    "cosine": cosine_reference,
    "fft_l1": lambda a, b: float(np.abs(np.fft.fft2(a, norm="ortho") - np.fft.fft2(b, norm="ortho")).mean()),
    "frequency": frequency_reference,
    "style": style_reference,
    "unified": lambda a, b: (frequency_reference(a, b) + style_reference(a, b)) / 2,
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_its_formula_on_every_sample(name: str) -> None:
    a, b = pair()
    expected = [REFERENCES[name](x, y) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert LOSSES[name](a, b).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_differences(name: str) -> None:
    a, b = (x[:2, :4, :6, :7] for x in pair())
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, b), a.clone().requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_equal_pictures_cost_nothing_and_keep_finite_gradients(name: str) -> None:
    a = torch.ones(2, 4, 8, 8, dtype=torch.float64)  # constant: the roots of variance and modulus are at their corner
    b = a.clone().requires_grad_()
    loss = LOSSES[name](b, a)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0, 0], abs=1e-9)
    assert b.grad is not None and torch.isfinite(b.grad).all()


def test_losses_do_not_mix_samples() -> None:
    a, b = pair()
    for loss in LOSSES.values():
        torch.testing.assert_close(loss(a, b)[1:2], loss(a[1:2], b[1:2]))


def test_low_and_high_frequencies_add_up() -> None:
    x, _ = pair(13, 10)
    low, high = split_frequencies(x, 4)
    torch.testing.assert_close(low + high, x)
    np.testing.assert_allclose(low.numpy(), low_reference(x.numpy(), 4), atol=1e-12)


def test_low_frequency_direction_leaves_brightness_free() -> None:
    a, _ = pair()
    plain = frequency(a, 2 * a, alpha=0.0, beta=0.0)
    torch.testing.assert_close(frequency(a, 2 * a, alpha=0.0, beta=1.0), plain)


def test_ssim_is_one_for_equals_and_falls_with_noise() -> None:
    a, b = pair()
    far = a[:, :1] + 3 * (b - a)[:, :1]
    torch.testing.assert_close(ssim(a[:, :1], a[:, :1]), torch.ones(3, dtype=torch.float64))
    assert (ssim(a[:, :1], far) < ssim(a[:, :1], b[:, :1])).all()


def test_each_style_weight_acts() -> None:
    a, b = pair()
    none = StyleWeights(0, 0, 0, 0)
    assert style(a, b, weights=none).abs().max() == 0
    for field in ("struct", "light", "color", "tex"):
        assert (style(a, b, weights=StyleWeights(**{**none.__dict__, field: 1.0})) > 0).all()


def test_statistics_see_contrast_and_brightness() -> None:
    a, _ = pair()
    torch.testing.assert_close(statistics_distance(a, a + 2), torch.full((3,), 2.0, dtype=torch.float64))
    assert (statistics_distance(a, 2 * a) > 0.5).all()
