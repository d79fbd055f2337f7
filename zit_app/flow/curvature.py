"""How much a model's own way bends between neighbouring nodes (AC-RF guide, section 2.4).

Shapes: B batch.
"""

import torch

from zit_app.flow.losses import per_sample


def second_difference(
    before: torch.Tensor, here: torch.Tensor, after: torch.Tensor, sigmas: tuple[float, float, float]
) -> torch.Tensor:
    """``2 (w before + (1 - w) after - here)``: how far a velocity is from the line between its neighbours.

    ``w = (sigma_here - sigma_after) / (sigma_before - sigma_after)``, so that a velocity that changes evenly with sigma
    costs nothing; with even spacing it is ``before - 2 here + after``.
    """
    first, middle, last = sigmas
    w = (middle - last) / (first - last)
    return 2 * (w * before + (1 - w) * after - here)


def curvature(
    before: torch.Tensor, here: torch.Tensor, after: torch.Tensor, sigmas: tuple[float, float, float]
) -> torch.Tensor:
    """``mean second_difference²``, (B,)."""
    return per_sample(second_difference(before, here, after, sigmas) ** 2)
