"""Lightness and colour of latents by a linear map, fitted on pictures and their own latents.

Lab is scaled so that its lightness runs from -3 to 3, as normalised latents do: L' = 0.06 (L - 50), a' = 0.06 a.

Shapes: N pixels, C latent channels.
"""

import torch

SCALE = 0.06
_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_WHITE = (0.95047, 1.0, 1.08883)  # D65
_DELTA = 6 / 29


def rgb_to_lab(rgb_N3: torch.Tensor) -> torch.Tensor:
    """sRGB in 0 … 1 to CIE Lab (D65, 2°), L in 0 … 100, (N, 3)."""
    linear = torch.where(rgb_N3 <= 0.04045, rgb_N3 / 12.92, ((rgb_N3 + 0.055) / 1.055) ** 2.4)
    xyz = linear @ rgb_N3.new_tensor(_TO_XYZ).T / rgb_N3.new_tensor(_WHITE)
    f = torch.where(xyz > _DELTA**3, xyz.clamp_min(_DELTA**3) ** (1 / 3), xyz / (3 * _DELTA**2) + 4 / 29)
    return torch.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def fit_lab(z_NC: torch.Tensor, rgb_N3: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least squares of scaled Lab on latents and a constant: the map (C + 1, 3) and its R² of each of L, a, b, (3,).

    ``rgb``: the picture averaged down to the latents' size, 0 … 1. A channel without any variance has R² 0.
    """
    wanted = SCALE * (rgb_to_lab(rgb_N3.double()) - rgb_N3.new_tensor((50.0, 0.0, 0.0)).double())
    given = torch.cat([z_NC.double(), torch.ones(len(z_NC), 1, dtype=torch.float64)], 1)
    # gelsd copes with latents that depend on each other: a handful of flat pictures
    solution = torch.linalg.lstsq(given.cpu(), wanted.cpu(), driver="gelsd").solution
    left = (given.cpu() @ solution - wanted.cpu()).square().sum(0)
    spread = (wanted.cpu() - wanted.cpu().mean(0)).square().sum(0)
    return solution.float(), (1 - left / spread.clamp_min(1e-12)).clamp_min(0).float()
