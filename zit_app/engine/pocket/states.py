"""Resumable training states as safetensors: module weights, optimizer moments and a few numbers in the header."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

Optimizers = Mapping[str, torch.optim.Optimizer]


def save_state(
    path: Path, modules: Mapping[str, torch.nn.Module], optimizers: Optimizers, numbers: dict[str, float]
) -> None:
    """Write everything atomically; optimizer moments are stored as ``optimizer.<name>.<index>.<key>``."""
    tensors = {f"{name}.{k}": v.contiguous().clone() for name, m in modules.items() for k, v in m.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"optimizer.{name}.{index}.{key}"] = torch.as_tensor(value).contiguous().clone()
    temporary = path.with_suffix(".part")
    save_file(tensors, temporary, metadata={"numbers": json.dumps(numbers)})
    os.replace(temporary, path)


def load_state(path: Path, modules: Mapping[str, torch.nn.Module], optimizers: Optimizers) -> dict[str, Any]:
    """Read back what ``save_state`` wrote; returns the numbers."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        numbers = json.loads(file.metadata()["numbers"])
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Any]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimizer.{name}."):
                index, moment = key.removeprefix(f"optimizer.{name}.").split(".", 1)
                state.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return numbers


def load_part(path: Path, name: str) -> dict[str, torch.Tensor]:
    """The weights of one module of a state file."""
    with safe_open(path, "pt") as file:
        return {k.removeprefix(f"{name}."): file.get_tensor(k) for k in file.keys() if k.startswith(f"{name}.")}  # noqa: SIM118
