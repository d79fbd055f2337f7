"""Where a stack of adapters meets one module: what it adds to a linear layer, what it makes of a norm.

Shapes: R sum of ranks, I inputs, O outputs of a linear layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from zit_app.model.adapter_changes import Change, Dora, LowRank
from zit_app.model.base_weights import base_weight, without_bias

SLOT_RANK = 128  # up to here a LoKr or LoHa is cheaper as two thin products than in its own form


@dataclass(frozen=True)
class Shares:
    """What the adapters of a stack, by their numbers in it, change in one module."""

    changes: list[tuple[int, Change]]
    biases: list[tuple[int, torch.Tensor]]


class LinearSpot:
    """One linear layer with a slot for all low ranks, and what else is to be added."""

    def __init__(self, module: torch.nn.Module, shares: Shares) -> None:
        self._low_ranks, self._changes = _sorted(shares.changes)
        self._offsets = shares.biases
        self._weights: Sequence[float] = ()
        self._hook = module.register_forward_hook(self._add)
        # The same where the inputs are and in their format, from the first input on:
        self._place: tuple[torch.device, torch.dtype] | None = None
        self._slot: _Slot | None = None
        self._others: list[tuple[int, Change]] = []
        self._biases: list[tuple[int, torch.Tensor]] = []
        self._gains: dict[int, torch.Tensor] = {}

    def turn(self, weights: Sequence[float]) -> None:
        """Take over new weights, one an adapter of the stack."""
        self._weights = weights
        if self._slot is not None:
            self._slot.turn(weights)

    def remove(self) -> None:
        """Give the bare layer back."""
        self._hook.remove()

    def _add(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], bare: torch.Tensor) -> torch.Tensor:
        x, output = inputs[0], bare
        if (x.device, x.dtype) != self._place:
            self._settle(module, x)
        if self._slot is not None and self._slot.gate is not None:
            output = output + self._slot.apply(x)
        for i, change in self._others:
            if self._weights[i]:
                share = self._of_dora(i, change, module, x, bare) if isinstance(change, Dora) else change.apply(x)
                output = output + self._weights[i] * share.to(bare.dtype)
        for i, bias in self._biases:
            if self._weights[i]:
                output = output + self._weights[i] * bias.to(bare.dtype)
        return output

    def _settle(self, module: torch.nn.Module, x: torch.Tensor) -> None:
        """Bring everything to where the inputs are, in their format; the gains of a DoRA are computed in fp32."""
        self._slot = _Slot(self._low_ranks, x) if self._low_ranks else None
        self._others = [(i, change.mapped(lambda tensor: tensor.to(x))) for i, change in self._changes]
        self._biases = [(i, bias.to(x)) for i, bias in self._offsets]
        self._gains, weight = {}, None
        for i, change in self._changes:
            if isinstance(change, Dora):
                weight = base_weight(module, x.device) if weight is None else weight
                self._gains[i] = change.mapped(lambda tensor: tensor.to(x.device)).gain(weight)
        self._place = (x.device, x.dtype)
        self.turn(self._weights)

    def _of_dora(
        self, i: int, dora: Dora, module: torch.nn.Module, x: torch.Tensor, bare: torch.Tensor
    ) -> torch.Tensor:
        """(W' - W) x: of rows ``g (W x + dW x) - W x``, of columns ``W (g x) + dW (g x) - W x``."""
        gain, of_base = self._gains[i], without_bias(module, bare)
        if dora.by_rows:
            gain = gain[:, 0]
            return (gain - 1) * of_base + gain * dora.apply(x)
        scaled = (gain[0] * x).to(x.dtype)
        return without_bias(module, module.forward(scaled)) + dora.apply(scaled) - of_base


class _Slot:
    """Low ranks of many adapters, concatenated; ``gate`` holds strength times scale of each row that acts."""

    def __init__(self, shares: Sequence[tuple[int, LowRank]], like: torch.Tensor) -> None:
        self._down = torch.cat([share.down.to(like) for _, share in shares])
        self._up = torch.cat([share.up.to(like) for _, share in shares], 1)
        self._owner_R = torch.tensor([i for i, share in shares for _ in range(share.rank)])
        self._scale_R = torch.tensor([share.scale for _, share in shares for _ in range(share.rank)])
        self._rows = slice(0, 0)
        self.gate: torch.Tensor | None = None

    def turn(self, weights: Sequence[float]) -> None:
        """Only the rows from the first to the last that acts are computed."""
        gate_R = torch.tensor(weights, dtype=torch.float32)[self._owner_R] * self._scale_R
        acting = gate_R.nonzero()
        if len(acting) == 0:
            self.gate = None
            return
        self._rows = slice(int(acting[0]), int(acting[-1]) + 1)
        self.gate = gate_R[self._rows].to(self._down.device)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of all that acts; strengths stay in fp32 until the last, they are not rounded to bf16."""
        assert self.gate is not None
        thin = F.linear(x, self._down[self._rows])
        return F.linear((thin * self.gate).to(thin.dtype), self._up[:, self._rows])


class NormSpot:
    """A norm whose weight and bias are replaced while adapters act, and put back bit for bit."""

    def __init__(self, module: torch.nn.Module, shares: Shares) -> None:
        changes = [(i, change.delta()) for i, change in shares.changes]
        named = (("weight", changes), ("bias", shares.biases))
        self._parts = [(getattr(module, name), differences) for name, differences in named if differences]
        self._before = [parameter.detach().clone() for parameter, _ in self._parts]

    @torch.no_grad()
    def turn(self, weights: Sequence[float]) -> None:
        """Base plus the weighted differences."""
        for (parameter, differences), before in zip(self._parts, self._before, strict=True):
            changed = before.float()
            for i, difference in differences:
                changed = changed + weights[i] * difference.to(changed)
            parameter.copy_(changed if any(weights[i] for i, _ in differences) else before)

    @torch.no_grad()
    def remove(self) -> None:
        """Give the bare norm back."""
        for (parameter, _), before in zip(self._parts, self._before, strict=True):
            parameter.copy_(before)


def _sorted(changes: Sequence[tuple[int, Change]]) -> tuple[list[tuple[int, LowRank]], list[tuple[int, Change]]]:
    """Those that go into the slot, and the others in their own form."""
    slot: list[tuple[int, LowRank]] = []
    others: list[tuple[int, Change]] = []
    for i, change in changes:
        thin = change.low_rank() if isinstance(change, LowRank) or 0 < change.rank <= SLOT_RANK else None
        if thin is None:
            others.append((i, change))
        else:
            slot.append((i, thin))
    return slot, others
