"""What a training stands on from its first step to its last.

B batch, C latent channels, H and W latent pixels, L tokens, D caption width, N nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from zit_app.core.train_settings import TrainSettings
from zit_app.data.formats import Size
from zit_app.engine.batches import DataOrder
from zit_app.engine.cache import Cache, Sample
from zit_app.engine.frozen import Frozen
from zit_app.engine.originals import Masks
from zit_app.engine.ways import Ways
from zit_app.model.latents import normalise


@dataclass(frozen=True)
class Preview:
    """What a preview is drawn from."""

    text: str  # fingerprint of the prompt's features in the cache
    negative: str  # that of what a guided model draws away from
    size: Size  # width, height in pixels
    seed: int
    steps: int = 0  # 0 = the training's nodes, for a guided model its own


@dataclass(frozen=True)
class Work:
    """What stays the same from the first step to the last."""

    settings: TrainSettings
    model: Path
    cache: Cache  # its samples are those to train on
    held: tuple[Sample, ...]  # kept aside to measure on
    frozen: Frozen | None  # the model to be used, untrained, on unrelated prompts: what its health is measured against
    held_to: Frozen | None  # the model that is trained, untrained, on them: for the tether and the replay
    ways: Ways | None  # the untrained model's to the pictures, where it learns on them
    previews: tuple[Preview, ...]
    masks: Masks | None
    lab: Tensor | None  # fitted map from latents to Lab
    vae: AutoencoderKL  # without weights: its configuration scales the latents
    order: DataOrder
    steps: int  # optimizer steps in all
    batches: int  # batches in all
    accelerator: Accelerator
    nodes_N: Tensor
    metadata: dict[str, str]  # of the adapter file
    inputs: str  # digest of what is learnt from, and the batch size: a resume with others is another run

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the computation and of the frozen weights; those of the adapter are fp32 always."""
        return compute_dtype(self.accelerator)

    @property
    def health_every(self) -> int:
        """Optimizer steps between two looks at the training's health, at least four in all; above all steps = none."""
        every = self.settings.training.health_every
        return min(every, max(1, self.steps // 4)) if every else self.steps + 1

    def load(self, samples: Sequence[Sample], dropped: Sequence[bool]) -> tuple[Tensor, list[Tensor]]:
        """Normalised latents (B, C, H, W) and captions, (L, D) each; a dropped caption is the empty prompt's."""
        mean_BCHW = torch.stack([self.cache.mean(sample) for sample in samples]).to(self.device)
        prints = [self.cache.empty_text if gone else sample.text for sample, gone in zip(samples, dropped, strict=True)]
        return normalise(self.vae, mean_BCHW), [self.cache.features(one).to(self.device) for one in prints]


def compute_dtype(accelerator: Accelerator) -> torch.dtype:
    """bf16 where accelerate computes in mixed precision, else fp32."""
    return torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
