"""Z-Image Omni: drawing with pictures that the prompt speaks of, as diffusers' ZImageOmniPipeline does.

A prompt with n pictures is n + 2 segments of text, each read by itself; a picture stands between two of them, once as
latents and once as what SigLIP sees. Without pictures there is one segment, the prompt in its template. Tokens of the
pictures are clean (time 1), those of the last segments and of what is drawn are noisy.

Shapes: B batch, C latent channels, H W latent pixels, L caption tokens, D width, R S rows and columns of SigLIP's
patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF, ZImageTransformer2DModel
from PIL import Image

Predict = Callable[[ZImageTransformer2DModel, torch.Tensor, torch.Tensor, list[torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class Reference:
    """A picture that the prompt speaks of: normalised latents, and SigLIP's features of its patches."""

    latents_CHW: torch.Tensor
    sight_RSD: torch.Tensor


def segments(prompt: str, count: int) -> list[str]:
    """The texts of a prompt that speaks of ``count`` pictures, one at least, in the form that Omni was trained with."""
    return [
        "<|im_start|>user\n<|vision_start|>",
        *["<|vision_end|><|vision_start|>"] * (count - 1),
        f"<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n<|vision_start|>",
        "<|vision_end|><|im_end|>",
    ]


@torch.no_grad()
def see(processor: Any, siglip: Any, picture: Image.Image) -> torch.Tensor:
    """SigLIP's features (R, S, D) of a picture, which it divides into patches in the picture's own shape."""
    given = processor(images=[picture], return_tensors="pt").to(siglip.device)
    rows, columns = given["spatial_shapes"][0].tolist()
    found: torch.Tensor = siglip(**given).last_hidden_state[0, : rows * columns]
    return found.view(rows, columns, -1)


def looking_at(references: Sequence[Reference], lengths: Sequence[Sequence[int]]) -> Predict:
    """`predict_velocity` for captions that are segments one after the other, as long as ``lengths`` says for each."""
    return partial(predict_seeing, references=references, lengths=lengths)


def predict_seeing(
    transformer: ZImageTransformer2DModel,
    x_BCHW: torch.Tensor,
    sigma_B: torch.Tensor,
    caps: list[torch.Tensor],
    references: Sequence[Reference] = (),
    lengths: Sequence[Sequence[int]] = (),
) -> torch.Tensor:
    """``v = -transformer(x, 1 - sigma, caption, pictures)`` of an Omni, in ``x``'s type.

    ``caps``: one (L, D) tensor a sample, its segments one after the other; ``lengths`` their tokens, one segment when
    it is empty.
    """
    x = x_BCHW.to(transformer.dtype)
    t_B = (1 - sigma_B).to(x.device)
    lengths = lengths or [[len(cap)] for cap in caps]
    parts = [cap.to(x).split(list(own)) for cap, own in zip(caps, lengths, strict=True)]
    clean = [reference.latents_CHW.to(x).unsqueeze(1) for reference in references]
    sights = [*(reference.sight_RSD.to(x) for reference in references), None] if references else None
    mask = [0] * len(references) + [1]

    def asked(own: Sequence[int]) -> torch.Tensor:
        """The samples of these rows, whose captions pad to the same length: no mask is needed then."""
        found = transformer(
            x=[[*clean, x[i].unsqueeze(1)] for i in own],
            t=t_B[list(own)],
            cap_feats=[parts[i] for i in own],
            siglip_feats=[sights] * len(own),
            image_noise_mask=[mask] * len(own),
            return_dict=False,
        )[0]
        return torch.stack(found).squeeze(2)

    padded = [sum(len(part) + -len(part) % SEQ_MULTI_OF for part in own) for own in parts]
    out = torch.empty_like(x)
    for length in dict.fromkeys(padded):
        own = [i for i, other in enumerate(padded) if other == length]
        out[own] = asked(own)
    return -out.to(x_BCHW.dtype)
