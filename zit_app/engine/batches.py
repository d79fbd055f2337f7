"""Which pictures make a batch, and in which order: a pure function of seed and epoch, so that resume needs one number.

Only pictures of one bucket share a batch. The last batch of a bucket may be short; no picture is left out.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from zit_app.data.formats import Size


@dataclass(frozen=True)
class DataOrder:
    """The endless stream of batches. `sizes[i]` is the bucket of picture i; batches hold indices of pictures."""

    sizes: Sequence[Size]
    batch_size: int
    repeats: int  # times a picture occurs in an epoch
    seed: int

    @property
    def batches_per_epoch(self) -> int:
        """Batches in which every picture occurs `repeats` times."""
        counts = Counter(self.sizes).values()
        return sum(math.ceil(count * self.repeats / self.batch_size) for count in counts)

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of one epoch: pictures shuffled within their bucket, then batches among each other."""
        random = Random(f"{self.seed} {number}")
        batches = []
        for size in sorted(set(self.sizes)):
            members = [i for i, own in enumerate(self.sizes) if own == size] * self.repeats
            random.shuffle(members)
            batches += [members[at : at + self.batch_size] for at in range(0, len(members), self.batch_size)]
        random.shuffle(batches)
        return batches

    def stream(self, done: int) -> Iterator[list[int]]:
        """All batches after the first `done`, through epoch after epoch."""
        epoch, inside = divmod(done, self.batches_per_epoch)
        for number in itertools.count(epoch):
            yield from self.epoch(number)[inside:]
            inside = 0
