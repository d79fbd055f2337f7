"""The losses of AC-RF (report, sections 4 and 4A.2). Each returns one number a sample, (B,); weights are the caller's.

Base losses compare velocities, the frequency loss clean latents (``flow.schedule.clean_estimate``).

Shapes: B batch, C channels, H W latent pixels.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

CHARBONNIER_EPSILON = 1e-6  # of Lai et al. 2018 (LapSRN); the report names none


def per_sample(x: torch.Tensor) -> torch.Tensor:
    """Mean over everything but the batch, (B,)."""
    return x.flatten(1).mean(1)


def mse(a_BCHW: torch.Tensor, b_BCHW: torch.Tensor) -> torch.Tensor:
    """``mean (a - b)²``."""
    return per_sample((a_BCHW - b_BCHW) ** 2)


def l1(a_BCHW: torch.Tensor, b_BCHW: torch.Tensor) -> torch.Tensor:
    """``mean |a - b|``."""
    return per_sample((a_BCHW - b_BCHW).abs())


def charbonnier(a_BCHW: torch.Tensor, b_BCHW: torch.Tensor, epsilon: float = CHARBONNIER_EPSILON) -> torch.Tensor:
    """``mean (sqrt((a - b)² + epsilon) - sqrt(epsilon))``, element by element (report, section 4.1)."""
    return per_sample(((a_BCHW - b_BCHW) ** 2 + epsilon).sqrt()) - epsilon**0.5


def huber(a_BCHW: torch.Tensor, b_BCHW: torch.Tensor, delta: float = 1.0) -> torch.Tensor:
    """``mean (d²/2 where |d| <= delta, else delta (|d| - delta/2))``, ``d = a - b``."""
    return per_sample(F.huber_loss(a_BCHW, b_BCHW, reduction="none", delta=delta))


def cosine(a_BCHW: torch.Tensor, b_BCHW: torch.Tensor) -> torch.Tensor:
    """``1 - <a, b> / (|a| |b|)`` over the whole sample: the direction, not the length (report, section 4.2)."""
    return 1 - F.cosine_similarity(a_BCHW.flatten(1), b_BCHW.flatten(1), dim=1)


def fft_l1(a_BCHW: torch.Tensor, b_BCHW: torch.Tensor) -> torch.Tensor:
    """``mean |F(a) - F(b)|``, F the orthonormal two-dimensional Fourier transform (report, section 4.2).

    ``|z|`` is the complex modulus. Orthonormal, so that the size does not depend on the resolution.
    """
    return per_sample(torch.fft.fft2(a_BCHW - b_BCHW, norm="ortho").abs())


def split_frequencies(x_BCHW: torch.Tensor, pool: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``low = Upsample(AvgPool(x, pool))`` and ``high = x - low`` (report, section 4A.2).

    Sides that ``pool`` does not divide are continued by their last row or column first, so that the cells of the
    pooled picture lie where the pixels are.
    """
    height, width = x_BCHW.shape[-2:]
    padded = F.pad(x_BCHW, (0, -width % pool, 0, -height % pool), mode="replicate")
    low = F.interpolate(F.avg_pool2d(padded, pool), scale_factor=pool, mode="bilinear")[..., :height, :width]
    return low, x_BCHW - low


def split_fourier(x_BCHW: torch.Tensor, pool: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``low = F⁻¹(g F(x))`` and ``high = x - low``, g a Gaussian of the frequency (AC-RF guide, section 2.2).

    ``g = exp(-ln 2 / 2 (f / f_c)²)`` is 1/√2 at f_c = 1 / (2 pool) cycles a latent pixel, the highest frequency that
    cells of ``pool`` pixels can hold. Gaussian and not a box, which would ring along every edge.
    """
    height, width = x_BCHW.shape[-2:]
    rows = torch.fft.fftfreq(height, dtype=x_BCHW.dtype, device=x_BCHW.device)
    columns = torch.fft.rfftfreq(width, dtype=x_BCHW.dtype, device=x_BCHW.device)
    squared_HW = (rows[:, None] ** 2 + columns[None] ** 2) * (2 * pool) ** 2
    gain_HW = torch.exp(-math.log(2) / 2 * squared_HW)
    low = torch.fft.irfft2(torch.fft.rfft2(x_BCHW) * gain_HW, s=(height, width))
    return low, x_BCHW - low


SPLITS: dict[str, Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]] = {
    "pool": split_frequencies,
    "fourier": split_fourier,
}


def frequency(
    x0_hat_BCHW: torch.Tensor,
    x0_BCHW: torch.Tensor,
    pool: int = 4,
    alpha: float = 1.0,
    beta: float = 0.2,
    split: str = "pool",
) -> torch.Tensor:
    """``MSE + alpha L1(high) + beta (1 - cos(low))`` (report, section 4A.2): sharp edges, brightness left free.

    ``split = "fourier"`` divides by a Fourier transform; alpha and beta are then the guide's ω_high and ω_low.
    """
    low_hat, high_hat = SPLITS[split](x0_hat_BCHW, pool)
    low, high = SPLITS[split](x0_BCHW, pool)
    return mse(x0_hat_BCHW, x0_BCHW) + alpha * l1(high_hat, high) + beta * cosine(low_hat, low)


def masked(prediction_BCHW: torch.Tensor, target_BCHW: torch.Tensor, mask_B1HW: torch.Tensor) -> torch.Tensor:
    """``target + mask (prediction - target)``: whatever is compared next, an error counts ``mask`` times."""
    return target_BCHW + mask_B1HW * (prediction_BCHW - target_BCHW)
