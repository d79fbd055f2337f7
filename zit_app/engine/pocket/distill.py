"""Distilling ``pocket`` (8 nodes, guidance 0) from ``pocket-base``.

Stage 1, guidance distillation (Meng et al. 2023): the student's velocity becomes the guided one of the teacher.
Stage 2, distribution matching with its two parts kept apart as in Decoupled-DMD (arXiv 2511.22677), which made the
real Turbo: a CFG-augmentation term is the engine (difference of the teacher's conditional and unconditional answer),
distribution matching is the guard (teacher's conditional answer against that of a "fake" model that follows the
student's own pictures; Yin et al. 2024, DMD2).

The student walks its own eight nodes by Euler steps: the batch is spread over the nodes and every iteration moves
each picture one node on, so that one forward pass serves both training and rolling out.
"""

import copy
import time
from pathlib import Path
from random import Random

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen3Model

from zit_app.engine.pocket.bank import vocabulary
from zit_app.engine.pocket.base import (
    CAPTION_WIDTH,
    DIM,
    LAYERS,
    REFINERS,
    SIDE,
    Batches,
    caption_features,
    draw_sigma,
    new_encoder,
    tokenize,
    update_average,
)
from zit_app.engine.pocket.captions import caption
from zit_app.engine.pocket.fast import batched_velocity, new_transformer, rope_tables
from zit_app.engine.pocket.states import load_part, load_state, save_state
from zit_app.flow.schedule import nodes
from zit_app.model.device import in_half

GUIDANCE = 3.0  # diffusers' convention: pos + g (pos - neg)
WARM_STEPS, WARM_RATE = 140, 4e-4
STUDENT_RATE, FAKE_RATE = 3e-4, 6e-4
EMA = 0.98
WALKERS = 48  # the batch of pocket-base: its compiled step is used again


def load_base(work: Path, device: str) -> tuple[ZImageTransformer2DModel, Qwen3Model]:
    """The averaged weights of pocket-base: (transformer, encoder), frozen."""
    transformer, encoder = new_transformer(DIM, LAYERS, REFINERS, CAPTION_WIDTH), new_encoder()
    for module, part in ((transformer, "transformer_ema"), (encoder, "encoder_ema")):
        module.load_state_dict(load_part(work / "base.safetensors", part))
        module.to(device).eval().requires_grad_(False)  # type: ignore[arg-type]
    return transformer, encoder


class Teacher:
    """Velocities of a frozen model, conditional and unconditional in one call, bf16."""

    def __init__(self, work: Path, device: str, compile_model: bool) -> None:
        self.model, self.encoder = load_base(work, device)
        self.tokenizer = Qwen2Tokenizer.from_pretrained(work / "tokenizer")
        cos, sin = rope_tables(self.model, SIDE // 2)
        self.tables = (cos.to(device), sin.to(device))
        self.device = device
        self.velocity = torch.compile(batched_velocity) if compile_model else batched_velocity
        self.empty = self.features([""])

    @torch.no_grad()
    def features(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        ids, real = tokenize(self.tokenizer, prompts)
        with in_half(self.device):
            return caption_features(self.encoder, ids.to(self.device)).float(), real.to(self.device)

    def run(self, model: ZImageTransformer2DModel, x: Tensor, sigma: Tensor, features: Tensor, real: Tensor) -> Tensor:
        with in_half(self.device):
            return self.velocity(model, x, sigma, features, real, self.tables)

    @torch.no_grad()
    def both(self, x: Tensor, sigma: Tensor, features: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """(conditional, unconditional) velocity."""
        empty, empty_real = (t.expand(len(x), *t.shape[1:]) for t in self.empty)
        return self.run(self.model, x, sigma, features, real), self.run(self.model, x, sigma, empty, empty_real)


class Walkers:
    """WALKERS pictures on their way through the eight nodes, each with its own caption; one step a call."""

    def __init__(self, teacher: Teacher, batches: Batches) -> None:
        self.teacher, self.batches = teacher, batches
        self.sigmas = torch.cat([nodes(8).float(), torch.zeros(1)])
        self.node = torch.arange(WALKERS) % 8
        self.born = 0
        self.x, self.features, self.real = self._new(WALKERS)

    def _new(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        random = Random(900_000 + self.born)
        generator = torch.Generator().manual_seed(900_000 + self.born)
        self.born += count
        records = self.batches.records
        picks = [
            records[random.randrange(self.batches.canonical)]
            if random.random() < 0.4
            else records[random.randrange(self.batches.canonical, len(records))]
            for _ in range(count)
        ]
        prompts = [caption(r, self.batches.concepts, random) for r in picks]
        return torch.randn(count, 16, SIDE, SIDE, generator=generator), *self.teacher.features(prompts)

    def sigma(self) -> Tensor:
        return self.sigmas[self.node]

    def advance(self, v_BCSS: Tensor) -> None:
        """Euler step to the next node; finished walkers start again from noise with a new caption."""
        step = (self.sigmas[self.node + 1] - self.sigmas[self.node]).view(-1, 1, 1, 1)
        self.x = self.x + step * v_BCSS
        self.node = (self.node + 1) % 8
        done = self.node == 0
        if done.any():
            x, features, real = self._new(int(done.sum()))
            self.x[done], self.features[done], self.real[done] = x, features, real


def at(x0: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """x0 with fresh noise at sigma."""
    s = sigma.view(-1, 1, 1, 1)
    return (1 - s) * x0 + s * torch.randn(x0.shape, generator=generator)


def warm_up(student: ZImageTransformer2DModel, teacher: Teacher, batches: Batches, steps: int) -> None:
    """Stage 1: regression of the guided velocity on noisy real latents at and around the nodes."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=WARM_RATE, betas=(0.9, 0.99), weight_decay=0)
    grid = nodes(8).float()
    for step in range(steps):
        generator = torch.Generator().manual_seed(500_000 + step)
        x0, ids, real = batches(500_000 + step, WALKERS)
        with torch.no_grad(), in_half("cpu"):
            features = caption_features(teacher.encoder, ids).float()
        sigma = grid[torch.randint(8, (WALKERS,), generator=generator)]
        x = at(x0, sigma, generator)
        cond, uncond = teacher.both(x, sigma, features, real)
        target = cond + GUIDANCE * (cond - uncond)
        loss = (teacher.run(student, x, sigma, features, real) - target).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = WARM_RATE * min(1, (step + 1) / 20) * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 25 == 0:
            print(f"guidance {step}/{steps} loss {loss.item():.4f}", flush=True)


def matching_direction(
    teacher: Teacher, fake: ZImageTransformer2DModel, x0: Tensor, walkers: Walkers, generator: torch.Generator
) -> Tensor:
    """Where x0 should move (B, C, S, S): CFG augmentation + distribution matching, each at its own noise level.

    The engine looks at levels above the walker's own next node only (what is already decided stays decided), the
    guard at all levels; both are normalised by the teacher's own error, as in DMD.
    """
    low = walkers.sigmas[walkers.node + 1]
    tau_engine = low + (1 - low) * (0.02 + 0.96 * torch.rand(len(x0), generator=generator))
    tau_guard = draw_sigma(len(x0), generator).clamp(0.02, 0.98)
    x_engine, x_guard = at(x0, tau_engine, generator), at(x0, tau_guard, generator)
    cond, uncond = teacher.both(x_engine, tau_engine, walkers.features, walkers.real)
    engine = -tau_engine.view(-1, 1, 1, 1) * GUIDANCE * (cond - uncond)
    with torch.no_grad():
        real = teacher.run(teacher.model, x_guard, tau_guard, walkers.features, walkers.real)
        false = teacher.run(fake, x_guard, tau_guard, walkers.features, walkers.real)
    s = tau_guard.view(-1, 1, 1, 1)
    guard = -s * (real - false)
    size = (x0 - (x_guard - s * real)).abs().mean((1, 2, 3), keepdim=True)
    size_engine = (x0 - (x_engine - tau_engine.view(-1, 1, 1, 1) * cond)).abs().mean((1, 2, 3), keepdim=True)
    return engine / size_engine.clamp_min(0.05) + guard / size.clamp_min(0.05)


def distill(work: Path, device: str, steps: int, compile_model: bool = True, save_every: int = 100) -> Path:
    """Both stages; state in ``distilled.safetensors`` (keys ``student_ema.*`` are what ships)."""
    concepts, _ = vocabulary(work)
    teacher = Teacher(work, device, compile_model)
    batches = Batches(work, concepts, teacher.tokenizer)
    student = copy.deepcopy(teacher.model).requires_grad_(True)
    fake = copy.deepcopy(teacher.model).requires_grad_(True)
    average = copy.deepcopy(teacher.model)
    modules = {"student": student, "fake": fake, "student_ema": average}
    optimizers = {
        "student": torch.optim.AdamW(student.parameters(), lr=STUDENT_RATE, betas=(0.5, 0.99), weight_decay=0),
        "fake": torch.optim.AdamW(fake.parameters(), lr=FAKE_RATE, betas=(0.5, 0.99), weight_decay=0),
    }
    state, start = work / "distilled.safetensors", 0
    if state.exists():
        start = load_state(state, modules, optimizers)["step"]
    else:
        warm_up(student, teacher, batches, WARM_STEPS)
        average.load_state_dict(student.state_dict())
        save_state(state, modules, optimizers, {"step": 0})
    walkers, clock = Walkers(teacher, batches), time.monotonic()
    for step in range(start, steps):
        generator = torch.Generator().manual_seed(700_000 + step)
        sigma = walkers.sigma()
        v = teacher.run(student, walkers.x, sigma, walkers.features, walkers.real)
        x0 = walkers.x - sigma.view(-1, 1, 1, 1) * v
        direction = matching_direction(teacher, fake, x0.detach(), walkers, generator)
        loss = 0.5 * (x0 - (x0.detach() + direction)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for group in optimizers["student"].param_groups:
            group["lr"] = STUDENT_RATE * min(1, (step + 1) / 50) * min(1.0, (steps - step) / (0.3 * steps))
        optimizers["student"].step()
        optimizers["student"].zero_grad(set_to_none=True)
        update_average(average, student, EMA)

        tau = draw_sigma(WALKERS, generator).clamp(0.02, 0.98)
        noise = torch.randn(x0.shape, generator=generator)
        s = tau.view(-1, 1, 1, 1)
        follow = teacher.run(fake, (1 - s) * x0.detach() + s * noise, tau, walkers.features, walkers.real)
        fake_loss = (follow - (noise - x0.detach())).square().mean()
        fake_loss.backward()
        nn.utils.clip_grad_norm_(fake.parameters(), 1.0)
        optimizers["fake"].step()
        optimizers["fake"].zero_grad(set_to_none=True)
        walkers.advance(v.detach())
        if step % 20 == 0:
            print(
                f"distil {step}/{steps} move {direction.abs().mean():.3f} fake {fake_loss.item():.4f} "
                f"{time.monotonic() - clock:.0f}s",
                flush=True,
            )
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_state(state, modules, optimizers, {"step": step + 1})
    return state
