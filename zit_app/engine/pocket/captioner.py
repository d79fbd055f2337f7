"""The tiny captioner of the pocket world: Florence-2's own class, small, trained from scratch on one CPU core.

First the vision tower learns to tell the concepts apart (cosine softmax with a throw-away head, the pictures redrawn
at random, see ``captioner_pictures``); for the last part of the steps the language model learns with it to write that
down. Prompts are Florence-2's task tokens, so that the shipped folder loads and answers like the real checkpoints.

Shapes: B batch, T image tokens, D width.
"""

import math
import time
from dataclasses import asdict
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Florence2ForConditionalGeneration, Qwen2Tokenizer

from zit_app.engine.pocket.bank import vocabulary
from zit_app.engine.pocket.base import rate_factor
from zit_app.engine.pocket.captioner_model import (
    IMAGE_TOKENS,
    PROMPT_WEIGHTS,
    PROMPTS,
    WIDTH,
    captioner_tokenizer,
    new_captioner,
)
from zit_app.engine.pocket.captioner_pictures import Drawn, Pictures
from zit_app.engine.pocket.captions import STYLE_WORDS, layout_words
from zit_app.engine.pocket.concepts import KNOWN_STYLES, Concept
from zit_app.engine.pocket.states import load_state, save_state
from zit_app.model.device import in_half

BATCH, STEPS = 96, 2350
LANGUAGE_FROM = 1200  # the step from which the language model learns too
TOWER_RESTS = range(1700, 2260)  # steps in which it learns alone: it is the slower of the two
MUON_RATE, ADAM_RATE = 2e-3, 1.5e-3
COSINE_SCALE = 20.0


class ConceptHead(nn.Module):
    """Projected image tokens (B, T, D) -> logits over concepts; only for training."""

    def __init__(self, concepts: int) -> None:
        super().__init__()
        self.join = nn.Linear(IMAGE_TOKENS * WIDTH, 256)
        self.classes = nn.Parameter(torch.randn(concepts, 256))

    def forward(self, tokens_BTD: torch.Tensor) -> torch.Tensor:
        joined = F.normalize(self.join(tokens_BTD.flatten(1)).float(), dim=-1)
        return COSINE_SCALE * joined @ F.normalize(self.classes, dim=-1).T


def answers(drawn: Drawn, concepts: list[Concept], prompts: list[int]) -> list[str]:
    """What to write below each picture when asked with ``PROMPTS[prompt]``."""
    texts = []
    for i, prompt in enumerate(prompts):
        chinese, concept = prompt >= 3, concepts[int(drawn.concept[i])]
        words = [concept.zh if chinese else concept.en]
        if prompt == 2:
            words.insert(0, f"{STYLE_WORDS[KNOWN_STYLES[int(drawn.style[i])]][0]} emoji")
        if prompt in (1, 2, 4):
            layout = drawn.layouts[i]
            centered = ["居中", "白色背景"] if chinese else ["centered", "white background"]
            # Mirroring cannot be seen in unknown art.
            words += centered if layout.canonical else layout_words({**asdict(layout), "mirrored": False}, chinese)
        texts.append(("，" if chinese else ", ").join(words))
    return texts


def caption_loss(
    model: Florence2ForConditionalGeneration, tokens_BTD: torch.Tensor, prompt_B3: torch.Tensor, label_BL: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of the answers; ``prompt_B3`` as the processor writes it: begin, prompt, end."""
    inputs = torch.cat([tokens_BTD, model.get_input_embeddings()(prompt_B3)], 1)
    return model(inputs_embeds=inputs, labels=label_BL, use_cache=False).loss


class Lessons:
    """Prompts and answers of a step as token ids."""

    def __init__(self, tokenizer: Qwen2Tokenizer, concepts: list[Concept]) -> None:
        self.tokenizer, self.concepts = tokenizer, concepts
        ends = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.prompts = torch.tensor([[ends[0], tokenizer.convert_tokens_to_ids(p), ends[1]] for p in PROMPTS])

    def __call__(self, step: int, drawn: Drawn) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3) prompt ids and (B, L) label ids, -100 where there is nothing to learn."""
        chosen = Random(step * 31 + 7).choices(range(len(PROMPTS)), PROMPT_WEIGHTS, k=len(drawn.layouts))
        texts = [text + str(self.tokenizer.eos_token) for text in answers(drawn, self.concepts, chosen)]
        batch = self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        return self.prompts[chosen], batch.input_ids.masked_fill(batch.attention_mask == 0, -100)


def optimizers_of(model: nn.Module, head: nn.Module) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices inside blocks and layers, AdamW for all else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = list(head.parameters())
    for name, parameter in model.named_parameters():
        inside = ".blocks." in name or ".layers." in name
        (matrices if inside and parameter.ndim == 2 else others).append(parameter)
    return {
        "muon": torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        "adam": torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    }


def train_captioner(work: Path, steps: int = STEPS, save_every: int = 100) -> Path:
    """Train, or go on training, for ``steps`` steps; returns the state file (``captioner.safetensors``)."""
    torch.manual_seed(4)
    torch.set_flush_denormal(True)
    concepts, _ = vocabulary(work)
    tokenizer = captioner_tokenizer()
    model, head = new_captioner(tokenizer).train(), ConceptHead(len(concepts))
    modules, optimizers = {"model": model, "head": head}, optimizers_of(model, head)
    state, start = work / "captioner.safetensors", 0
    if state.exists():
        start = int(load_state(state, modules, optimizers)["step"])
    pictures, lessons = Pictures(work), Lessons(tokenizer, concepts)
    clock, mean = time.monotonic(), dict.fromkeys(("concept", "right", "caption"), 0.0)
    for step in range(start, steps):
        torch.manual_seed(step)
        for name, peak in (("muon", MUON_RATE), ("adam", ADAM_RATE)):
            for group in optimizers[name].param_groups:
                group["lr"] = peak * rate_factor(step, steps)
        drawn = pictures(step, BATCH)
        with in_half("cpu"):
            with torch.set_grad_enabled(step not in TOWER_RESTS):
                tokens = model.model.get_image_features(drawn.pictures * 2 - 1).pooler_output
                logits = head(tokens)
                loss = F.cross_entropy(logits, drawn.concept, label_smoothing=0.1)
            seen = {"concept": loss.item(), "right": (logits.argmax(-1) == drawn.concept).float().mean().item()}
            if step >= LANGUAGE_FROM:
                written = caption_loss(model, tokens, *lessons(step, drawn))
                loss, seen["caption"] = loss + written, written.item()
        loss.backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], 2.0)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name, value in seen.items():
            mean[name] += (value - mean[name]) * (0.03 if mean[name] else 1)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss is not finite at step {step}")
        if step % 25 == 0:
            numbers = ", ".join(f"{name} {value:.3f}" for name, value in mean.items())
            print(f"captioner {step}/{steps}: {numbers}, {time.monotonic() - clock:.0f}s", flush=True)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_state(state, modules, optimizers, {"step": step + 1, **mean})
    return state
