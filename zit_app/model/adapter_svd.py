"""Changes of weights as low ranks: the best there is for a rank (Eckart-Young), and by how much it misses.

Shapes: r rank, I inputs, O outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from zit_app.model.adapter_changes import Kron, LowRank, product

EXACT_SIDE = 1024  # a larger matrix is decomposed by random projections: minutes become seconds
EXTRA, ROUNDS = 32, 6  # additional directions and power iterations (Halko et al. 2011); adapters' spectra fall slowly


@dataclass(frozen=True)
class Fit:
    """A low rank in place of a change; ``missed``, rounding included, and ``whole`` are squared Frobenius norms."""

    share: LowRank
    missed: float
    whole: float


def truncated(delta: torch.Tensor, rank: int, dtype: torch.dtype = torch.bfloat16) -> Fit:
    """The best low rank for a change (O, I), its factors equally large and rounded to ``dtype``."""
    delta = delta.float()
    rank = min(rank, *delta.shape)
    if min(delta.shape) <= EXACT_SIDE:
        left, values, right = torch.linalg.svd(delta, full_matrices=False)
    else:
        left, values, right = _random_svd(delta, rank)
    return _fit(left[:, :rank], values[:rank], right[:rank], float(delta.square().sum()), dtype)


def truncated_low_rank(shares: Sequence[LowRank], rank: int, dtype: torch.dtype = torch.bfloat16) -> Fit:
    """The same for a sum of low ranks, without building the matrix that they make: QR of both sides."""
    up = torch.cat([share.scale * share.up.float() for share in shares], 1)
    down = torch.cat([share.down.float() for share in shares])
    if min(up.shape[0], down.shape[1]) <= up.shape[1]:
        return truncated(up @ down, rank, dtype)
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(r_up @ r_down.T)
    rank = min(rank, len(values))
    whole = float(values.square().sum())
    return _fit(q_up @ left[:, :rank], values[:rank], right[:rank] @ q_down.T, whole, dtype)


def truncated_kron(change: Kron, rank: int, dtype: torch.dtype = torch.bfloat16) -> Fit:
    """The same for a whole LoKr: singular values of a Kronecker product are the products of those of its factors."""
    left1, values1, right1 = torch.linalg.svd(product(change.w1), full_matrices=False)
    left2, values2, right2 = torch.linalg.svd(product(change.w2), full_matrices=False)
    values, order = torch.outer(values1, values2).flatten().sort(descending=True)
    rank = min(rank, len(values))
    first, second = order[:rank] // len(values2), order[:rank] % len(values2)
    left = torch.einsum("ar,cr->acr", left1[:, first], left2[:, second]).flatten(0, 1)
    right = torch.einsum("rb,rd->rbd", right1[first], right2[second]).flatten(1)
    values = values * abs(change.scale)
    sign = 1.0 if change.scale >= 0 else -1.0
    return _fit(sign * left, values[:rank], right, float(values.square().sum()), dtype)


def _fit(left: torch.Tensor, values: torch.Tensor, right: torch.Tensor, whole: float, dtype: torch.dtype) -> Fit:
    root = values.sqrt()
    down, up = root[:, None] * right, left * root
    share = LowRank(down.to(dtype), up.to(dtype), 1.0)
    missed = max(0.0, whole - float(values.square().sum()))
    return Fit(share, missed + _rounding(up, down, share), whole)


def _rounding(up: torch.Tensor, down: torch.Tensor, rounded: LowRank) -> float:
    """|U D - U' D'|² without building the products: tr(AᵀA BBᵀ) with A = [U, -U'], B = [D; D']."""
    a = torch.cat([up.double(), -rounded.up.double()], 1)
    b = torch.cat([down.double(), rounded.down.double()])
    return max(0.0, float(((a.T @ a) * (b @ b.T)).sum()))


def _random_svd(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Singular vectors inside the range of ``matrix`` times random directions, the same on every call."""
    directions = min(rank + EXTRA, *matrix.shape)
    start = torch.randn(matrix.shape[1], directions, generator=torch.Generator().manual_seed(0)).to(matrix)
    basis = torch.linalg.qr(matrix @ start).Q
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ left, values, right
