"""From captions and seeds to latents: the denoising loop, the same as diffusers' ZImagePipeline.

Shapes: B batch, C latent channels, H W latent pixels.
"""

from collections.abc import Sequence

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

from zit_app.flow.schedule import noisy
from zit_app.flow.solvers import Solver, StepCallback, VelocityFn, euler
from zit_app.model.adapter_stack import AdapterStack
from zit_app.model.forward import predict_velocity
from zit_app.model.omni import Predict

PIXELS_PER_LATENT = 8


def noise_for(seeds: Sequence[int], channels: int, size: tuple[int, int]) -> torch.Tensor:
    """Starting noise (B, C, H, W) of pictures of ``size`` (width, height) in pixels, float32 on the CPU.

    Every picture has a generator of its own, so it comes out the same alone, in any batch and on any machine.
    """
    shape = (1, channels, size[1] // PIXELS_PER_LATENT, size[0] // PIXELS_PER_LATENT)
    return torch.cat([torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds])


def starting_point(
    seeds: Sequence[int],
    channels: int,
    size: tuple[int, int],
    sigmas: torch.Tensor,
    picture: torch.Tensor | None = None,
) -> torch.Tensor:
    """What is denoised (B, C, H, W): noise, or latents of one or B pictures with the noise of the first node."""
    noise_BCHW = noise_for(seeds, channels, size)
    if picture is None:
        return noise_BCHW
    clean_BCHW = picture.float().cpu().expand_as(noise_BCHW)
    return noisy(clean_BCHW, noise_BCHW, sigmas[:1].expand(len(noise_BCHW)))


@torch.no_grad()
def draw_latents(
    transformer: ZImageTransformer2DModel,
    caps: Sequence[torch.Tensor],
    neg_caps: Sequence[torch.Tensor],
    seeds: Sequence[int],
    size: tuple[int, int],
    sigmas: torch.Tensor,
    guidance: float = 0.0,
    callback: StepCallback | None = None,
    adapters: AdapterStack | None = None,
    solver: Solver = euler,
    picture: torch.Tensor | None = None,
    mask_1HW: torch.Tensor | None = None,
    predict: Predict = predict_velocity,
) -> torch.Tensor:
    """Normalised latents (B, C, H, W), float32, one picture a caption and seed.

    ``size`` is (width, height) in pixels, ``sigmas`` the nodes without the closing 0. ``guidance`` above 0 adds a
    second forward with ``neg_caps``: ``v = pos + guidance (pos - neg)``. ``callback(i, x)`` sees x after each step
    and stops the run by returning true. With ``picture`` (normalised latents, of one or of B pictures) its noisy
    version is where it begins; where ``mask`` is 0 it stays as it is, where it is 1 it is redrawn.
    ``predict`` is `omni.looking_at` when there are pictures to look at.
    """
    device = transformer.device
    x_BCHW = starting_point(seeds, transformer.in_channels, size, sigmas, picture).to(device)
    guided = guidance > 0
    captions = [cap.to(device) for cap in (*caps, *(neg_caps if guided else ()))]

    def velocity(x_BCHW: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
        if adapters is not None:
            adapters.set_step(step)
        x = torch.cat([x_BCHW, x_BCHW]) if guided else x_BCHW
        v = predict(transformer, x, sigma.expand(len(x)), captions)
        if not guided:
            return v
        positive, negative = v.chunk(2)
        return positive + guidance * (positive - negative)

    if picture is None or mask_1HW is None:
        return solver(velocity, x_BCHW, sigmas, callback)
    straight_BCHW = noise_for(seeds, transformer.in_channels, size) - picture.float().cpu()
    return solver(_within(mask_1HW.to(device), velocity, straight_BCHW.to(device)), x_BCHW, sigmas, callback)


def _within(mask_1HW: torch.Tensor, velocity: VelocityFn, straight_BCHW: torch.Tensor) -> VelocityFn:
    """The velocity inside a mask; outside that of the straight way to the picture, which every solver keeps exactly."""
    kept_BCHW = (1 - mask_1HW) * straight_BCHW
    return lambda x_BCHW, sigma, step: mask_1HW * velocity(x_BCHW, sigma, step) + kept_BCHW
