"""Adapters at inference: a stack of any depth at the cost of one, switched on and off by denoising step.

Low ranks add up by concatenation: ``sum_i w_i s_i U_i D_i x = [U_1 | U_2 | …] (g * [D_1; D_2; …] x)``, where g holds
w_i s_i on the rows of adapter i. So a module has one slot for the whole stack, and a weight, a step or a switch only
changes g. Adapters that cannot be cut into two thin factors (full LoKr, DoRA, differences) act beside the slot, each
exactly. A forward hook adds all of it to the module's output: the base weights are never touched, whatever format they
are in. Weights of norms have no input to multiply: they are replaced while their adapters act, and put back.

Shapes: R sum of ranks, I inputs, O outputs of a linear layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from zit_app.core.errors import ZitError
from zit_app.model.adapter_changes import Full
from zit_app.model.adapter_files import Adapter
from zit_app.model.adapter_names import shown
from zit_app.model.adapter_spots import LinearSpot, NormSpot, Shares
from zit_app.model.base_weights import is_linear


@dataclass(frozen=True)
class Placed:
    """One adapter in the stack: strength, and the steps (from 1, both included; last 0 = to the end) it acts in."""

    adapter: Adapter
    weight: float
    first: int
    last: int

    def active(self, step: int) -> bool:
        """Whether it acts in the denoising step with this number, counted from 1."""
        return self.weight != 0 and self.first <= step and (self.last == 0 or step <= self.last)


class AdapterStack:
    """Adapters hooked into a transformer. ``set_step`` chooses who acts, ``remove`` gives the bare model back."""

    def __init__(self, transformer: torch.nn.Module, placed: Sequence[Placed]) -> None:
        self.placed = tuple(placed)
        self._step = 0
        self._weights: tuple[float, ...] = ()
        # Those of the same steps side by side, so that the ones that act lie together in a slot.
        order = sorted(range(len(placed)), key=lambda i: (placed[i].first, placed[i].last or 1 << 30))
        self._spots: list[LinearSpot | NormSpot] = []
        for name in sorted({name for one in placed for name in one.adapter.names}):
            module = transformer.get_submodule(name)
            shares = Shares(
                [(i, placed[i].adapter.modules[name]) for i in order if name in placed[i].adapter.modules],
                [(i, placed[i].adapter.biases[name]) for i in order if name in placed[i].adapter.biases],
            )
            self._spots.append((LinearSpot if is_linear(module) else NormSpot)(module, shares))
        self.set_step(0)

    def set_step(self, index: int) -> None:
        """Prepare denoising step ``index``, counted from 0."""
        self._step = index
        weights = tuple(one.weight if one.active(index + 1) else 0.0 for one in self.placed)
        if weights != self._weights:
            self._weights = weights
            for spot in self._spots:
                spot.turn(weights)

    def set_weights(self, weights: Sequence[float]) -> None:
        """New strengths, one an adapter, 0 = off; nothing is loaded or built again."""
        self.placed = tuple(replace(one, weight=weight) for one, weight in zip(self.placed, weights, strict=True))
        self.set_step(self._step)

    def remove(self) -> None:
        """Take the hooks off and put back what was replaced."""
        for spot in self._spots:
            spot.remove()
        self._spots = []


def apply_adapters(transformer: torch.nn.Module, uses: Sequence[tuple[Adapter, float, int, int]]) -> AdapterStack:
    """Hook a stack of ``(adapter, weight, first step, last step)`` into a transformer.

    Raises ZitError when a file, or a part of it, does not fit: nothing is applied partly.
    """
    for adapter, *_ in uses:
        check_fit(transformer, adapter)
    return AdapterStack(transformer, [Placed(*use) for use in uses])


def check_fit(transformer: torch.nn.Module, adapter: Adapter) -> None:
    """Raises ZitError when a transformer lacks a module that the adapter changes, or has it in another shape."""
    strange = misfits(transformer, adapter)
    if len(strange) == len(adapter.names):
        raise ZitError(
            f"Nothing in {adapter.path} fits this model: it was trained for another one.",
            "Give a LoRA trained for this model.",
        )
    if strange:
        raise ZitError(
            f"{len(strange)} of the {len(adapter.names)} modules in {adapter.path} do not fit this model, such as "
            f"{shown(strange[0])}.",
            "To use what fits, write a file of it with: zit lora convert FILE NEW --fitting MODEL.",
        )


def misfits(transformer: torch.nn.Module, adapter: Adapter) -> list[str]:
    """The modules of an adapter that a transformer lacks or has in another shape."""
    known = dict(transformer.named_modules())
    return [name for name in adapter.names if name not in known or not _fits(known[name], adapter, name)]


def _fits(module: torch.nn.Module, adapter: Adapter, name: str) -> bool:
    change, bias = adapter.modules.get(name), adapter.biases.get(name)
    if is_linear(module):
        inputs, outputs = module.in_features, module.out_features
        return (change is None or change.shape == (outputs, inputs)) and (bias is None or bias.shape == (outputs,))
    weight, own_bias = getattr(module, "weight", None), getattr(module, "bias", None)
    fits = change is None or (isinstance(change, Full) and weight is not None and change.shape == weight.shape)
    return fits and (bias is None or (own_bias is not None and bias.shape == own_bias.shape))
