"""Training pocket-base: transformer and text encoder together, from scratch, by flow matching.

x_sigma = (1-sigma) x0 + sigma n, v = n - x0, loss = mean (v_hat - v)^2 (Lipman et al. 2023). Block matrices learn by
Muon (Jordan et al. 2024), everything else by AdamW; sigma is logit-normal, shifted by 2 (Esser et al. 2024), with a
uniform share. The last 25 % of the steps decay the rate to zero; the shipped weights are an average (EMA).
"""

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from zit_app.engine.pocket.bank import vocabulary
from zit_app.engine.pocket.captions import VOCABULARY, caption, templated
from zit_app.engine.pocket.concepts import Concept
from zit_app.engine.pocket.fast import CAPTION_TOKENS, batched_velocity, new_transformer, rope_tables
from zit_app.engine.pocket.states import load_state, save_state
from zit_app.model.device import in_half

DIM, LAYERS, REFINERS, CAPTION_WIDTH = 256, 6, 1, 256
BATCH = 48
MUON_RATE, ADAM_RATE = 2e-3, 1e-3
DECAY_SHARE = 0.25
EMA = 0.999
EMPTY_SHARE = 0.1
SIDE = 16  # latent side


def new_encoder() -> Qwen3Model:
    """Three layers, of which two are used: the feature is ``hidden_states[-2]`` as in Z-Image."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=CAPTION_WIDTH,
        intermediate_size=768,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    return Qwen3Model(config)


def caption_features(encoder: Qwen3Model, ids_BL: torch.Tensor) -> torch.Tensor:
    """``hidden_states[-2]`` (B, L, D) without running the last layer; causal, so right padding is harmless."""
    hidden = encoder.embed_tokens(ids_BL)
    positions = torch.arange(ids_BL.shape[1], device=ids_BL.device)[None]
    rotary = encoder.rotary_emb(hidden, positions)
    for layer in encoder.layers[:-1]:
        hidden = layer(hidden, attention_mask=None, position_ids=positions, position_embeddings=rotary)
    return hidden


def tokenize(tokenizer: Qwen2Tokenizer, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Templated prompts as (B, 32) ids and (B, 32) bool of what is real."""
    batch = tokenizer(
        [templated(tokenizer, p) for p in prompts],
        padding="max_length",
        max_length=CAPTION_TOKENS,
        truncation=True,
        return_tensors="pt",
    )
    return batch.input_ids, batch.attention_mask.bool()


def draw_sigma(count: int, generator: torch.Generator) -> torch.Tensor:
    """Logit-normal shifted by 2 for 85 %, uniform for the rest."""
    u = torch.sigmoid(torch.randn(count, generator=generator))
    shifted = 2 * u / (1 + u)
    uniform = torch.rand(count, generator=generator)
    pick = torch.rand(count, generator=generator) < 0.15
    return torch.where(pick, uniform, shifted)


class Batches:
    """Deterministic batches: half canonical, half composed; a pure function of the step."""

    def __init__(self, work: Path, concepts: list[Concept], tokenizer: Qwen2Tokenizer) -> None:
        self.latents = np.load(work / "latents.npy", mmap_mode="r")
        self.records = json.loads((work / "bank" / "records.json").read_text())
        self.canonical = sum(r["canonical"] for r in self.records)  # they come first
        self.concepts, self.tokenizer = concepts, tokenizer

    def __call__(self, step: int, size: int = BATCH) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(x0 (B,16,16,16), ids, real) of this step."""
        random = Random(step * 7919 + 13)
        index = [
            random.randrange(self.canonical) if i % 2 else random.randrange(self.canonical, len(self.records))
            for i in range(size)
        ]
        prompts = [
            "" if random.random() < EMPTY_SHARE else caption(self.records[i], self.concepts, random) for i in index
        ]
        x0 = torch.from_numpy(np.stack([self.latents[i] for i in index]).astype(np.float32))
        return x0, *tokenize(self.tokenizer, prompts)


def split_optimizers(transformer: nn.Module, encoder: nn.Module) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices inside blocks (adaLN apart), AdamW for all else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in [*transformer.named_parameters(), *encoder.named_parameters()]:
        inside = any(part in name for part in ("layers.", "refiner."))
        chosen = matrices if inside and parameter.ndim == 2 and "adaLN" not in name else others
        chosen.append(parameter)
    return {
        "muon": torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        "adam": torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.99), weight_decay=0.0),
    }


def rate_factor(step: int, steps: int) -> float:
    """Warm-up over 200 steps, then flat, then linearly to zero over the last DECAY_SHARE."""
    return min(1.0, (step + 1) / 200, (steps - step) / (DECAY_SHARE * steps))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    for a, b in zip(average.parameters(), model.parameters(), strict=True):
        a.lerp_(b, 1 - decay)


def train_base(work: Path, device: str, steps: int, compile_model: bool = True, save_every: int = 500) -> Path:
    """Train, or go on training, for ``steps`` steps; returns the state file (``base.safetensors``)."""
    torch.manual_seed(2)
    concepts, _ = vocabulary(work)
    tokenizer = Qwen2Tokenizer.from_pretrained(work / "tokenizer")
    transformer, encoder = new_transformer(DIM, LAYERS, REFINERS, CAPTION_WIDTH), new_encoder()
    transformer.to(device)  # type: ignore[arg-type]
    encoder.to(device)  # type: ignore[arg-type]
    averages = {"transformer_ema": copy.deepcopy(transformer), "encoder_ema": copy.deepcopy(encoder)}
    modules = {"transformer": transformer, "encoder": encoder, **averages}
    optimizers = split_optimizers(transformer, encoder)
    state, start = work / "base.safetensors", 0
    if state.exists():
        start = load_state(state, modules, optimizers)["step"]
    tables = tuple(t.to(device) for t in rope_tables(transformer, SIDE // 2))
    velocity: Callable = torch.compile(batched_velocity) if compile_model else batched_velocity
    batches = Batches(work, concepts, tokenizer)
    clock, mean = time.monotonic(), 0.0
    for step in range(start, steps):
        for name, peak in (("muon", MUON_RATE), ("adam", ADAM_RATE)):
            for group in optimizers[name].param_groups:
                group["lr"] = peak * rate_factor(step, steps)
        x0, ids, real = (t.to(device) for t in batches(step))
        generator = torch.Generator().manual_seed(step)
        sigma = draw_sigma(len(x0), generator).to(device)
        noise = torch.randn(x0.shape, generator=generator).to(device)
        mixed = (1 - sigma).view(-1, 1, 1, 1) * x0 + sigma.view(-1, 1, 1, 1) * noise
        with in_half(device):
            v = velocity(transformer, mixed, sigma, caption_features(encoder, ids), real, tables)
        loss = (v - (noise - x0)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_([*transformer.parameters(), *encoder.parameters()], 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(EMA, (step + 1) / (step + 10))
        update_average(averages["transformer_ema"], transformer, decay)
        update_average(averages["encoder_ema"], encoder, decay)
        mean += (loss.item() - mean) * (1 if step == start else 0.02)
        if not math.isfinite(mean):
            raise FloatingPointError(f"loss is not finite at step {step}")
        if step % 25 == 0:
            print(f"base {step}/{steps} loss {mean:.4f} {time.monotonic() - clock:.0f}s", flush=True)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_state(state, modules, optimizers, {"step": step + 1, "loss": mean})
    return state
