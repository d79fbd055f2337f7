"""Weights of noise levels in the loss. Shapes: B batch."""

import torch


def min_snr(sigma_B: torch.Tensor, gamma: float) -> torch.Tensor:
    """``w = max(0.1, min(1, gamma / SNR))`` with ``SNR = ((1 - sigma) / sigma)²``, per sample (B,).

    AC-RF report, section 3 (after Hang et al. 2023). ``gamma = 0`` means w = 1 everywhere. Written as
    ``gamma sigma² / (1 - sigma)²``: at sigma = 1 that is infinite and w = 1, where the report's own form is 0/0.
    """
    if gamma == 0:
        return torch.ones_like(sigma_B)
    return (gamma * sigma_B**2 / (1 - sigma_B) ** 2).clamp(0.1, 1.0)
