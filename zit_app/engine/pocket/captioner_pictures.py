"""Pictures the tiny captioner learns from: the three known styles, redrawn at random so that only shape stays.

A network that sees three art styles learns their textures; a fourth one then looks foreign. So every picture is drawn
anew each time: moved, warped, recoloured, posterised, reduced to ink, outlined, mixed with another style's drawing of
the same concept. Nothing here knows the held-out styles.

Shapes: B batch, C concepts, S styles, colours and alpha in 0..1, cut-outs premultiplied (B, 4, H, W).
"""

from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from zit_app.engine.pocket.bank import never_shown, vocabulary
from zit_app.engine.pocket.captioner_styles import restyled, worn
from zit_app.engine.pocket.concepts import KNOWN_STYLES
from zit_app.engine.pocket.pictures import BACKGROUNDS, SIZE, Layout, cut_out, random_layout

SIDE = 64  # what the captioner sees
STORED = 72  # of a cut-out, which fills its square
OPEN_SHARE = 0.3  # of pictures with a random layout; the rest is canonical


@dataclass(frozen=True)
class Drawn:
    """One batch: pictures (B, 3, SIDE, SIDE) in 0..1 and what they show."""

    pictures: torch.Tensor
    concept: torch.Tensor  # (B,)
    style: torch.Tensor  # (B,)
    layouts: list[Layout]


def stored_cutouts(work: Path) -> torch.Tensor:
    """(C, S, 4, STORED, STORED) uint8, premultiplied; drawn once into ``work/captioner_cutouts.npy``."""
    file = work / "captioner_cutouts.npy"
    if not file.exists():
        concepts, noto = vocabulary(work)
        rows = [[np.asarray(_premultiplied(cut_out(c, s, noto))) for s in KNOWN_STYLES] for c in concepts]
        np.save(file, np.asarray(rows, np.uint8).transpose(0, 1, 4, 2, 3))
    return torch.from_numpy(np.load(file))


def _premultiplied(thing: Image.Image) -> Image.Image:
    return thing.convert("RGBa").resize((STORED, STORED), Image.Resampling.BOX)


class Pictures:
    """Batches as a pure function of the step; (concept, style) pairs never shown to the pocket stay unseen here too."""

    def __init__(self, work: Path) -> None:
        self.cutouts = stored_cutouts(work)
        self.hidden = never_shown(vocabulary(work)[0])
        self.styles = [
            [s for s in range(len(KNOWN_STYLES)) if (c, s) not in self.hidden] for c in range(len(self.cutouts))
        ]

    def __call__(self, step: int, size: int) -> Drawn:
        random, generator = Random(step * 7919 + 5), torch.Generator().manual_seed(step)
        concepts = [random.randrange(len(self.cutouts)) for _ in range(size)]
        styles = [random.choice(self.styles[c]) for c in concepts]
        others = [random.choice(self.styles[c]) for c in concepts]
        layouts = [_layout(random) for _ in concepts]
        colour, alpha = self._things(concepts, styles, others, layouts, generator)
        colour, alpha = restyled(colour, alpha, generator)
        mixed = colour * alpha + _backgrounds(layouts) * (1 - alpha)
        return Drawn(worn(mixed, generator), torch.tensor(concepts), torch.tensor(styles), layouts)

    def _things(
        self, concepts: list[int], styles: list[int], others: list[int], layouts: list[Layout], g: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Colours (B, 3, SIDE, SIDE) (white where nothing is) and alpha, moved; a fifth are blends of two styles."""
        chosen = self.cutouts[concepts, styles].float() / 255
        share = torch.rand(len(concepts), 1, 1, 1, generator=g)
        rough = F.interpolate(torch.rand(len(concepts), 1, 4, 4, generator=g), size=STORED, mode="bilinear")
        mask = torch.where(share < 0.1, 0.5, (rough > 0.5).float())
        blended = torch.lerp(chosen, self.cutouts[concepts, others].float() / 255, mask)
        moved = placed(torch.where(share < 0.2, blended, chosen), layouts, g)
        colour, alpha = moved[:, :3], moved[:, 3:]
        return (colour / alpha.clamp(min=0.05) * (alpha > 0.05) + (alpha <= 0.05)).clamp(0, 1), alpha


def _layout(random: Random) -> Layout:
    """Canonical, or open with one thing. The mirror is drawn apart: a caption cannot name it for unknown art."""
    if random.random() >= OPEN_SHARE:
        return Layout()
    layout = random_layout(random, 1)
    while layout.second:
        layout = random_layout(random, 1)
    return layout


def placed(things_B4HW: torch.Tensor, layouts: list[Layout], g: torch.Generator) -> torch.Tensor:
    """Cut-outs on the SIDE square where the layouts say, jittered, some mirrored, turned, squeezed and warped."""
    count = len(layouts)
    u = torch.rand(count, 8, generator=g) - 0.5
    extent = torch.tensor([layout.extent / SIZE for layout in layouts]) * (1 + 0.16 * u[:, 0])
    center = torch.tensor([layout.center for layout in layouts]) / (SIZE / 2) - 1 + 0.12 * u[:, 1:3]
    turn = torch.tensor([float(layout.turn) for layout in layouts]) * torch.pi / 180 + 0.25 * u[:, 3]
    across = torch.where(u[:, 4] < 0, -1.0, 1.0) / (extent * (1 + 0.24 * u[:, 5]))
    down = 1 / (extent * (1 + 0.24 * u[:, 6]))
    line = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    x = line.view(1, 1, -1) - center[:, 0].view(-1, 1, 1)
    y = line.view(1, -1, 1) - center[:, 1].view(-1, 1, 1)
    cos, sin = turn.cos().view(-1, 1, 1), turn.sin().view(-1, 1, 1)
    grid = torch.stack([(x * cos - y * sin) * across.view(-1, 1, 1), (x * sin + y * cos) * down.view(-1, 1, 1)], -1)
    bend = F.interpolate(torch.randn(count, 2, 5, 5, generator=g), size=SIDE, mode="bicubic", align_corners=True)
    grid = grid + bend.permute(0, 2, 3, 1) * (0.09 * torch.rand(count, 1, 1, 1, generator=g))
    small = extent < 0.6  # a cut-out reduced by more than two is read from its half-size copy
    out = torch.empty(count, 4, SIDE, SIDE)
    for rows, source in ((small, F.avg_pool2d(things_B4HW, 2)), (~small, things_B4HW)):
        out[rows] = F.grid_sample(source[rows], grid[rows], align_corners=False)
    return out


def _backgrounds(layouts: list[Layout]) -> torch.Tensor:
    """(B, 3, SIDE, SIDE): plain, or a vertical gradient."""
    ends = [[BACKGROUNDS[p.background], BACKGROUNDS[p.gradient or p.background]] for p in layouts]
    top, bottom = (torch.tensor(ends).float() / 255).unbind(1)
    ramp = torch.linspace(0, 1, SIDE).view(1, 1, -1, 1)
    return (top[:, :, None, None] * (1 - ramp) + bottom[:, :, None, None] * ramp).expand(-1, -1, -1, SIDE)
