"""Drawing many pictures for scores, through the product's own path (model package), in batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from zit_app.core.models import find_model, read_flavour
from zit_app.flow.schedule import nodes
from zit_app.model.adapter_files import read_adapter
from zit_app.model.adapter_stack import apply_adapters
from zit_app.model.device import in_half
from zit_app.model.draw import draw_latents
from zit_app.model.latents import decode_latents
from zit_app.model.loading import load_text_encoder, load_transformer, load_vae
from zit_app.model.text import encode_prompts

BATCH = 40


@dataclass
class Painter:
    """A model in memory; ``half`` computes in bf16 where the processor has it, five times faster."""

    model: str | Path
    half: bool = True

    def __post_init__(self) -> None:
        folder, device = find_model(self.model), torch.device("cpu")
        self.flavour = read_flavour(folder)
        self.transformer = load_transformer(folder, device, torch.float32)
        self.vae = load_vae(folder, device, torch.float32)
        self.text = load_text_encoder(folder, device, torch.float32)

    @torch.no_grad()
    def paint(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: float | None = None,
        adapter: Path | None = None,
    ) -> list[Image.Image]:
        """One picture a prompt and seed; steps and guidance default to the flavour's."""
        steps = self.flavour.steps if steps is None else steps
        guidance = self.flavour.guidance if guidance is None else guidance
        size = (self.flavour.pixels, self.flavour.pixels)
        stack = apply_adapters(self.transformer, [(read_adapter(adapter), 1.0, 1, steps)]) if adapter else None
        pictures = []
        for i in range(0, len(prompts), BATCH):
            chosen = list(prompts[i : i + BATCH])
            caps = encode_prompts(*self.text, chosen)
            empty = encode_prompts(*self.text, [""]) * len(chosen)
            with in_half("cpu", self.half):
                latents = draw_latents(
                    self.transformer, caps, empty, list(seeds[i : i + BATCH]), size,
                    nodes(steps, self.flavour.shift), guidance, adapters=stack,
                )  # fmt: skip
            pictures += [Image.fromarray(p) for p in decode_latents(self.vae, latents).numpy()]
        if stack:
            stack.remove()
        return pictures
