"""Which noise levels a training batch sees.

AC-RF (report, section 2) trains at the nodes that inference visits. The report draws "without replacement"; here the
draw goes on across micro-batches (a deck of nodes, reshuffled when it is empty), so that every node is visited
equally often even at batch 1. Jitter past 0 or 1 is reflected: clamping would put half of the first node's draws on
one point.

Shapes: B batch, K nodes.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from zit_app.flow.schedule import shift_sigma

Sampler = Literal["anchor", "uniform", "shift", "logit_normal", "shifted_sigmoid", "mixture"]
LOSS_MEMORY = 0.9  # of the moving mean of a node's loss


def gaps(nodes_K: torch.Tensor) -> torch.Tensor:
    """The distance of each node to its nearest neighbour, 0 below the last one counting as a neighbour, (K,)."""
    steps = -torch.cat([nodes_K, nodes_K.new_zeros(1)]).diff()
    return torch.minimum(steps, torch.cat([steps[:1], steps[:-1]]))


def reflect(sigma: torch.Tensor) -> torch.Tensor:
    """Fold values that left [0, 1] by less than 1 back at the border they crossed."""
    folded = sigma.abs()
    return torch.where(folded > 1, 2 - folded, folded)


class SigmaSampler:
    """Draws noise levels; all randomness comes from the caller's generator, the rest of the state is the deck.

    sampler: ``anchor`` nodes with jitter · ``uniform`` on [0, 1] · ``shift`` uniform, then ``shift_sigma`` ·
    ``logit_normal`` sigmoid of a normal (Esser et al. 2024) · ``shifted_sigmoid`` the same, then ``shift_sigma`` ·
    ``mixture`` each draw is an anchor with probability ``anchor_share``, else a draw of ``mixed_with``.

    jitter: uniform within ± its scale, or Gaussian with it as deviation; in sigma, or as a share of the gap between
    a node and its nearest neighbour.

    focus: 0 = every node equally often; above, half of a deck is handed out in proportion to each node's mean loss to
    this power, the other half equally.
    """

    def __init__(
        self,
        nodes: torch.Tensor | Sequence[float],
        sampler: Sampler = "mixture",
        jitter: float = 0.02,
        anchor_share: float = 0.5,
        shift: float = 3.0,
        *,
        jitter_kind: str = "uniform",
        jitter_unit: str = "sigma",
        logit_mean: float = 0.0,
        logit_deviation: float = 1.0,
        focus: float = 0.0,
        mixed_with: Sampler = "shift",
    ) -> None:
        self.nodes_K = torch.as_tensor(nodes, dtype=torch.float64)
        self.sampler = sampler
        self.free: Sampler = mixed_with if sampler == "mixture" else sampler
        self.anchor_share = anchor_share
        self.shift = shift
        self.jitter_kind = jitter_kind
        self.logit = (logit_mean, logit_deviation)
        self.focus = focus
        self.jitter_K = jitter * (gaps(self.nodes_K) if jitter_unit == "gap" else torch.ones_like(self.nodes_K))
        self.deck: list[int] = []
        self.losses_K: list[float | None] = [None] * len(self.nodes_K)

    def draw(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Noise levels, float32 (B,)."""
        if self.sampler == "anchor":
            sigma = self._anchors(batch, generator)
        elif self.sampler == "mixture":
            chosen = torch.rand(batch, generator=generator) < self.anchor_share
            sigma = self._free(batch, generator)
            sigma[chosen] = self._anchors(int(chosen.sum()), generator)
        else:
            sigma = self._free(batch, generator)
        return sigma.float()

    @property
    def reach_K(self) -> torch.Tensor:
        """How far from its node a draw may be, (K,): the jitter, of a Gaussian three deviations."""
        return self.jitter_K * (3 if self.jitter_kind == "gaussian" else 1)

    def saw(self, sigma: Sequence[float], losses: Sequence[float]) -> list[float]:
        """Remember the losses of pictures at their noise levels: a moving mean of each node, the nearest to a picture.

        Returns each loss over the mean of its node.
        """
        relative = []
        for own, loss in zip(sigma, losses, strict=True):
            k = int((self.nodes_K - own).abs().argmin())
            before = self.losses_K[k]
            mean = loss if before is None else LOSS_MEMORY * before + (1 - LOSS_MEMORY) * loss
            self.losses_K[k] = mean
            relative.append(loss / mean if mean else 1.0)
        return relative

    def _anchors(self, count: int, generator: torch.Generator) -> torch.Tensor:
        picked = []
        for _ in range(count):
            if not self.deck:
                cards = torch.tensor(self._cards())
                self.deck = cards[torch.randperm(len(cards), generator=generator)].tolist()
            picked.append(self.deck.pop())
        return reflect(self.nodes_K[picked] + self.jitter_K[picked] * self._wobble(count, generator))

    def _cards(self) -> list[int]:
        """The nodes of a fresh deck: each once, and with a focus as many again handed out by their losses."""
        count, known = len(self.losses_K), [loss for loss in self.losses_K if loss is not None]
        if not self.focus or len(known) < count:
            return list(range(count))
        weight = [loss**self.focus for loss in known]
        return [k for k in range(count) for _ in range(1 + round(count * weight[k] / sum(weight)))]

    def _wobble(self, count: int, generator: torch.Generator) -> torch.Tensor:
        if self.jitter_kind == "gaussian":
            return torch.randn(count, generator=generator, dtype=torch.float64)
        return 2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1

    def _free(self, count: int, generator: torch.Generator) -> torch.Tensor:
        if self.free in ("logit_normal", "shifted_sigmoid"):
            mean, deviation = self.logit
            normal = torch.randn(count, generator=generator, dtype=torch.float64)
            sigma = (mean + deviation * normal).sigmoid()
            return sigma if self.free == "logit_normal" else shift_sigma(sigma, self.shift)
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        return u if self.free == "uniform" else shift_sigma(u, self.shift)

    def state(self) -> dict[str, Any]:
        """The nodes left in the deck and the losses seen: with the generator's state enough for an exact resume."""
        return {"deck": list(self.deck), "losses": list(self.losses_K)}

    def load(self, state: dict[str, Any]) -> None:
        """Take up ``state()`` again."""
        self.deck, self.losses_K = list(state["deck"]), list(state["losses"])
