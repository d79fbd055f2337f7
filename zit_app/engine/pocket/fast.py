"""The pocket transformer as one batched function: the weights and mathematics of ``ZImageTransformer2DModel``,
without its per-picture lists, so that training from scratch keeps two CPU cores busy.

Shapes: B batch, T tokens, D width, H heads, K head width, C latent channels, S latent side, L caption tokens (32).
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

CAPTION_TOKENS = 32  # every caption of the pocket world fits one padding unit
HEAD_WIDTH = 64
AXES = (16, 24, 24)


def new_transformer(dim: int, layers: int, refiners: int, caption_width: int) -> ZImageTransformer2DModel:
    """The true class at pocket size; embedders start small and pad tokens random, gates open a little."""
    model = ZImageTransformer2DModel(
        dim=dim,
        n_layers=layers,
        n_refiner_layers=refiners,
        n_heads=dim // HEAD_WIDTH,
        n_kv_heads=dim // HEAD_WIDTH,
        cap_feat_dim=caption_width,
        axes_dims=list(AXES),
        axes_lens=[1024, 64, 64],
    )
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "pad_token" not in name:
            torch.nn.init.xavier_uniform_(parameter)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
        elif "pad_token" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    for block in (*model.layers, *model.noise_refiner):
        torch.nn.init.normal_(block.adaLN_modulation[0].weight, std=0.02)
        with torch.no_grad():  # scale, gate, scale, gate: gates start at tanh(0.5) so that depth is used at once
            gates = block.adaLN_modulation[0].bias.view(4, -1)
            gates[1].fill_(0.5)
            gates[3].fill_(0.5)
    final = model.all_final_layer["2-1"]
    torch.nn.init.zeros_(final.linear.weight)
    torch.nn.init.zeros_(final.adaLN_modulation[1].weight)
    return model


def rope_tables(model: ZImageTransformer2DModel, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(cos, sin), each (T, 1, K/2), for image tokens first and caption tokens after, as the pipeline orders them."""
    image = torch.stack(
        torch.meshgrid(torch.tensor([CAPTION_TOKENS + 1]), torch.arange(side), torch.arange(side), indexing="ij"), -1
    ).reshape(-1, 3)
    caption = torch.zeros(CAPTION_TOKENS, 3, dtype=torch.long)
    caption[:, 0] = torch.arange(1, CAPTION_TOKENS + 1)
    table = model.rope_embedder(torch.cat([image, caption]).int())
    return table.real[:, None].contiguous(), table.imag[:, None].contiguous()


def rotate(x_BTHK: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding in real arithmetic: neighbouring pairs are the complex numbers of the original."""
    even, odd = x_BTHK[..., 0::2], x_BTHK[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)


def attend(q_BHTK: torch.Tensor, k_BHTK: torch.Tensor, v_BHTK: torch.Tensor) -> torch.Tensor:
    """Softmax attention written out: at 96 tokens this trains 1.25x faster on a CPU than the fused kernel."""
    weights = (q_BHTK @ k_BHTK.transpose(-1, -2)).float() * q_BHTK.shape[-1] ** -0.5
    return torch.softmax(weights, -1).to(v_BHTK.dtype) @ v_BHTK


def block(
    layer: Any, x_BTD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, c_BD: torch.Tensor | None
) -> torch.Tensor:
    """One ZImageTransformerBlock (sandwich norms, tanh gates, SwiGLU), batched and without a mask."""
    attention, ffn = layer.attention, layer.feed_forward
    B, T, D = x_BTD.shape
    heads = attention.heads
    if c_BD is not None:
        scale_a, gate_a, scale_f, gate_f = layer.adaLN_modulation(c_BD).unsqueeze(1).chunk(4, dim=2)
    h = rms(x_BTD, layer.attention_norm1.weight, 1e-5)
    if c_BD is not None:
        h = h * (1 + scale_a)
    q, k, v = (proj(h).view(B, T, heads, -1) for proj in (attention.to_q, attention.to_k, attention.to_v))
    q = rotate(rms(q, attention.norm_q.weight, 1e-5), cos, sin).to(v.dtype)
    k = rotate(rms(k, attention.norm_k.weight, 1e-5), cos, sin).to(v.dtype)
    mixed = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    h = rms(attention.to_out[0](mixed.transpose(1, 2).reshape(B, T, D)), layer.attention_norm2.weight, 1e-5)
    x_BTD = x_BTD + (h if c_BD is None else gate_a.tanh() * h)
    h = rms(x_BTD, layer.ffn_norm1.weight, 1e-5)
    if c_BD is not None:
        h = h * (1 + scale_f)
    h = rms(ffn.w2(F.silu(ffn.w1(h)) * ffn.w3(h)), layer.ffn_norm2.weight, 1e-5)
    return x_BTD + (h if c_BD is None else gate_f.tanh() * h)


def batched_velocity(
    model: ZImageTransformer2DModel,
    x_BCSS: torch.Tensor,
    sigma_B: torch.Tensor,
    caption_BLD: torch.Tensor,
    real_BL: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Velocity ``v = noise - x0`` (minus the network's output), fp32. ``real_BL`` marks real caption tokens."""
    cos, sin = (t.to(x_BCSS.dtype) for t in tables)
    B, C, S, _ = x_BCSS.shape
    side = S // 2
    image = side * side
    c_BD = model.t_embedder.mlp(model.t_embedder.timestep_embedding((1 - sigma_B) * model.t_scale, 256))
    patches = x_BCSS.view(B, C, side, 2, side, 2).permute(0, 2, 4, 3, 5, 1).reshape(B, image, 4 * C)
    x = model.all_x_embedder["2-1"](patches)
    for layer in model.noise_refiner:
        x = block(layer, x, cos[:image], sin[:image], c_BD)
    norm: Any
    norm, linear = model.cap_embedder
    y = linear(rms(caption_BLD, norm.weight, 1e-5))
    y = torch.where(real_BL.unsqueeze(-1), y, model.cap_pad_token.to(y.dtype))
    for layer in model.context_refiner:
        y = block(layer, y, cos[image:], sin[image:], None)
    x = torch.cat([x, y.to(x.dtype)], 1)
    for layer in model.layers:
        x = block(layer, x, cos, sin, c_BD)
    final: Any = model.all_final_layer["2-1"]
    scale = 1 + final.adaLN_modulation(c_BD)
    x = final.linear(F.layer_norm(x[:, :image], (x.shape[-1],), eps=1e-6) * scale.unsqueeze(1))
    v = x.view(B, side, side, 2, 2, C).permute(0, 5, 1, 3, 2, 4).reshape(B, C, S, S)
    return -v.float()
