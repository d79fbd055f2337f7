"""One call of the Z-Image transformer: noisy latents, noise levels and captions in, velocities out.

diffusers' forward takes lists and cuts, pads and joins every sample by itself. For captions that pad to the same length
the same sum is done here on whole batches with the transformer's own layers.

Shapes: B batch, C latent channels, H W latent pixels, P patch values, T image tokens, L caption tokens, D width.
"""

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF, ZImageTransformer2DModel
from torch.utils.checkpoint import checkpoint

from zit_app.model.omni import predict_seeing

PATCH = 2
PATCH_KEY = f"{PATCH}-1"  # patch size 2, one frame


def padded_length(length: int) -> int:
    """The next multiple of 32: both token runs are padded to it with learned tokens that are attended to."""
    return length + -length % SEQ_MULTI_OF


def predict_velocity(
    transformer: ZImageTransformer2DModel, x_BCHW: torch.Tensor, sigma_B: torch.Tensor, caps: list[torch.Tensor]
) -> torch.Tensor:
    """``v = -transformer(x, 1 - sigma, caption)``, in ``x``'s type. ``caps``: one (L, D) tensor a sample."""
    if transformer.siglip_embedder is not None:  # its pictures stand elsewhere behind the caption
        return predict_seeing(transformer, x_BCHW, sigma_B, caps)
    x = x_BCHW.to(transformer.dtype)
    t_B = (1 - sigma_B).to(x.device)
    caps = [cap.to(x) for cap in caps]
    lengths = [padded_length(len(cap)) for cap in caps]
    if len(set(lengths)) == 1:
        out = _batched(transformer, x, t_B, caps)
    elif torch.is_grad_enabled():
        out = torch.stack(transformer(list(x.unsqueeze(2)), t_B, caps, return_dict=False)[0]).squeeze(2)
    else:  # length by length: no mask then, which the fastest ways to compute attention do not take
        out = torch.empty_like(x)
        for length in set(lengths):
            own = [i for i, other in enumerate(lengths) if other == length]
            out[own] = _batched(transformer, x[own], t_B[own], [caps[i] for i in own])
    return -out.to(x_BCHW.dtype)


def _batched(
    transformer: ZImageTransformer2DModel, x_BCHW: torch.Tensor, t_B: torch.Tensor, caps: list[torch.Tensor]
) -> torch.Tensor:
    """diffusers' ``ZImageTransformer2DModel.forward`` for captions of one padded length; no mask is needed then."""
    height, width = x_BCHW.shape[-2:]
    time_BD = transformer.t_embedder(t_B * transformer.t_scale).type_as(x_BCHW)
    image_freqs, cap_freqs = _rope(transformer, padded_length(len(caps[0])), height, width, x_BCHW.device)

    image = transformer.all_x_embedder[PATCH_KEY](_patchify(x_BCHW))
    count = image.shape[1]
    image = _pad(image, transformer.x_pad_token, padded_length(count))
    image_freqs = image_freqs.expand(len(caps), -1, -1)
    for layer in transformer.noise_refiner:
        image = _run(transformer, layer, image, None, image_freqs, time_BD)

    text = _embed_captions(transformer, caps)
    cap_freqs = cap_freqs.expand(len(caps), -1, -1)
    for layer in transformer.context_refiner:
        text = _run(transformer, layer, text, None, cap_freqs)

    joined, freqs = torch.cat([image, text], 1), torch.cat([image_freqs, cap_freqs], 1)
    for layer in transformer.layers:
        joined = _run(transformer, layer, joined, None, freqs, time_BD)
    tokens = transformer.all_final_layer[PATCH_KEY](joined[:, :count], c=time_BD)
    return _unpatchify(tokens, height, width)


def _run(transformer: ZImageTransformer2DModel, layer: torch.nn.Module, *inputs: torch.Tensor | None) -> torch.Tensor:
    if torch.is_grad_enabled() and transformer.gradient_checkpointing:
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)


def _embed_captions(transformer: ZImageTransformer2DModel, caps: list[torch.Tensor]) -> torch.Tensor:
    """Caption features as tokens, (B, L, D), every caption filled up to the padded length."""
    embedded = transformer.cap_embedder(torch.cat(caps))
    length = padded_length(len(caps[0]))
    rows = [_pad(one[None], transformer.cap_pad_token, length) for one in embedded.split([len(cap) for cap in caps])]
    return torch.cat(rows)


def _pad(tokens_BTD: torch.Tensor, pad_token_1D: torch.Tensor, length: int) -> torch.Tensor:
    """Append the learned pad token up to ``length``."""
    missing = length - tokens_BTD.shape[1]
    pad = pad_token_1D.to(tokens_BTD.dtype).expand(len(tokens_BTD), missing, -1)
    return torch.cat([tokens_BTD, pad], 1)


def _rope(
    transformer: ZImageTransformer2DModel, cap_length: int, height: int, width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary factors (1, T, ·) of the image and (1, L, ·) of the caption.

    Caption token i stands at time 1 + i; the picture's patches at time L + 1 and their row and column; pad tokens of
    the picture at the origin.
    """
    rows, columns = height // PATCH, width // PATCH
    caption = torch.zeros(cap_length, 3, dtype=torch.int32, device=device)
    caption[:, 0] = torch.arange(1, cap_length + 1, device=device)
    grid = transformer.create_coordinate_grid((1, rows, columns), (cap_length + 1, 0, 0), device).flatten(0, 2)
    image = F.pad(grid, (0, 0, 0, padded_length(len(grid)) - len(grid)))
    return transformer.rope_embedder(image)[None], transformer.rope_embedder(caption)[None]


def _patchify(x_BCHW: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) → (B, T, P), values of a patch in the order row, column, channel."""
    batch, channels, height, width = x_BCHW.shape
    x = x_BCHW.view(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, PATCH * PATCH * channels)


def _unpatchify(tokens_BTP: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, T, P) → (B, C, H, W)."""
    batch = len(tokens_BTP)
    x = tokens_BTP.view(batch, height // PATCH, width // PATCH, PATCH, PATCH, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, height, width)
