"""Redrawing a picture at random so that only its shape stays: recoloured, posterised, outlined, reduced to ink, worn.

Shapes: B batch; colours and alpha in 0..1.
"""

import torch
import torch.nn.functional as F


def restyled(
    colour_B3HW: torch.Tensor, alpha_B1HW: torch.Tensor, g: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A fifth keep their colours, the others are recoloured, some of these outlined; a third become ink."""
    kind = torch.rand(len(colour_B3HW), generator=g)
    colour, alpha = colour_B3HW.clone(), alpha_B1HW.clone()
    plain = kind < 0.2
    inked = kind > 0.66
    if (rows := ~plain).any():
        colour[rows] = recoloured(colour[rows], g)
    if (rows := (~plain & ~inked & (torch.rand(len(kind), generator=g) < 0.4)) | (kind < 0.05)).any():
        colour[rows], alpha[rows] = outlined(colour[rows], alpha[rows], g)
    if inked.any():
        colour[inked], alpha[inked] = ink(colour[inked], alpha[inked], g)
    return colour, alpha


def recoloured(x_B3HW: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Hue turned (for half of them to anywhere), saturation 0-1.4, channel curves, for a fourth posterised."""
    count = len(x_B3HW)
    u = torch.rand(count, 8, 1, 1, generator=g)
    turn = (u[:, 0] - 0.5) * torch.where(u[:, 1] < 0.5, 6.28, 0.9)
    gray = torch.full((3, 3), 1 / 3)
    root = 3**-0.5
    skew = torch.tensor([[0.0, -root, root], [root, 0.0, -root], [-root, root, 0.0]])
    rotation = gray + turn.cos() * (torch.eye(3) - gray) + turn.sin() * skew
    mixed = gray + (1.7 * u[:, 2] - 0.3).clamp(0) * (rotation - gray)
    x = torch.einsum("bij,bjhw->bihw", mixed, x_B3HW).clamp(0, 1)
    x = (x + 1e-4) ** torch.exp(torch.randn(count, 3, 1, 1, generator=g) * 0.4)
    light = u[:, 3:4]
    x = torch.where(light < 0.08, 1 - x, x * (1 + 0.5 * (light - 0.5)) + 0.3 * (u[:, 4:5] - 0.5))
    levels = (2 + 5 * u[:, 5:6]).floor()
    return torch.where(u[:, 6:7] < 0.25, (x * levels).round() / levels, x).clamp(0, 1)


def _most(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 3, 1, 1)


def outlined(
    colour_B3HW: torch.Tensor, alpha_B1HW: torch.Tensor, g: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A contour around the thing, dark or of any colour, one or two pixels wide."""
    wide = _most(alpha_B1HW)
    wide = torch.where(torch.rand(len(wide), 1, 1, 1, generator=g) < 0.3, _most(wide), wide)
    pen = torch.rand(len(wide), 3, 1, 1, generator=g)
    pen = torch.where(torch.rand(len(wide), 1, 1, 1, generator=g) < 0.7, pen * 0.25, pen)
    return colour_B3HW * alpha_B1HW + pen * (1 - alpha_B1HW), wide


def ink(colour_B3HW: torch.Tensor, alpha_B1HW: torch.Tensor, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tones: lines where colours or the contour change, dark areas filled, or both; mostly black on white."""
    count = len(colour_B3HW)
    u = torch.rand(count, 10, 1, 1, generator=g)
    full = torch.cat([colour_B3HW * alpha_B1HW + 1 - alpha_B1HW, alpha_B1HW], 1)
    thick = torch.rand(count, 1, 1, 1, generator=g) < 0.5
    edge = torch.where(thick, _most(full) + _most(-full), _most(full) - full).amax(1, keepdim=True)
    lines = ((edge - (0.08 + 0.3 * u[:, :1])) / 0.12).clamp(0, 1)
    lines = torch.where(u[:, 1:2] < 0.35, _most(lines), lines)
    weights = torch.rand(count, 3, 1, 1, generator=g) + 0.1
    luminance = (colour_B3HW * weights / weights.sum(1, keepdim=True)).sum(1, keepdim=True)
    dark = ((0.1 + 0.75 * u[:, 2:3] - luminance) / 0.08 + 0.5).clamp(0, 1) * alpha_B1HW
    dark = torch.where(u[:, 3:4] < 0.2, alpha_B1HW - dark, dark)
    mode = u[:, 4:5]
    drawn = torch.where(mode < 0.4, lines, torch.where(mode < 0.65, dark, torch.maximum(lines, dark)))
    drawn = torch.where((mode > 0.9), alpha_B1HW * (1 - lines), drawn)  # white lines in a black shape
    pen, paper = torch.rand(2, count, 3, 1, 1, generator=g)
    plain = u[:, 5:6] < 0.65
    pen, paper = torch.where(plain, pen * 0.15, pen), torch.where(plain, 1 - paper * 0.1, paper)
    alpha = torch.where(u[:, 6:7] < 0.3, drawn, torch.maximum(alpha_B1HW, drawn))
    return paper * (1 - drawn) + pen * drawn, alpha


def worn(x_B3HW: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Sometimes softened or sharpened, lighter or darker, a little noise; for a fifth a patch is missing."""
    count = len(x_B3HW)
    u = torch.rand(count, 8, 1, 1, generator=g)
    soft = F.avg_pool2d(F.avg_pool2d(x_B3HW, 3, 1, 1, count_include_pad=False), 3, 1, 1, count_include_pad=False)
    x = torch.lerp(x_B3HW, soft, (u[:, :1] * 2.4 - 1.4).clamp(-0.4, 1))
    x = x * (1 + 0.2 * (u[:, 1:2] - 0.5)) + 0.1 * (u[:, 2:3] - 0.5)
    x = x + torch.randn(x.shape, generator=g) * (0.1 * (u[:, 3:4] - 0.5).clamp(0))
    line = torch.arange(x.shape[-1]).view(1, 1, 1, -1)
    left, top = u[:, 4:5] * x.shape[-1], u[:, 5:6] * x.shape[-1]
    reach = torch.where(u[:, 6:7] < 0.2, 6 + 14 * u[:, 7:8], 0)
    patch = ((line - left).abs() < reach / 2) & ((line.transpose(2, 3) - top).abs() < reach / 2)
    return torch.where(patch, torch.rand(count, 3, 1, 1, generator=g), x).clamp(0, 1)
