"""Computed styles: functions of the flat picture, so that every concept has a known right picture (a truth)."""

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from zit_app.engine.pocket.pictures import SIZE


def hues(flat: Image.Image) -> Image.Image:
    """All hues turned by 150 degrees, saturation and brightness kept: white stays white."""
    h, s, v = flat.convert("HSV").split()
    return Image.merge("HSV", (h.point(lambda x: (x + 106) % 256), s, v)).convert("RGB")


def dusk(flat: Image.Image) -> Image.Image:
    """In blue evening light: every colour times 0.43, 0.47, 0.78, so that white becomes slate blue."""
    bands = zip(flat.convert("RGB").split(), (0.43, 0.47, 0.78), strict=True)
    return Image.merge("RGB", [band.point([round(value * share) for value in range(256)]) for band, share in bands])


def mosaic(flat: Image.Image) -> Image.Image:
    """Square tiles of 8 pixels."""
    small = flat.convert("RGB").resize((SIZE // 8, SIZE // 8), Image.Resampling.BOX)
    return small.resize((SIZE, SIZE), Image.Resampling.NEAREST)


def lines(flat: Image.Image) -> Image.Image:
    """Blue outlines on white: the strength of the colour edges, thickened."""
    x = np.asarray(flat.convert("RGB"), np.float32)
    across = np.abs(np.diff(x, axis=1, append=x[:, -1:])).max(-1)
    down = np.abs(np.diff(x, axis=0, append=x[-1:])).max(-1)
    edge = Image.fromarray(np.clip(np.maximum(across, down) * 2, 0, 255).astype(np.uint8))
    edge = edge.filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.GaussianBlur(0.7))
    return ImageOps.colorize(edge, (255, 255, 255), (24, 60, 140))


COMPUTED = {"hues": hues, "dusk": dusk, "mosaic": mosaic, "lines": lines}
