"""The noise schedule that inference visits, and the three identities of rectified flow.

One function, ``nodes``, serves inference, training and previews. Times are noise shares ``sigma`` in [0, 1]:
0 is the clean picture, 1 is noise.

Shapes: B batch, the rest of a tensor is free.
"""

import torch


def unshifted(steps: int) -> torch.Tensor:
    """``u_i = 1 - i / N`` for i = 0 … N-1, float64 (N,): what diffusers' scheduler is given, before its shift."""
    return 1 - torch.arange(steps, dtype=torch.float64) / steps


def shift_sigma(u: torch.Tensor, shift: float) -> torch.Tensor:
    """``sigma = s u / (1 + (s - 1) u)`` (Esser et al. 2024, eq. 23)."""
    return shift * u / (1 + (shift - 1) * u)


def nodes(steps: int, shift: float = 3.0) -> torch.Tensor:
    """The sigmas of N model calls, float64 (N,), without the closing 0. Eight steps at shift 3: 1 … 0.3."""
    return shift_sigma(unshifted(steps), shift)


def redrawing(sigmas: torch.Tensor, strength: float) -> torch.Tensor:
    """The nodes (M,) that redraw a picture: the last ``strength`` of N, rounded up, as diffusers' pipelines do."""
    return sigmas[int(max(len(sigmas) - len(sigmas) * strength, 0)) :]


def report_anchors(steps: int, shift: float = 3.0) -> torch.Tensor:
    """The literal anchors of the AC-RF report, section 2.1, float64 (K,): 1.000 … 0.009 for K = 10, shift 3.

    They are what a bare ``FlowMatchEulerDiscreteScheduler(shift).set_timesteps(K)`` returns. It spaces its sigmas
    evenly over a range that is shifted already and shifts them once more, so inference never visits them.
    """
    lowest = shift_sigma(torch.tensor(1 / 1000, dtype=torch.float64), shift).item()
    return shift_sigma(torch.linspace(1.0, lowest, steps, dtype=torch.float64), shift)


def like(sigma_B: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """View sigma (B,) as (B, 1, …) so that it broadcasts over a batch ``x``."""
    return sigma_B.to(x).view(-1, *[1] * (x.ndim - 1))


def noisy(x0: torch.Tensor, noise: torch.Tensor, sigma_B: torch.Tensor) -> torch.Tensor:
    """``x = (1 - sigma) x0 + sigma noise``."""
    sigma = like(sigma_B, x0)
    return (1 - sigma) * x0 + sigma * noise


def velocity(x0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """``v = dx/dsigma = noise - x0``."""
    return noise - x0


def clean_estimate(x: torch.Tensor, v: torch.Tensor, sigma_B: torch.Tensor) -> torch.Tensor:
    """``x0_hat = x - sigma v`` (exact where v is the true velocity)."""
    return x - like(sigma_B, x) * v
