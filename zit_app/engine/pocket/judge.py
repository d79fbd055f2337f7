"""The judge: two small networks (1.2 M parameters) that name the style of a picture and find its concept.

They learn on *real* pictures only, of concepts that no score uses (people, travel, objects, symbols, and what the 224
asked ones leave of the vocabulary), in all styles, the held-out ones too, with shifts, scales, blur and noise. Content
is an embedding trained across styles (supervised contrastive loss, Khosla et al. 2020): two styles of one concept
attract, everything else in the batch repels; mirrored, turned and recoloured, so that shape must decide. Style is
texture: means and deviations of fine features at full size, colours nearly as they are.

Shapes: B batch, E embedding width, pictures (B, 3, 128, 128) in -1..1.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from zit_app.engine.pocket.concepts import HELD_OUT_STYLES, KNOWN_STYLES, Concept
from zit_app.engine.pocket.pictures import canonical_picture, cut_out
from zit_app.model.device import in_half

STYLES = KNOWN_STYLES + HELD_OUT_STYLES
SIDE, CONTENT_SIDE = 128, 64
WIDTH = 128  # embedding
CONCEPTS_A_STEP = 96
STEPS = 2400
PEAK_RATE = 2e-3
TEMPERATURE = 0.07


class Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.skip = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.norm1(self.first(x)))
        return F.relu(self.norm2(self.second(h)) + self.skip(x))


class ContentNet(nn.Module):
    """(B, 3, 64, 64) -> embeddings of length 1 (B, E)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.body = nn.Sequential(Residual(24, 32, 2), Residual(32, 64, 2), Residual(64, 128, 2), Residual(128, 160, 2))
        self.head = nn.Linear(160 * 16, WIDTH)  # 4 x 4 places kept: where things are tells faces apart

    def forward(self, x_B3HW: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.head(self.body(self.stem(x_B3HW)).flatten(1)), dim=-1)


class StyleNet(nn.Module):
    """(B, 3, 128, 128) -> style logits (B, 5), from means and deviations of every level's features."""

    def __init__(self) -> None:
        super().__init__()
        widths = (24, 32, 48, 64)
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 5, 2, 2, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.levels = nn.ModuleList([Residual(a, b, 2) for a, b in pairwise(widths)])
        self.head = nn.Sequential(nn.Linear(2 * sum(widths), 64), nn.ReLU(), nn.Linear(64, len(STYLES)))

    def forward(self, x_B3HW: torch.Tensor) -> torch.Tensor:
        features = [self.stem(x_B3HW)]
        for level in self.levels:
            features.append(level(features[-1]))
        pooled = [part for f in features for part in (f.mean((2, 3)), (f.float().var((2, 3)) + 1e-4).sqrt())]
        return self.head(torch.cat(pooled, -1))


class Judge(nn.Module):
    """Pictures -> (content embedding of length 1 (B, E), style logits (B, 5))."""

    def __init__(self) -> None:
        super().__init__()
        self.content, self.style = ContentNet(), StyleNet()

    def forward(self, x_B3HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.content(F.avg_pool2d(x_B3HW, SIDE // CONTENT_SIDE)), self.style(x_B3HW)


def to_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    """RGB pictures of any size as the judge's input (B, 3, 128, 128)."""
    small = [np.asarray(p.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)) for p in pictures]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1


def real_pictures(concepts: list[Concept], noto: Path) -> torch.Tensor:
    """(concepts, styles, 3, 128, 128) uint8; a style that lacks a concept is all zero."""
    rows = []
    for concept in concepts:
        row = torch.zeros(len(STYLES), 3, SIDE, SIDE, dtype=torch.uint8)
        for i, style in enumerate(STYLES):
            if style in concept.files:
                row[i] = ((to_tensor([canonical_picture(cut_out(concept, style, noto))])[0] + 1) * 127.5).byte()
        rows.append(row)
    return torch.stack(rows)


def moved(x_B3HW: torch.Tensor, draw_BK: torch.Tensor, free: bool) -> torch.Tensor:
    """Shift up to 8 %, scale 0.82-1.12, white outside; ``free``: also mirrored and turned up to 14 degrees."""
    scale, angle = 1 / (0.82 + 0.30 * draw_BK[:, 0]), (draw_BK[:, 1] - 0.5) * 0.5 * free
    mirror = torch.where(draw_BK[:, 2] < 0.5 * free, -1.0, 1.0)
    theta = torch.zeros(len(x_B3HW), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = mirror * scale * angle.cos(), scale * angle.cos()
    theta[:, 0, 1], theta[:, 1, 0] = -mirror * scale * angle.sin(), scale * angle.sin()
    theta[:, :, 2] = (draw_BK[:, 3:5] - 0.5) * 0.32
    grid = F.affine_grid(theta, list(x_B3HW.shape), align_corners=False)
    return F.grid_sample(x_B3HW - 1, grid, align_corners=False) + 1


def recoloured(x_B3HW: torch.Tensor, draw_BK: torch.Tensor) -> torch.Tensor:
    """Hue turned by up to 30 degrees, saturation times 0-1.3: a rotation about the gray axis, then a pull to it."""
    turn, saturation = (draw_BK[:, 0] - 0.5) * 1.05, (1.5 * draw_BK[:, 1]).clamp(max=1.0) + 0.3 * draw_BK[:, 2]
    third, root = 1 / 3, 3**-0.5
    cos, sin = turn.cos().view(-1, 1, 1), turn.sin().view(-1, 1, 1)
    gray = torch.full((3, 3), third)
    across = torch.tensor([[0.0, -root, root], [root, 0.0, -root], [-root, root, 0.0]])
    rotation = gray + cos * (torch.eye(3) - gray) + sin * across
    mixed = gray + saturation.view(-1, 1, 1) * (rotation - gray)
    return torch.einsum("bij,bjhw->bihw", mixed, x_B3HW)


def worn(x_B3HW: torch.Tensor, draw_BK: torch.Tensor, light: float, generator: torch.Generator) -> torch.Tensor:
    """Sometimes blurred, brighter or darker by up to ``light``, a little noise."""
    soft = F.avg_pool2d(F.avg_pool2d(x_B3HW, 3, 1, 1, count_include_pad=False), 3, 1, 1, count_include_pad=False)
    x = torch.lerp(x_B3HW, soft, (draw_BK[:, 0] * 2 - 0.8).clamp(0, 1).view(-1, 1, 1, 1))
    x = x * (1 + light * (2 * draw_BK[:, 1] - 1)).view(-1, 1, 1, 1) + light * (draw_BK[:, 2] - 0.5).view(-1, 1, 1, 1)
    return x + torch.randn(x.shape, generator=generator) * (0.12 * draw_BK[:, 3]).view(-1, 1, 1, 1)


def contrastive(a_BE: torch.Tensor, b_BE: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy of matching rows at TEMPERATURE."""
    logits = a_BE @ b_BE.T / TEMPERATURE
    target = torch.arange(len(a_BE))
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def train_judge(concepts: list[Concept], noto: Path, work: Path) -> Path:
    """Train both networks on these concepts; returns the weights file ``judge.safetensors``."""
    done = work / "judge.safetensors"
    if done.exists():
        return done
    store = work / "judge_pictures.npy"
    if not store.exists():
        np.save(store, real_pictures(concepts, noto).numpy())
    real = torch.from_numpy(np.load(store))
    torch.manual_seed(3)
    judge = Judge()
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train_content(judge.content, real)
    train_style(judge.style, real)
    save_file({k: v.contiguous() for k, v in judge.state_dict().items()}, done)
    return done


def stepping(module: nn.Module, steps: int) -> Iterator[tuple[int, torch.Generator, torch.optim.Optimizer]]:
    """The frame of both trainings: a seeded generator a step, AdamW with warm-up and a cosine to zero."""
    optimizer = torch.optim.AdamW(module.train().parameters(), lr=PEAK_RATE, weight_decay=0.05)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        yield step, torch.Generator().manual_seed(step), optimizer


def learn(loss: torch.Tensor, optimizer: torch.optim.Optimizer, name: str, step: int) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if step % 100 == 0:
        print(f"judge, {name}: step {step}, loss {loss.item():.3f}", flush=True)


def train_content(net: nn.Module, real_CS3HW: torch.Tensor, steps: int = STEPS) -> None:
    """Two styles of each of 96 concepts must find each other among all."""
    available = real_CS3HW.flatten(2).any(-1)
    for step, generator, optimizer in stepping(net, steps):
        chosen = torch.randperm(len(real_CS3HW), generator=generator)[:CONCEPTS_A_STEP]
        pair = torch.multinomial(available[chosen].float(), 2, generator=generator)
        x = torch.cat([real_CS3HW[chosen, pair[:, 0]], real_CS3HW[chosen, pair[:, 1]]]).float() / 127.5 - 1
        draw = torch.rand(len(x), 16, generator=generator)
        x = moved(F.avg_pool2d(x, SIDE // CONTENT_SIDE), draw, True)
        x = worn(recoloured(x, draw[:, 5:]), draw[:, 8:], 0.15, generator)
        with in_half("cpu"):
            embedding = net(x.contiguous(memory_format=torch.channels_last))
        learn(contrastive(*embedding.float().chunk(2)), optimizer, "content", step)


def train_style(net: nn.Module, real_CS3HW: torch.Tensor, steps: int = STEPS) -> None:
    """One style of each of 96 concepts must be named."""
    available = real_CS3HW.flatten(2).any(-1)
    for step, generator, optimizer in stepping(net, steps):
        chosen = torch.randperm(len(real_CS3HW), generator=generator)[:CONCEPTS_A_STEP]
        style = torch.multinomial(available[chosen].float(), 1, generator=generator)[:, 0]
        x = real_CS3HW[chosen, style].float() / 127.5 - 1
        draw = torch.rand(len(x), 16, generator=generator)
        x = worn(moved(x, draw, False), draw[:, 8:], 0.04, generator)
        with in_half("cpu"):
            logits = net(x.contiguous(memory_format=torch.channels_last))
        learn(F.cross_entropy(logits.float(), style, label_smoothing=0.05), optimizer, "style", step)


def load_judge(file: Path) -> Judge:
    judge = Judge().eval()
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()})
    return judge


@torch.no_grad()
def look(judge: Judge, pictures: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
    """(embeddings (N, E), style index (N,))."""
    parts = [judge(to_tensor(pictures[i : i + 64])) for i in range(0, len(pictures), 64)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]).argmax(-1)


@torch.no_grad()
def real_answers(judge: Judge, concepts: list[Concept], noto: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the real canonical pictures: embeddings (concepts, styles, E), zero where a style lacks the concept, and the
    style that the judge sees (concepts, styles), -1 there."""
    rows = torch.zeros(len(concepts), len(STYLES), WIDTH)
    seen = torch.full((len(concepts), len(STYLES)), -1)
    for c, concept in enumerate(concepts):
        have = [s for s in STYLES if s in concept.files]
        found, answer = look(judge, [canonical_picture(cut_out(concept, s, noto)) for s in have])
        columns = [STYLES.index(s) for s in have]
        rows[c, columns], seen[c, columns] = found, answer
    return rows, seen


def prototypes(embeddings_CSE: torch.Tensor, without: int) -> torch.Tensor:
    """(C, E): mean over every style except ``without``, so that no picture is compared with itself."""
    keep = [s for s in range(embeddings_CSE.shape[1]) if s != without]
    return F.normalize(embeddings_CSE[:, keep].sum(1), dim=-1)


def ranks(
    found_NE: torch.Tensor, concept_N: torch.Tensor, style_N: torch.Tensor, real_CSE: torch.Tensor
) -> torch.Tensor:
    """(N,) rank (0 = first) of the right concept, prototypes taken from the styles other than the asked one."""
    out = torch.empty(len(found_NE), dtype=torch.long)
    for style in style_N.unique().tolist():
        rows = style_N == style
        likeness = found_NE[rows] @ prototypes(real_CSE, style).T
        right = likeness.gather(1, concept_N[rows, None])
        out[rows] = (likeness > right).sum(1)
    return out
