"""Pictures that stay hard are drawn more often: active curation at the size of a desk."""

from collections.abc import Sequence
from typing import Any

import torch

from zit_app.data.formats import Size
from zit_app.engine.batches import DataOrder

MEMORY = 0.8  # of the moving mean of a picture's loss


class PictureFocus:
    """Swaps a share of every batch for pictures of the same bucket, drawn in proportion to their loss so far.

    A picture's loss counts relative to the mean at its noise level, or chance would decide which one looks hard.
    """

    def __init__(self, order: DataOrder, share: float) -> None:
        self.share = share
        self.sizes: Sequence[Size] = order.sizes
        self.relative: list[float] = [1.0] * len(order.sizes)

    def choose(self, batch: Sequence[int], generator: torch.Generator) -> list[int]:
        """The batch with some of its pictures swapped; without a share it stays as it is and nothing is drawn."""
        if not self.share:
            return list(batch)
        members = [i for i, size in enumerate(self.sizes) if size == self.sizes[batch[0]]]
        weights = torch.tensor([self.relative[i] for i in members], dtype=torch.float64)
        swapped = torch.rand(len(batch), generator=generator) < self.share
        drawn = torch.multinomial(weights, len(batch), replacement=True, generator=generator)
        return [members[new] if swap else old for old, swap, new in zip(batch, swapped, drawn.tolist(), strict=True)]

    def saw(self, pictures: Sequence[int], relative: Sequence[float]) -> None:
        """Remember how hard pictures were: their loss over the mean at that noise level."""
        for picture, own in zip(pictures, relative, strict=True):
            self.relative[picture] = MEMORY * self.relative[picture] + (1 - MEMORY) * own

    def state(self) -> list[float]:
        """For an exact resume."""
        return list(self.relative) if self.share else []

    def load(self, state: Any) -> None:
        """Take up ``state()`` again."""
        self.relative = list(state) or self.relative
