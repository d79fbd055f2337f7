"""Adapters made into others: several into one, any kind into a LoRA, a fine-tuned model into a LoRA, and back.

Whatever is approximated tells its error: the part of the change that is missed, as a share of its size (Frobenius).
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from zit_app.core.errors import ZitError
from zit_app.model.adapter_changes import Change, Dora, Full, Hadamard, Kron, LowRank, delta_of
from zit_app.model.adapter_files import Adapter
from zit_app.model.adapter_svd import Fit, truncated, truncated_kron, truncated_low_rank

Weights = Mapping[str, torch.Tensor]  # a model's parameters by name
Weighted = tuple[Adapter, float]
RANK = "Give --rank R: the result becomes a LoRA of that rank, and the error is told."


@dataclass(frozen=True)
class Made:
    """An adapter that was computed, and what it misses of what it stands for: 0 = exact."""

    adapter: Adapter
    error: float = 0.0
    left_out: tuple[str, ...] = ()  # modules whose small change has no place in a LoRA


def merged(uses: Sequence[Weighted], rank: int = 0, base: Weights | None = None) -> Made:
    """The weighted sum of adapters as one: exact with ``rank`` 0, where all low ranks are put side by side, else a LoRA
    of at most that rank.

    Raises ZitError when the exact sum has no form as an adapter, when a DoRA's base weights are not given, and for
    adapters of different models.
    """
    changes: dict[str, Change] = {}
    fits: list[Fit] = []
    for name in sorted({name for adapter, _ in uses for name in adapter.modules}):
        parts = [(adapter.modules[name], weight) for adapter, weight in uses if name in adapter.modules]
        if any(part.shape != parts[0][0].shape for part, _ in parts):
            raise ZitError(
                f"The adapters are for models of different size: {name} differs.", "Merge those of one model."
            )
        if len(parts[0][0].shape) != 2:
            changes[name] = Full(_summed([weight * part.delta() for part, weight in parts]))
        elif rank:
            fits.append(_fitted(parts, rank, base, name))
            changes[name] = fits[-1].share
        else:
            changes[name] = _side_by_side(name, parts)
    biases: dict[str, torch.Tensor] = {}
    for adapter, weight in uses:
        for name, bias in adapter.biases.items():
            biases[name] = biases.get(name, torch.zeros(())) + weight * bias.float()
    missed, whole = sum(fit.missed for fit in fits), sum(fit.whole for fit in fits)
    metadata = uses[0][0].metadata if len(uses) == 1 else _joint_metadata([adapter for adapter, _ in uses])
    return Made(Adapter(uses[0][0].path, changes, metadata, biases=biases), (missed / whole) ** 0.5 if whole else 0.0)


def only(adapter: Adapter, names: Set[str]) -> Adapter:
    """An adapter without the modules that are not among ``names``. Raises ZitError when nothing is left."""
    modules = {name: change for name, change in adapter.modules.items() if name in names}
    biases = {name: bias for name, bias in adapter.biases.items() if name in names}
    if not modules and not biases:
        raise ZitError(f"Nothing in {adapter.path} fits this model.", "Give an adapter that was trained for it.")
    return replace(adapter, modules=modules, biases=biases, unmatched=())


def extracted(
    tuned: Weights, base: Weights, rank: int, norms: bool, step: Callable[[int, int], None] = lambda done, total: None
) -> Made:
    """The difference of a fine-tuned transformer to its base, parameters by name, as a LoRA.

    Norms and biases are no matrices: with ``norms`` their differences go along as they are (ComfyUI's layout), else
    they are left out and named. ``step`` hears how far it is. Raises ZitError when the two are of different make or
    equal.
    """
    strange = sorted(tuned.keys() ^ base.keys()) or [key for key in tuned if tuned[key].shape != base[key].shape]
    if strange:
        raise ZitError(f"The two models are of different make: {strange[0]} differs.", "Give a model and its base.")
    changes: dict[str, Change] = {}
    biases: dict[str, torch.Tensor] = {}
    fits: list[Fit] = []
    left_out: list[str] = []
    for done, key in enumerate(tuned):
        step(done + 1, len(tuned))
        name, _, part = key.rpartition(".")
        difference = tuned[key].float() - base[key].float()
        if not difference.any():
            continue
        if difference.ndim == 2 and part == "weight":
            fits.append(truncated(difference, rank))
            changes[name] = fits[-1].share
        elif norms and part == "weight":
            changes[name] = Full(difference)
        elif norms and part == "bias":
            biases[name] = difference
        else:
            left_out.append(key)
    if not changes and not biases:
        raise ZitError("The two models do not differ in anything that a LoRA could hold.", "Check the paths.")
    missed, whole = sum(fit.missed for fit in fits), sum(fit.whole for fit in fits)
    error = (missed / whole) ** 0.5 if whole else 0.0
    return Made(Adapter(Path(), changes, {}, biases=biases), error, tuple(left_out))


def merged_weight(key: str, weight: torch.Tensor, uses: Sequence[Weighted]) -> torch.Tensor:
    """A model's parameter with adapters merged into it, in its own number format."""
    name, _, part = key.rpartition(".")
    changes = [_delta(adapter, name, part, strength, weight) for adapter, strength in uses]
    found = [change for change in changes if change is not None]
    return (weight.float() + _summed(found)).to(weight.dtype) if found else weight


def _delta(adapter: Adapter, name: str, part: str, strength: float, weight: torch.Tensor) -> torch.Tensor | None:
    if part == "weight" and name in adapter.modules:
        return strength * delta_of(adapter.modules[name], weight)
    return strength * adapter.biases[name].float() if part == "bias" and name in adapter.biases else None


def _fitted(parts: Sequence[tuple[Change, float]], rank: int, base: Weights | None, name: str) -> Fit:
    """One LoRA for the weighted sum of changes of a module, by the cheapest exact way."""
    thin = [_weighted(part.low_rank(), weight) for part, weight in parts if part.rank]
    if len(thin) == len(parts):
        return truncated_low_rank(thin, rank)
    first = parts[0][0]
    if len(parts) == 1 and isinstance(first, Kron) and not (first.start or first.stop):
        return truncated_kron(replace(first, scale=first.scale * parts[0][1]), rank)
    deltas = []
    for part, weight in parts:
        if isinstance(part, Dora) and base is None:
            raise ZitError("What a DoRA does depends on the model under it.", "Give the model with --model.")
        deltas.append(weight * (delta_of(part, base[f"{name}.weight"]) if base else part.delta()))
    return truncated(_summed(deltas), rank)


def _side_by_side(name: str, parts: Sequence[tuple[Change, float]]) -> Change:
    """The exact sum: one alone scaled, differences added, low ranks concatenated."""
    change, weight = parts[0]
    if len(parts) == 1 and weight == 1.0:
        return change
    if len(parts) == 1 and isinstance(change, LowRank | Kron | Hadamard):
        return replace(change, scale=weight * change.scale)
    if all(isinstance(part, Full) for part, _ in parts):
        return Full(_summed([strength * part.delta() for part, strength in parts]))
    if any(part.rank == 0 for part, _ in parts):
        kinds = ", ".join(part.kind for part, _ in parts)
        raise ZitError(f"The changes of {name} ({kinds}) are no adapter together.", RANK)
    thin = [_weighted(part.low_rank(), strength) for part, strength in parts]
    down = torch.cat([share.down.float() for share in thin])
    return LowRank(down, torch.cat([share.scale * share.up.float() for share in thin], 1), 1.0)


def _weighted(share: LowRank | None, weight: float) -> LowRank:
    assert share is not None
    return replace(share, scale=weight * share.scale)


def _summed(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(tensors)).sum(0) if len(tensors) > 1 else tensors[0]


def _joint_metadata(adapters: Sequence[Adapter]) -> dict[str, str]:
    """What all members say alike (the base model), and of which files the new one was made."""
    first = adapters[0].metadata
    shared = {key: value for key, value in first.items() if all(one.metadata.get(key) == value for one in adapters)}
    words = dict.fromkeys(adapter.metadata.get("modelspec.trigger_phrase", "") for adapter in adapters)
    shared["modelspec.trigger_phrase"] = ", ".join(filter(None, words))
    return shared | {"zit_merged_from": ", ".join(adapter.path.name for adapter in adapters)}
