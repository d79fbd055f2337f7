"""Blocks that come to the card only for their turn, so that a model larger than the card computes on it.

The linear layers of a block that is away lie in the machine's memory; where they were hang empty tensors of the meta
device, so nothing can compute with them by mistake. Two places on the card take turns: while one block computes, the
next one that is away arrives in the other, on a stream of its own. Frozen weights are only ever copied to the card,
never back, and norms and adapters stay there. Blocks that leave are spread over the model: the more of the others
compute between two of them, the more time an arrival has.

Own hooks and not diffusers' group offloading: that one moves all blocks or none, and copies only the shell of quanto's
tensors. What streams gain on a card has not been measured.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from zit_app.core.memory import PLACES

Change = Callable[[torch.Tensor], torch.Tensor]


def to_card(model: torch.nn.Module, blocks: Sequence[torch.nn.Module], device: torch.device, away: int) -> None:
    """Move a frozen model to ``device``, all but ``away`` of its ``blocks``, which come only for their turn."""
    if not away:
        torch.nn.Module.to(model, device)
        return
    leaving = [_Away(blocks[(2 * i + 1) * len(blocks) // (2 * away)], device) for i in range(away)]
    torch.nn.Module.to(model, device)
    rotation = _Rotation(leaving, device)
    for number, one in enumerate(leaving):
        one.leave()
        one.block.register_forward_pre_hook(lambda block, inputs, number=number: rotation.enter(number))
        one.block.register_forward_hook(lambda block, inputs, output, number=number: rotation.leave(number))


class _Away:
    """A block whose linear layers are away: what hangs where, and its home."""

    def __init__(self, block: torch.nn.Module, device: torch.device) -> None:
        self.block = block
        layers = [layer for layer in block.modules() if isinstance(layer, torch.nn.Linear)]
        holders: list[dict[str, Any]] = [one for layer in layers for one in (layer._parameters, layer._buffers)]
        self._spots = [(holder, name) for holder in holders for name, tensor in holder.items() if tensor is not None]
        pinned: Change = torch.Tensor.pin_memory if device.type == "cuda" else torch.Tensor.contiguous
        self.home = [_mapped(holder[name], pinned) for holder, name in self._spots]
        self._empty = [torch.empty(one.shape, dtype=one.dtype, device="meta") for one in self.home]
        for holder, name in self._spots:
            holder[name] = None  # for as long as the rest moves

    def hang(self, tensors: Sequence[torch.Tensor]) -> None:
        for (holder, name), tensor in zip(self._spots, tensors, strict=True):
            holder[name] = tensor

    def leave(self) -> None:
        self.hang(self._empty)


class _Rotation:
    """Two places on the card in which blocks take turns, and which block arrives next."""

    def __init__(self, blocks: Sequence[_Away], device: torch.device) -> None:
        self._blocks = blocks
        copied: Change = partial(torch.Tensor.to, device=device, copy=True)
        self._places = [[_mapped(tensor, copied) for tensor in blocks[0].home] for _ in range(PLACES)]
        self._turn, self._arriving = 0, -1
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._arrived = [torch.cuda.Event() for _ in range(PLACES)] if self._stream else []
        self._free = [torch.cuda.Event() for _ in range(PLACES)] if self._stream else []

    def enter(self, number: int) -> None:
        """Before a block computes: hang up what has arrived for it, and call the next one."""
        if self._arriving != number:  # the first of all, or the one after a call that was broken off
            self._fetch(number)
        place = self._turn
        if self._stream:
            torch.cuda.current_stream().wait_event(self._arrived[place])
        self._blocks[number].hang(self._places[place])
        self._turn = (place + 1) % PLACES
        self._fetch((number + 1) % len(self._blocks))

    def leave(self, number: int) -> None:
        """After a block has computed: its place is free as soon as the card has come so far."""
        self._blocks[number].leave()
        if self._stream:
            self._free[(self._turn + 1) % PLACES].record(torch.cuda.current_stream())

    def _fetch(self, number: int) -> None:
        """Copy a block's tensors to the place whose turn is next, once what used it has computed."""
        with torch.cuda.stream(self._stream):  # None: does nothing
            if self._stream:
                self._stream.wait_event(self._free[self._turn])
            for target, source in zip(self._places[self._turn], self._blocks[number].home, strict=True):
                for inner, outer in zip(_inner(target), _inner(source), strict=True):
                    inner.copy_(outer, non_blocking=True)
            if self._stream:
                self._arrived[self._turn].record(self._stream)
        self._arriving = number


def _inner(tensor: Any) -> list[torch.Tensor]:
    """The plain tensors that one is made of: itself, or a quantized one's data and scales."""
    names = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else []
    return [getattr(tensor, name) for name in names] or [tensor]


def _mapped(tensor: Any, change: Change) -> torch.Tensor:
    """The same tensor with its plain ones changed."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return change(tensor.detach())
    names, about = tensor.__tensor_flatten__()
    inner = {name: change(getattr(tensor, name).detach()) for name in names}
    made: torch.Tensor = type(tensor).__tensor_unflatten__(inner, about, tensor.size(), tensor.stride())
    return made
