"""Choosing how attention is computed: all exact ways give the same picture but for rounding, at different speeds.

diffusers remembers a chosen back end for the whole process; here it holds for one block, so that training and
previews in the same worker are not touched.

Shapes: B batch, T tokens, N heads, D width of a head.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from diffusers.models.attention_dispatch import attention_backend, dispatch_attention_fn

from zit_app.core.attention import BACK_ENDS, check_installed, installed
from zit_app.core.errors import ZitError

HEADS, WIDTH = 30, 128  # of Z-Image
_REPEATS = 5


@dataclass(frozen=True)
class Timing:
    """One back end on this machine: seconds a call, and how far it is from exact arithmetic (relative)."""

    name: str
    seconds: float
    error: float


def choose(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The back end that a setting means on a device. Raises ZitError for one that is not installed or does not work.

    "auto" is torch's own choice, unless packages with other exact ones are installed: then the fastest, measured once.
    """
    if name == "auto":
        return _fastest(device, dtype)
    check_installed(name, device.type == "cuda")
    try:
        _attend(name, *_example(device, dtype, 64))
    except (RuntimeError, ValueError, ImportError, AssertionError) as error:
        words = str(error).strip().splitlines()
        raise ZitError(
            f"The attention back end {name} does not work here: {words[0] if words else type(error).__name__}",
            "Choose auto.",
        ) from error
    return name


@contextmanager
def attention(name: str) -> Iterator[None]:
    """Within the block transformers compute attention with this back end."""
    with attention_backend(name):
        yield


def measure(device: torch.device, dtype: torch.dtype, tokens: int) -> tuple[list[Timing], list[tuple[str, str]]]:
    """Time every installed back end on one layer's attention of Z-Image; also those that fail, and why."""
    example = _example(device, dtype, tokens)
    exact = _attend("_native_math", *(x.double().cpu() for x in _example(device, dtype, min(tokens, 512))))
    found, failed = [], []
    for name in installed(device.type == "cuda"):
        try:
            choose(name, device, dtype)
        except ZitError as error:
            failed.append((name, error.what))
            continue
        near = _attend(name, *_example(device, dtype, min(tokens, 512))).double().cpu()
        error_of = ((near - exact).norm() / exact.norm()).item()
        found.append(Timing(name, _seconds(name, example), error_of))
    return sorted(found, key=lambda one: one.seconds), failed


@lru_cache(maxsize=8)
def _fastest(device: torch.device, dtype: torch.dtype) -> str:
    others = [name for name in installed(device.type == "cuda") if BACK_ENDS[name].package and BACK_ENDS[name].exact]
    working = ["native"]
    for name in others:
        try:
            working.append(choose(name, device, dtype))
        except ZitError:
            continue
    if len(working) == 1:
        return working[0]
    example = _example(device, dtype, 4096)
    return min(working, key=lambda name: _seconds(name, example))


def _example(device: torch.device, dtype: torch.dtype, tokens: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(1, tokens, HEADS, WIDTH, generator=draw).to(device, dtype) for _ in range(3)]


@torch.no_grad()
def _attend(name: str, q_BTND: torch.Tensor, k_BTND: torch.Tensor, v_BTND: torch.Tensor) -> torch.Tensor:
    with attention(name):
        return dispatch_attention_fn(q_BTND, k_BTND, v_BTND)


def _seconds(name: str, example: list[torch.Tensor]) -> float:
    """The shortest of some calls, after one to warm up."""
    taken = []
    for _ in range(_REPEATS + 1):
        begun = time.perf_counter()
        _attend(name, *example)
        if example[0].is_cuda:
            torch.cuda.synchronize(example[0].device)
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])
