"""From the tensors that a file holds for one module to the change that they make together."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zit_app.core.errors import ZitError
from zit_app.model.adapter_changes import Change, Dora, Factor, Full, Hadamard, Kron, LowRank

FULL_RANK = 1e9  # LyCORIS' full rank is a dimension and an alpha of 1e10

Parts = dict[str, torch.Tensor]  # by the names of ``adapter_names.Key.part``


def change_of(path: Path, name: str, parts: Parts, noted: Mapping[str, Any]) -> Change | None:
    """The change that a module's parts make together; None when they touch its bias alone."""
    own = set(parts) - {"alpha", "magnitude", "diff_b", "up_bias"}
    if set(parts) == {"diff_b"}:
        return None
    try:
        change = _of_kind(name, own, parts, noted)
    except KeyError as missing:
        raise ZitError(f"{path} is incomplete: {name} lacks its part {missing}.", "Get the whole file.") from None
    except _Misshapen as error:
        raise ZitError(f"{path}: the parts of {name} do not fit each other ({error}).", "Use another file.") from None
    if "magnitude" not in parts:
        return change
    if "up_bias" in parts or len(change.shape) != 2:
        raise ZitError(f"{path}: {name} is a DoRA of a form that is not known.", "Use another file.")
    magnitude, (rows, columns) = parts["magnitude"], change.shape
    if magnitude.ndim == 1:
        magnitude = magnitude[:, None]
    if magnitude.shape not in ((rows, 1), (1, columns)):
        raise ZitError(f"{path}: the DoRA magnitudes of {name} do not fit it.", "Use another file.")
    return Dora(change, magnitude)


def _of_kind(name: str, own: set[str], parts: Parts, noted: Mapping[str, Any]) -> Change:
    """The change that the weights of one module make; KeyError names the part that is missing."""
    kinds = {"lora" if part in ("down", "up") else part[:4] for part in own}
    if len(kinds) > 1:
        raise _Misshapen("several kinds at once")
    if kinds == {"lora"}:
        down, up = _matrix(parts, "down"), _matrix(parts, "up")
        if up.shape[1] != down.shape[0]:
            raise _Misshapen(f"ranks {down.shape[0]} and {up.shape[1]}")
        return LowRank(down, up, _scale(name, down.shape[0], parts, noted))
    if kinds == {"lokr"}:
        w1, w2 = _factor(parts, "lokr_w1"), _factor(parts, "lokr_w2")
        # alpha counts only when a factor is a product, and 1e10 means full rank; PEFT knows no such exceptions
        rank = next((factor[1].shape[0] for factor in (w2, w1) if len(factor) == 2), 0)
        if noted.get("peft_type") == "LOKR":
            return Kron(w1, w2, _scale(name, int(noted.get("r") or rank or 1), parts, noted))
        full = rank == 0 or ("alpha" in parts and parts["alpha"].item() >= FULL_RANK)
        return Kron(w1, w2, 1.0 if full else _scale(name, rank, parts, noted))
    if kinds == {"hada"}:
        w1, w2 = _pair(parts, "hada_w1"), _pair(parts, "hada_w2")
        if (w1[0].shape[0], w1[1].shape[1]) != (w2[0].shape[0], w2[1].shape[1]):
            raise _Misshapen("two products of different size")
        return Hadamard(w1, w2, _scale(name, w1[1].shape[0], parts, noted))
    return Full(parts["diff"])


def _scale(name: str, rank: int, parts: Parts, noted: Mapping[str, Any]) -> float:
    """alpha / rank: alpha of the module, else as diffusers and PEFT note it beside the weights; 1 without either."""
    if "alpha" in parts:
        return parts["alpha"].item() / rank
    if not noted:
        return 1.0
    patterns: dict[str, float] = noted.get("alpha_pattern") or {}
    plain = {key.strip("^$").replace("\\.", "."): value for key, value in patterns.items()}
    alpha = next((value for key, value in plain.items() if name == key or name.endswith(f".{key}")), None)
    alpha = noted.get("lora_alpha", noted.get("alpha", rank)) if alpha is None else alpha
    return float(alpha) / (math.sqrt(rank) if noted.get("use_rslora") else rank)


def noted_scales(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What diffusers writes into the metadata, and PEFT into a file beside its `adapter_model.safetensors`."""
    beside = path.with_name("adapter_config.json")
    text = metadata.get("lora_adapter_metadata", "")
    if not text and path.name == "adapter_model.safetensors" and beside.is_file():
        text = beside.read_text(encoding="utf-8")
    try:
        noted = {key.removeprefix("transformer."): value for key, value in json.loads(text or "{}").items()}
        for value in (noted.get("r") or 1, _scale("", 1, {}, noted), *(noted.get("alpha_pattern") or {}).values()):
            float(value)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ZitError(f"{path}: what it notes about alpha cannot be read.", "Use another file.") from error
    return noted


class _Misshapen(Exception):
    """Parts of one module that make no change together."""


def _matrix(parts: Parts, name: str) -> torch.Tensor:
    tensor = parts[name]
    if tensor.ndim > 2 and tensor.shape[2:].numel() == 1:  # a linear layer written as a 1 × 1 convolution
        tensor = tensor.flatten(1)
    if tensor.ndim != 2:
        raise _Misshapen("not a matrix")
    return tensor


def _factor(parts: Parts, name: str) -> Factor:
    """A factor of a LoKr: whole, or as a pair."""
    if name not in parts:
        return _pair(parts, name)
    if f"{name}_a" in parts or f"{name}_b" in parts:
        raise _Misshapen(f"{name} whole and as a product")
    return (_matrix(parts, name),)


def _pair(parts: Parts, name: str) -> Factor:
    first, second = _matrix(parts, f"{name}_a"), _matrix(parts, f"{name}_b")
    if first.shape[1] != second.shape[0]:
        raise _Misshapen(f"{name} of ranks {first.shape[1]} and {second.shape[0]}")
    return first, second
