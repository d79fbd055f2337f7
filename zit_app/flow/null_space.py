"""Directions in which a layer may learn without disturbing what it already does, and coordinates that prefer them.

The rows of S (N, D) are inputs that reach a layer while the model does what shall stay as it is. An update B A x of the
layer changes the answer to them by B (A x). So A is written as A = Z M and Z is learnt, with

    C = SᵀS / N,   M = c (λ (C + λI)^-1)^½,   λ: Σ w / (w + λ) = share · K over the K energies w of C,   c: |M|² = D

λ is that of ridge regression, chosen by its effective degrees of freedom, so that a few enormous energies, as large
transformers have them, do not decide it. A direction that the rows hardly use keeps its full weight, one that they use
much gets the square root of λ over its energy; c keeps the size of an average step, so a learning rate keeps its
meaning. Keeping updates out of the span of old inputs: Saha et al., Gradient Projection Memory (arXiv:2103.09762), and
Wang et al., Null Space of Feature Covariance (arXiv:2103.07113); they cut the span off, here it is damped. Up to c, the
steps are those of gradient descent in the metric of the penalty |A S|² / N + λ |A|², a layer's factor of a Laplace
penalty (Ritter et al., arXiv:1805.07810).

N rows, D inputs of the layer, R rank, K directions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NOTHING = 1e-6  # of the largest energy: what rounding leaves where there is none
HALVINGS = 60


@dataclass(frozen=True)
class Damping:
    """M = c (I - U diag(1 - g) Uᵀ), symmetric."""

    directions_DK: Tensor
    gains_K: Tensor  # g, from 0 (used much) to 1 (not used)
    scale: float  # c

    def __call__(self, weights_RD: Tensor) -> Tensor:
        """``weights_RD`` M, in fp32."""
        directions_DK = self.directions_DK.to(weights_RD)
        along_RK = weights_RD @ directions_DK
        return self.scale * (weights_RD - (along_RK * (1 - self.gains_K.to(weights_RD))) @ directions_DK.T)


def damping(rows_ND: Tensor, share: float, most: int) -> Damping:
    """M of the rows, by the smaller of the two Gram matrices; its directions are kept in their number format.

    share  of the directions in use that are held, from 0 to 1
    most   directions, the strongest; the rest of a wide layer's energy is little and counts as unused
    Rows that are all zero hold nothing.
    """
    kind, rows_ND = rows_ND.dtype, rows_ND.float()
    count, width = rows_ND.shape
    by_rows = count < width
    gram = rows_ND @ rows_ND.T if by_rows else rows_ND.T @ rows_ND
    energies, vectors = torch.linalg.eigh(gram / count)
    used = (energies > NOTHING * energies[-1]) & (torch.arange(len(energies)) >= len(energies) - most).to(gram.device)
    energies_K, vectors = energies[used], vectors[:, used]
    if by_rows:
        vectors = torch.nn.functional.normalize(rows_ND.T @ vectors, dim=0)
    gains_K = (1 - _held(energies_K, share)).sqrt()
    left = width - len(gains_K) + gains_K.square().sum().item()
    return Damping(vectors.to(kind), gains_K, (width / left) ** 0.5)


def _held(energies_K: Tensor, share: float) -> Tensor:
    """w / (w + λ), which are ``share`` on average."""
    if not len(energies_K):
        return energies_K
    w = energies_K.double()
    low, high = (w.min() * (1 - share) / share).log(), (w.max() * (1 - share) / share).log()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_many = (w / (w + middle.exp())).mean() > share
        low, high = torch.where(too_many, middle, low), torch.where(too_many, high, middle)
    return (w / (w + high.exp())).float()
