"""The Fréchet distance between two clouds of features, each taken for a normal distribution (Heusel et al. 2017).

    d = |μ_a − μ_b|² + tr Σ_a + tr Σ_b − 2 tr (Σ_a Σ_b)^½

N points of D numbers. Σ = FᵀF with F (K, D), K ≤ min(N, D), so tr (Σ_a Σ_b)^½ is the sum of the singular values of
F_a F_bᵀ: no matrix root, and no trouble where there are fewer points than numbers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and a factor of the covariance (K, D)."""

    mean_D: Tensor
    factor_KD: Tensor


def moments(x_ND: Tensor) -> Moments:
    """Of at least two points, in float64; the covariance is the unbiased one."""
    x = x_ND.double()
    mean = x.mean(0)
    factor = (x - mean) / (len(x) - 1) ** 0.5
    if len(factor) > factor.shape[1]:
        factor = torch.linalg.qr(factor, mode="r").R
    return Moments(mean, factor)


def frechet_distance(a: Moments, b: Moments) -> float:
    """At least 0; in the square of the features' unit."""
    shared = torch.linalg.svdvals(a.factor_KD @ b.factor_KD.T).sum()
    spread = a.factor_KD.square().sum() + b.factor_KD.square().sum()
    return max(0.0, ((a.mean_D - b.mean_D).square().sum() + spread - 2 * shared).item())
