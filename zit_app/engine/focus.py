"""Pictures and concepts that stay hard are drawn more often: active curation at the size of a desk."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zit_app.data.formats import Size
from zit_app.engine.batches import DataOrder

MEMORY = 0.8  # of the moving mean of a picture's loss
CONCEPT_MEMORY = 0.95  # of a concept's, which is told by more pictures


class Focus:
    """Swaps a share of every batch for pictures of the same bucket, drawn in proportion to how hard they have been.

    A share ``pictures`` of a batch goes by each picture's own loss, a share ``concepts`` by that of its concept
    (``categories``, one a picture): the held-out loss where pictures of the concept were kept aside, else that of its
    pictures in training. A loss in training counts relative to the mean at its noise level, or chance would decide
    which one looks hard.
    """

    def __init__(
        self, order: DataOrder, pictures: float, concepts: float = 0.0, categories: Sequence[str] = ()
    ) -> None:
        self.pictures, self.concepts = pictures, concepts
        self.sizes: Sequence[Size] = order.sizes
        self.categories = list(categories) if concepts else []
        self.relative: list[float] = [1.0] * len(order.sizes)
        self.by_concept: dict[str, float] = {name: 1.0 for name in sorted(set(self.categories))}
        self.held: dict[str, float] = {}

    def choose(self, batch: Sequence[int], generator: torch.Generator) -> list[int]:
        """The batch with some of its pictures swapped; without a share it stays as it is and nothing is drawn."""
        if not (self.pictures or self.concepts):
            return list(batch)
        members = [i for i, size in enumerate(self.sizes) if size == self.sizes[batch[0]]]
        chance = torch.rand(len(batch), generator=generator)

        def draw(weights: Sequence[float]) -> list[int]:
            table = torch.tensor(weights, dtype=torch.float64)
            return torch.multinomial(table, len(batch), replacement=True, generator=generator).tolist()

        chosen = list(batch)
        hard = draw([self.relative[i] for i in members])
        for row in (chance < self.pictures).nonzero().flatten().tolist():
            chosen[row] = members[hard[row]]
        if self.concepts:
            hard = draw([self.hardness(self.categories[i]) for i in members])
            others = (chance >= self.pictures) & (chance < self.pictures + self.concepts)
            for row in others.nonzero().flatten().tolist():
                chosen[row] = members[hard[row]]
        return chosen

    def hardness(self, concept: str) -> float:
        """How hard a concept is: 1 = as the others."""
        return self.held.get(concept, self.by_concept[concept])

    def saw(self, pictures: Sequence[int], relative: Sequence[float]) -> None:
        """Remember how hard pictures were: their loss over the mean at that noise level."""
        for picture, own in zip(pictures, relative, strict=True):
            self.relative[picture] = MEMORY * self.relative[picture] + (1 - MEMORY) * own
            if self.concepts:
                name = self.categories[picture]
                self.by_concept[name] = CONCEPT_MEMORY * self.by_concept[name] + (1 - CONCEPT_MEMORY) * own

    def hear(self, held_out: Mapping[str, float]) -> None:
        """Remember the held-out loss of concepts, each over the mean of all of them."""
        mean = sum(held_out.values()) / len(held_out) if held_out else 0.0
        if self.concepts and mean:
            self.held = {name: loss / mean for name, loss in held_out.items() if name in self.by_concept}

    def state(self) -> dict[str, Any]:
        """For an exact resume."""
        if not (self.pictures or self.concepts):
            return {}
        return {"pictures": list(self.relative), "concepts": dict(self.by_concept), "held": dict(self.held)}

    def load(self, state: Any) -> None:
        """Take up ``state()`` again; that of a checkpoint of version 0.1 is the pictures alone."""
        known = state if isinstance(state, dict) else {"pictures": state}
        self.relative = list(known.get("pictures", ())) or self.relative
        self.by_concept |= known.get("concepts", {})
        self.held = dict(known.get("held", {}))
