"""Where and in which numbers this machine computes. Of torch alone: the libraries of models take ten times as long."""

import torch


def default_device() -> torch.device:
    """The graphics card if there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bf16 on a card, fp32 on the processor. Never fp16: it overflows to black pictures."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32
