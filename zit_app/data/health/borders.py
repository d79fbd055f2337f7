"""Bars around a picture: letterboxes above and below, pillars left and right, frames.

A bar is plain and ends in a straight line all across; a thing that stands on a plain ground does not end like that.

H height, W width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Colours = NDArray[np.int16]  # (H, W, 3), 0 … 255
TOLERANCE = 14  # levels: what JPEG leaves of a plain bar
THINNEST = 0.015  # of the side; less is cropped away by the buckets
STRAIGHT = 0.6  # of the line behind a bar that must differ from it
END, CORNER = 0.04, 0.03  # of a side: the ends of that line, and the corners of a framed picture


@dataclass(frozen=True)
class Bars:
    """Width of the bar on each side, as a share of the picture's width or height."""

    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0

    @property
    def kind(self) -> str:
        """letterbox (above and below), pillarbox (left and right), frame (all around), or "" for none."""
        level, upright = min(self.top, self.bottom) > 0, min(self.left, self.right) > 0
        return "frame" if level and upright else "letterbox" if level else "pillarbox" if upright else ""


def bars(picture_HW3: Colours) -> Bars:
    """The bars around a picture."""
    across_WH3 = picture_HW3.transpose(1, 0, 2)
    top, bottom, left, right = (_plain(s) for s in (picture_HW3, picture_HW3[::-1], across_WH3, across_WH3[::-1]))
    level, upright = min(top, bottom) > 0, min(left, right) > 0
    if level and upright:  # a thing on a plain ground, unless it has four straight sides and corners
        found = Bars(left, top, right, bottom)
        return found if _is_framed(picture_HW3, found) else Bars()
    if level:
        top, bottom = _pair(picture_HW3, top, bottom)
        return Bars(top=top, bottom=bottom)
    left, right = _pair(across_WH3, left, right) if upright else (0.0, 0.0)
    return Bars(left=left, right=right)


def _plain(picture_HW3: Colours) -> float:
    """How far the picture is plain from its top, as a share of its height; 0 for less than the thinnest bar."""
    height = picture_HW3.shape[0]
    plain_H = _differs(picture_HW3[: height // 2], picture_HW3[0]).mean(axis=1) <= 0.01
    depth = height // 2 if plain_H.all() else int(plain_H.argmin())
    return depth / height if depth >= max(2, THINNEST * height) else 0.0


def _pair(picture_HW3: Colours, above: float, below: float) -> tuple[float, float]:
    """The bars above and below, both or none: one plain edge alone is a sky or a floor.

    One of them must end in a straight line; a bar before a dark part of its picture has no visible end, and is taken
    to be as wide as the other one.
    """
    sharp_above, sharp_below = _ends_straight(picture_HW3, above), _ends_straight(picture_HW3[::-1], below)
    if sharp_above and sharp_below:
        return above, below
    if not _differs(picture_HW3[:1], picture_HW3[-1]).any():
        if sharp_above and below >= 0.9 * above:
            return above, above
        if sharp_below and above >= 0.9 * below:
            return below, below
    return 0.0, 0.0


def _ends_straight(picture_HW3: Colours, bar: float) -> bool:
    """Whether most of a line behind the bar differs from it, and one of that line's ends: a thing reaches no end."""
    height, width = picture_HW3.shape[:2]
    start, end = round(bar * height), max(1, round(END * width))
    behind_HW = _differs(picture_HW3[start : start + max(3, round(0.01 * height))], picture_HW3[0])
    reaches = max(float(behind_HW[:, :end].mean()), float(behind_HW[:, -end:].mean())) > 0.5
    return reaches and bool(behind_HW.mean(axis=1).max() >= STRAIGHT)


def _is_framed(picture_HW3: Colours, found: Bars) -> bool:
    """Whether what is inside the bars fills its corners and sides: three of four at least, one may be dark."""
    height, width = picture_HW3.shape[:2]
    inside_HW3 = picture_HW3[
        round(found.top * height) : round((1 - found.bottom) * height),
        round(found.left * width) : round((1 - found.right) * width),
    ]
    filled_HW = _differs(inside_HW3, picture_HW3[0])
    tall, wide = max(2, round(CORNER * filled_HW.shape[0])), max(2, round(CORNER * filled_HW.shape[1]))
    if min(filled_HW.shape) < 8:
        return False
    sides = (filled_HW[:tall], filled_HW[-tall:], filled_HW[:, :wide], filled_HW[:, -wide:])
    corners = [side[:, edge] for side in sides[:2] for edge in (slice(None, wide), slice(-wide, None))]
    return sum(c.mean() > 0.5 for c in corners) >= 3 and sum(s.mean() > STRAIGHT for s in sides) >= 3


def _differs(picture_HW3: Colours, line_W3: Colours) -> NDArray[np.bool_]:
    """Where the picture differs from the middle colour of a line."""
    colour = np.median(line_W3.reshape(-1, 3), axis=0).astype(np.int16)
    return np.abs(picture_HW3 - colour).max(axis=2) > TOLERANCE
