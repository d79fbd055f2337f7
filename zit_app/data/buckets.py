"""Aspect buckets: the picture sizes that are trained, and which part of a picture goes into one.

Every size is a multiple of 16 pixels (8x VAE, 2x2 patches) of at most resolution² pixels, so the memory of a step
does not depend on the aspect.
"""

import math
from dataclasses import dataclass

from zit_app.core.errors import ZitError
from zit_app.data.formats import Box, Size

STEP = 16  # pixels
_WIDEST = 4.0  # aspect ratio of the widest bucket; a wider panorama goes into it, with its ends cropped


@dataclass(frozen=True)
class Crop:
    """`box` (pixels of the upright picture) is resized to `size`; `lost` is the share of the picture outside it."""

    size: Size
    box: Box
    lost: float

    @property
    def enlarges(self) -> bool:
        """Whether the picture has fewer pixels than the bucket."""
        left, top, right, bottom = self.box
        return right - left < self.size[0] or bottom - top < self.size[1]


def bucket_sizes(resolution: int, enable_bucket: bool = True) -> list[Size]:
    """All (width, height) in steps of 16 with the largest area that is not above resolution².

    Without buckets only the square. Raises ZitError when the resolution is below one step.
    """
    if resolution < STEP:
        raise ZitError(f"A resolution of {resolution} pixels is too small.", f"Choose at least {STEP}.")
    square = resolution // STEP * STEP
    if not enable_bucket:
        return [(square, square)]
    sizes = {(square, square)}  # said aloud for resolutions off the step, where a wider one is larger
    for short in range(STEP, square + 1, STEP):
        long = resolution**2 // short // STEP * STEP
        if long / short <= _WIDEST:
            sizes |= {(short, long), (long, short)}
    return sorted(sizes)


def crop_to_bucket(size: Size, buckets: list[Size]) -> Crop:
    """Choose the bucket that loses least of a picture of `size`, and the centred box of the bucket's aspect.

    With aspects a (picture) and b (bucket) the share kept is min(a/b, b/a). Equal losses go to the larger area.
    """
    width, height = size
    aspect = width / height

    def kept(bucket: Size) -> float:
        ratio = aspect * bucket[1] / bucket[0]
        return min(ratio, 1 / ratio)

    best = max(buckets, key=lambda bucket: (round(kept(bucket), 9), math.prod(bucket), bucket))
    target = best[0] / best[1]
    box_width, box_height = min(width, height * target), min(height, width / target)
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return Crop(best, (left, top, left + box_width, top + box_height), 1 - kept(best))
