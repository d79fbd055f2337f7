"""A LoRA that learns in directions which chosen inputs hardly use (`flow/null_space.py`).

N rows, D inputs of a layer, R rank.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from torch import Tensor

from zit_app.core.sizes import NULL_SPACE_DIRECTIONS
from zit_app.flow.null_space import Damping, damping
from zit_app.model.adapters import adapter_weights

ROWS = 2048  # a layer; at full size 2.7 GB of them in 16 bit until the directions are known


@contextmanager
def recorded_inputs(
    transformer: ZImageTransformer2DModel, names: Sequence[str], calls: int, seed: int = 0
) -> Iterator[dict[str, Tensor]]:
    """Inputs of the linear layers ``names``, (N, D) each, N about `ROWS` after ``calls`` forward passes.

    They fill while the block lasts: of every pass as many tokens by chance, all alike. Layers that are given the same
    tensor share one entry, the same object.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    generator = torch.Generator().manual_seed(seed)
    each = max(1, -(-ROWS // calls))
    last: dict[str, Any] = {"given": None, "name": ""}
    same: dict[str, str] = {}

    def hook(name: str) -> Any:
        def record(module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
            if given[0] is last["given"]:
                same[name] = last["name"]
                return
            last.update(given=given[0], name=name)
            tokens_TD = given[0].detach().flatten(0, -2)
            chosen = torch.randperm(len(tokens_TD), generator=generator)[:each]
            rows[name].append(tokens_TD[chosen.to(tokens_TD.device)].cpu())

        return record

    handles = [transformer.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    inputs: dict[str, Tensor] = {}
    try:
        yield inputs
    finally:
        last.clear()
        for handle in handles:
            handle.remove()
    inputs |= {name: torch.cat(several) for name, several in rows.items() if several}
    inputs |= {name: inputs[other] for name, other in same.items()}


class NullSpace:
    """The A of every LoRA layer as A = F + Z M: the optimizer sees Z, the model A.

    Z is a state of the training, A what is saved and drawn with: an adapter like any other. F are the rows that a
    training began with, else zero: what was learnt before is kept, what comes is damped.
    """

    def __init__(
        self,
        transformer: ZImageTransformer2DModel,
        inputs: Mapping[str, Tensor],
        share: float,
        filled: Mapping[str, int] | None = None,
    ) -> None:
        """The A of the fresh adapter becomes Z; of the layers in ``filled`` the first so many rows become F."""
        weights = adapter_weights(transformer)
        known: dict[int, Damping] = {}
        self.layers: dict[str, tuple[torch.nn.Parameter, Damping]] = {}
        for name, rows_ND in inputs.items():
            weight = weights[f"{name}.lora_A.weight"]
            if id(rows_ND) not in known:
                known[id(rows_ND)] = damping(rows_ND.to(weight.device), share, NULL_SPACE_DIRECTIONS)
            self.layers[name] = (weight, known[id(rows_ND)])
        self.coordinates = {name: weight.detach().clone() for name, (weight, _) in self.layers.items()}
        self.begun: dict[str, Tensor] = {}
        for name, rank in (filled or {}).items():
            if name in self.layers:
                self.begun[name] = self.coordinates[name].clone()
                self.begun[name][rank:] = 0
                self.coordinates[name][:rank] = 0
        self._enter_model()

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """For a step of the optimizer: weights and gradients are those of Z."""
        with torch.no_grad():
            for name, (weight, damped) in self.layers.items():
                weight.copy_(self.coordinates[name])
                if weight.grad is not None:
                    weight.grad.copy_(damped(weight.grad))  # M is symmetric
        yield
        with torch.no_grad():
            for name, (weight, _) in self.layers.items():
                self.coordinates[name].copy_(weight)
        self._enter_model()

    def load(self, coordinates: Mapping[str, Tensor]) -> None:
        """Z of a checkpoint, whose A the adapter holds already."""
        for name, saved in coordinates.items():
            self.coordinates[name].copy_(saved)

    @torch.no_grad()
    def _enter_model(self) -> None:
        for name, (weight, damped) in self.layers.items():
            weight.copy_(damped(self.coordinates[name]))
            if name in self.begun:
                weight.add_(self.begun[name])
