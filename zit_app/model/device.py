"""Where and in which numbers this machine computes. Of torch alone: the libraries of models take ten times as long."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

# Of glibc's mallopt: from which size memory is the system's own, and how much of what is free is kept.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_OWN, _KEPT, _USUAL = 32 << 20, 512 << 20, 64 << 20  # bytes; the first and the last are where glibc's own rule ends


def default_device() -> torch.device:
    """The graphics card if there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bf16 on a card, fp32 on the processor. Never fp16: it overflows to black pictures."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def multiplies_in_bf16(device: str) -> bool:
    """Whether bf16 is quicker there than fp32, which takes a quarter of its time on a processor without it."""
    known = torch.cpu.get_capabilities()  # the last name is ARM's
    return device != "cpu" or any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def in_half(device: str, wanted: bool = True) -> torch.autocast:
    """bf16 for what may be inexact, where it is quicker."""
    return torch.autocast(device, torch.bfloat16, enabled=wanted and multiplies_in_bf16(device))


@contextmanager
def keeping_memory(device: torch.device) -> Iterator[None]:
    """On a processor, let the tensors of one layer have the memory of the layer before; half a gigabyte is kept.

    Else glibc returns it to the system after each layer and gets it back page by page, cleared: a fifth of the time of
    the embedded VAE. Other C libraries are left as they are.
    """
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _OWN)
    library.mallopt(_TRIM_THRESHOLD, _KEPT)
    try:
        yield
    finally:
        library.mallopt(_TRIM_THRESHOLD, _USUAL)
        library.malloc_trim(0)


@lru_cache(maxsize=1)
def _glibc() -> Any:
    try:
        library = ctypes.CDLL("libc.so.6")
        return library if hasattr(library, "gnu_get_libc_version") else None
    except OSError:
        return None
