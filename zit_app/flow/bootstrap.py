"""How sure a figure is: what it would have been with other prompts of the same kind.

The percentile bootstrap (Efron 1979) over prompts; all pictures of a prompt go together, because they are alike.

P prompts, R resamples.
"""

import torch
from torch import Tensor


def resamples(prompts: int, count: int, seed: int = 0) -> Tensor:
    """(R, P) int64: which prompts are drawn, with replacement; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(prompts, (count, prompts), generator=generator)


def interval(drawn_R: Tensor, share: float = 0.95) -> tuple[float, float]:
    """The quantiles that hold `share` of the resamples; those without the figure (NaN) do not count."""
    drawn = drawn_R[~drawn_R.isnan()]
    low, high = torch.quantile(drawn, torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=drawn.dtype)).tolist()
    return low, high


def centred(estimate: float, drawn_R: Tensor) -> Tensor:
    """The resamples moved until their mean is the estimate.

    A distance between clouds of points grows when points occur twice, in every resample by about as much. Means need
    none of this.
    """
    return drawn_R - drawn_R.nanmean() + estimate
