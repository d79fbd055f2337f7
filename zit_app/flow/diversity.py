"""How much pictures of one prompt differ when only the seed changes.

S seeds, H and W pixels; pictures are RGB in 0 … 1.
"""

import torch.nn.functional as F
from torch import Tensor

SIDE = 32


def mean_pairwise_distance(x_S3HW: Tensor) -> Tensor:
    """mean over pairs i < j of sqrt(mean (a_i - a_j)²), a the pictures averaged down to 32 × 32: 0 alike, scalar.

    Small, so that it measures what is where and in which colour, not grain. Needs two pictures.
    """
    small_S3HW = F.adaptive_avg_pool2d(x_S3HW, SIDE)
    return F.pdist(small_S3HW.flatten(1)).mean() / (3 * SIDE * SIDE) ** 0.5


def pixel_deviation(x_S3HW: Tensor) -> Tensor:
    """mean over pixels and channels of the standard deviation over seeds (of the population), scalar."""
    return x_S3HW.std(0, correction=0).mean()
