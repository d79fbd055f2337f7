"""Whether pictures still show what their prompts say, asked of the untrained model itself.

A model that draws from a caption also knows which of several captions explains a picture best: the one with which it
tells the noise best (Li et al. 2023, "Your Diffusion Model is Secretly a Zero-Shot Classifier"). So no further network
is needed, and the answer is there for every model. Of the pocket model's own pictures it recognises 23 of 24 among 24
prompts at this noise level.

M prompts, C latent channels, H and W latent pixels.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from torch import Tensor

from zit_app.flow.losses import mse
from zit_app.flow.schedule import noisy, velocity
from zit_app.model.forward import predict_velocity

SIGMA = 0.75  # high enough that a picture's details are gone, low enough that its thing is there
SEED = 4000
TOGETHER, PIXELS = 4, 128 * 128  # rows, latent pixels

Item = TypeVar("Item")


def in_groups(rows: Sequence[Item], x_CHW: Tensor) -> Iterator[list[Item]]:
    """Rows as they go through the model together, without gradients: a picture of 1024² alone, small ones in fours."""
    size = max(1, min(TOGETHER, PIXELS // (x_CHW.shape[-1] * x_CHW.shape[-2])))
    return (list(rows[at : at + size]) for at in range(0, len(rows), size))


@torch.no_grad()
def recognised(transformer: ZImageTransformer2DModel, x0_MCHW: Tensor, caps: Sequence[Tensor]) -> float:
    """The share of clean latents whose own prompt (the one of the same number) explains them best among all M."""
    right, device = 0, transformer.device
    own_caps = [cap.to(device) for cap in caps]
    for number, x0_CHW in enumerate(x0_MCHW):
        noise_CHW = torch.randn(x0_CHW.shape, generator=torch.Generator().manual_seed(SEED + number))
        x0, noise = x0_CHW[None].to(device), noise_CHW[None].to(device)
        losses: list[Tensor] = []
        for some in in_groups(own_caps, x0_CHW):
            sigma = torch.full((len(some),), SIGMA, device=device)
            x = noisy(x0, noise, sigma[:1]).expand(len(some), -1, -1, -1)
            losses.append(mse(predict_velocity(transformer, x, sigma, some), velocity(x0, noise)))
        right += int(torch.cat(losses).argmin()) == number
    return right / len(x0_MCHW)
