"""The style loss of AC-RF (report, section 4A.3) and its union with the frequency loss (section 4A.4).

``lab = "channels"``: latent channel 0 is taken for lightness, channels 1 to 3 for colour, as the report writes. That
holds for no 16-channel autoencoder (Z-Image facts); the loss still pins structure and statistics of these channels.
``lab = "fitted"``: lightness, a and b by a linear map of all channels (``flow.lab``).

Shapes: B batch, C channels, H W latent pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from zit_app.flow.losses import SPLITS, frequency, l1, per_sample

SSIM_WINDOW, SSIM_DEVIATION = 11, 1.5  # Wang et al. 2004
LATENT_RANGE = 6.0  # normalised latents have deviation 1: plus and minus three of them
VARIANCE_FLOOR = 1e-8  # keeps the root's slope finite on a constant channel


@dataclass(frozen=True)
class StyleWeights:
    """The four lambdas of section 4A.3: SSIM of L, statistics of L, statistics of ab, high frequencies of L."""

    struct: float = 1.0
    light: float = 0.5
    color: float = 0.3
    tex: float = 0.5


def gaussian_window(size: int, like: torch.Tensor) -> torch.Tensor:
    """A normalised Gaussian of deviation 1.5, (size,), in the type and place of ``like``."""
    offset = torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
    weight = torch.exp(-(offset**2) / (2 * SSIM_DEVIATION**2))
    return weight / weight.sum()


def ssim(a_B1HW: torch.Tensor, b_B1HW: torch.Tensor, data_range: float = LATENT_RANGE) -> torch.Tensor:
    """Structural similarity (Wang et al. 2004), (B,): Gaussian window 11, valid area; 1 where a equals b.

    A picture smaller than the window is seen through the largest odd window that fits.
    """
    side = min(SSIM_WINDOW, *a_B1HW.shape[-2:])
    window = gaussian_window(side - (side + 1) % 2, a_B1HW)

    def blur(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(x, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_a, mean_b = blur(a_B1HW), blur(b_B1HW)
    var_a, var_b = blur(a_B1HW**2) - mean_a**2, blur(b_B1HW**2) - mean_b**2
    covariance = blur(a_B1HW * b_B1HW) - mean_a * mean_b
    score = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return per_sample(score / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))


def statistics_distance(a_BCHW: torch.Tensor, b_BCHW: torch.Tensor) -> torch.Tensor:
    """``|mean_a - mean_b| + |deviation_a - deviation_b|`` of each channel over the picture, averaged, (B,)."""

    def deviation(x: torch.Tensor) -> torch.Tensor:
        return (x.var((2, 3), correction=0) + VARIANCE_FLOOR).sqrt()

    means = (a_BCHW.mean((2, 3)) - b_BCHW.mean((2, 3))).abs()
    return (means + (deviation(a_BCHW) - deviation(b_BCHW)).abs()).mean(1)


def lab_of(x_BCHW: torch.Tensor, lab: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Lightness (B, 1, H, W) and colour of latents: channels 0 and 1 to 3, or by a fitted map (C + 1, 3), a and b."""
    if lab is None:
        return x_BCHW[:, :1], x_BCHW[:, 1:4]
    lab = lab.to(x_BCHW)
    x_B3HW = torch.einsum("bchw,cd->bdhw", x_BCHW, lab[:-1]) + lab[-1].view(1, 3, 1, 1)
    return x_B3HW[:, :1], x_B3HW[:, 1:]


def style(
    x0_hat_BCHW: torch.Tensor,
    x0_BCHW: torch.Tensor,
    pool: int = 4,
    weights: StyleWeights | None = None,
    lab: torch.Tensor | None = None,
    split: str = "pool",
) -> torch.Tensor:
    """``struct (1 - SSIM(L)) + light stat(L) + color stat(ab) + tex L1(high(L))``, (B,). ``lab`` as in ``lab_of``."""
    weight = weights or StyleWeights()
    light_hat, color_hat = lab_of(x0_hat_BCHW, lab)
    light, color = lab_of(x0_BCHW, lab)
    texture = l1(SPLITS[split](light_hat, pool)[1], SPLITS[split](light, pool)[1])
    return (
        weight.struct * (1 - ssim(light_hat, light))
        + weight.light * statistics_distance(light_hat, light)
        + weight.color * statistics_distance(color_hat, color)
        + weight.tex * texture
    )


def unified(
    x0_hat_BCHW: torch.Tensor,
    x0_BCHW: torch.Tensor,
    pool: int = 4,
    alpha: float = 1.0,
    beta: float = 0.2,
    weights: StyleWeights | None = None,
    lab: torch.Tensor | None = None,
    split: str = "pool",
) -> torch.Tensor:
    """``(frequency + style) / 2`` (report, section 4A.4), (B,)."""
    detail = frequency(x0_hat_BCHW, x0_BCHW, pool, alpha, beta, split)
    return (detail + style(x0_hat_BCHW, x0_BCHW, pool, weights, lab, split)) / 2
