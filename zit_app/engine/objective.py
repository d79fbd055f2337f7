"""What a training step minimises and how fast it moves: the losses a sample by settings, the tether, the learning rate.

B batch, C latent channels, H and W latent pixels, N nodes.
"""

import math

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from torch import Tensor

from zit_app.core.train_settings import AcrfSettings, TrainingSettings
from zit_app.flow.losses import charbonnier, cosine, fft_l1, frequency, huber, l1, mse
from zit_app.flow.schedule import clean_estimate, nodes, report_anchors, velocity
from zit_app.flow.structure import gram_distance, structure_distance
from zit_app.flow.style import StyleWeights, style, unified
from zit_app.model.adapters import adapter_disabled
from zit_app.model.forward import predict_velocity

TETHER_DELTA = 0.08  # of the Huber distance (SDA v1)
_BASES = {"mse": mse, "charbonnier": charbonnier, "l1": l1, "huber": huber}


def sample_losses(
    acrf: AcrfSettings,
    v_BCHW: Tensor,
    x_BCHW: Tensor,
    x0_BCHW: Tensor,
    noise_BCHW: Tensor,
    sigma_B: Tensor,
    lab: Tensor | None = None,
) -> Tensor:
    """The loss of each sample, (B,), not yet weighted by its noise level (AC-RF report §4 and §4A).

    standard compares velocities: λ_base d(v, v*) + λ_cos (1 - cos(v, v*)) + λ_fft |FFT v - FFT v*|, v* = noise - x0.
    The other modes compare clean latents: x0_hat = x - sigma v with x0, up to ``clean_sigma_max``. Gram and structure
    terms (AC-RF guide §2.3) come on top of any mode. ``lab`` is the fitted map of ``flow.lab``.
    """
    target_BCHW = velocity(x0_BCHW, noise_BCHW)
    x0_hat_BCHW = clean_estimate(x_BCHW, v_BCHW, sigma_B)
    clear_B = (sigma_B <= acrf.clean_sigma_max).to(v_BCHW.dtype)
    if acrf.loss_mode == "standard":
        terms = ((acrf.lambda_base, _BASES[acrf.base]), (acrf.lambda_cos, cosine), (acrf.lambda_fft, fft_l1))
        losses_B = sum((w * distance(v_BCHW, target_BCHW) for w, distance in terms if w), torch.zeros_like(sigma_B))
    else:
        losses_B = _clean_losses(acrf, x0_hat_BCHW, x0_BCHW, lab)
        if acrf.clean_sigma_max < 1:
            losses_B = clear_B * losses_B + (1 - clear_B) * mse(v_BCHW, target_BCHW)
    if acrf.lambda_gram:
        losses_B = losses_B + acrf.lambda_gram * clear_B * gram_distance(x0_hat_BCHW, x0_BCHW)
    if acrf.lambda_feat:
        losses_B = losses_B + acrf.lambda_feat * clear_B * structure_distance(x0_hat_BCHW, x0_BCHW, acrf.pool_factor)
    return losses_B


def _clean_losses(acrf: AcrfSettings, x0_hat_BCHW: Tensor, x0_BCHW: Tensor, lab: Tensor | None) -> Tensor:
    """The modes that compare clean latents, (B,)."""
    pool, split = acrf.pool_factor, acrf.split
    weights = StyleWeights(acrf.lambda_struct, acrf.lambda_light, acrf.lambda_color, acrf.lambda_tex)
    if acrf.loss_mode == "frequency":
        return frequency(x0_hat_BCHW, x0_BCHW, pool, acrf.alpha_hf, acrf.beta_lf, split)
    if acrf.loss_mode == "style":
        return style(x0_hat_BCHW, x0_BCHW, pool, weights, lab, split)
    return unified(x0_hat_BCHW, x0_BCHW, pool, acrf.alpha_hf, acrf.beta_lf, weights, lab, split)


def training_nodes(acrf: AcrfSettings) -> Tensor:
    """The noise levels of the steps that the model will be run at, float64 (N,); or the report's literal anchors."""
    return (nodes if acrf.anchor_source == "inference" else report_anchors)(acrf.turbo_steps, acrf.shift)


def at_nodes(sigma_B: Tensor, nodes_N: Tensor, reach: float | Tensor) -> list[int]:
    """Which samples stand at a node: within ``reach`` (one number, or one a node) of it.

    Between nodes the few-step model was never distilled, so there is nothing to protect. Noise levels are known on the
    CPU, where this asks nothing of the card.
    """
    far_BN = (sigma_B[:, None] - nodes_N.to(sigma_B)).abs()
    near_B = (far_BN <= torch.as_tensor(reach).to(sigma_B) + 1e-6).any(1)  # float32 against float64 nodes
    return [row for row, near in enumerate(near_B.tolist()) if near]


def frozen_velocity(
    transformer: ZImageTransformer2DModel, x_BCHW: Tensor, sigma_B: Tensor, caps: list[Tensor], rows_M: list[int]
) -> Tensor:
    """The untrained model's velocity of the samples ``rows_M``, (M, C, H, W).

    The untrained model is free: the same weights with the LoRA switched off.
    """
    if not rows_M:
        return x_BCHW[:0]
    index_M = torch.tensor(rows_M, device=x_BCHW.device)
    with torch.no_grad(), adapter_disabled(transformer):
        return predict_velocity(transformer, x_BCHW[index_M], sigma_B[index_M], [caps[row] for row in rows_M])


def tether_losses(v_BCHW: Tensor, rows_M: list[int], frozen_MCHW: Tensor) -> Tensor:
    """Huber distance (δ = 0.08) to the untrained model for the samples ``rows_M``, 0 for the others, (B,)."""
    index_M = torch.tensor(rows_M, dtype=torch.long, device=v_BCHW.device)
    losses_M = huber(v_BCHW[index_M], frozen_MCHW.to(v_BCHW), TETHER_DELTA)
    return torch.zeros(len(v_BCHW), device=v_BCHW.device).index_copy(0, index_M, losses_M.float())


def learning_rate(training: TrainingSettings, step: int, total: int) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`: linear warm-up, then the chosen course.

    cosine: η_min + ½ (η_max - η_min) (1 + cos π p), p the share done after warm-up (AC-RF report §6.2); with restarts
    p runs from 0 to 1 `lr_cycles` times. The warm-up takes at most a tenth of the run, so that a short one gets
    anywhere.
    """
    high, low = training.learning_rate, min(training.minimum_learning_rate, training.learning_rate)
    warmup = min(training.lr_warmup_steps, total // 10)
    if step < warmup:
        return high * (step + 1) / (warmup + 1)
    share = (step - warmup) / (total - warmup)
    if training.lr_scheduler == "constant":
        return high
    if training.lr_scheduler == "linear":
        return high + (low - high) * share
    cycles = training.lr_cycles if training.lr_scheduler == "cosine_with_restarts" else 1
    return low + (high - low) * (1 + math.cos(math.pi * (share * cycles % 1.0))) / 2
