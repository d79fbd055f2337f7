"""Style and structure apart, on latents (AC-RF guide, section 2.3): which channels act together, and what lies where.

Shapes: B batch, C channels, H W latent pixels, P cells.
"""

import torch
import torch.nn.functional as F

from zit_app.flow.losses import per_sample


def gram(x_BCHW: torch.Tensor) -> torch.Tensor:
    """``G = x xᵀ / (H W)`` over the pixels, (B, C, C): style without place (Gatys et al. 2016)."""
    flat_BCP = x_BCHW.flatten(2)
    return flat_BCP @ flat_BCP.transpose(1, 2) / flat_BCP.shape[2]


def gram_distance(a_BCHW: torch.Tensor, b_BCHW: torch.Tensor) -> torch.Tensor:
    """``mean |G(a) - G(b)|``, (B,). L1: entries are squares already."""
    return per_sample((gram(a_BCHW) - gram(b_BCHW)).abs())


def self_similarity(x_BCHW: torch.Tensor, pool: int = 4) -> torch.Tensor:
    """Cosine between the channels of any two cells of ``pool`` pixels, each less the mean of all, (B, P, P).

    What is alike stays alike, whatever it looks like: structure without style (Shechtman & Irani 2007).
    """
    cells_BCP = F.avg_pool2d(x_BCHW, pool, ceil_mode=True, count_include_pad=False).flatten(2)
    direction_BCP = F.normalize(cells_BCP - cells_BCP.mean(2, keepdim=True), dim=1, eps=1e-6)
    return direction_BCP.transpose(1, 2) @ direction_BCP


def structure_distance(a_BCHW: torch.Tensor, b_BCHW: torch.Tensor, pool: int = 4) -> torch.Tensor:
    """``mean |S(a) - S(b)|`` of the self-similarities, (B,)."""
    return per_sample((self_similarity(a_BCHW, pool) - self_similarity(b_BCHW, pool)).abs())
