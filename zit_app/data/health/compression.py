"""How badly JPEG has treated a picture: from the tables in its file, and from the blocks in its pixels.

H height, W width.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.float32]  # (H, W), 0 … 255
BLOCK = 8
# Sum of the standard luminance table (ITU-T T.81, table K.1), which quality 50 uses as it is.
_STANDARD_SUM = 3687


def jpeg_quality(image: Image.Image) -> int | None:
    """The quality a JPEG was saved with on the scale of libjpeg, 1 to 100, from its luminance table; else None."""
    tables = getattr(image, "quantization", None)
    if image.format not in ("JPEG", "MPO") or not tables:
        return None
    scale = 100 * sum(tables[0]) / _STANDARD_SUM  # libjpeg: 5000 / q below 50, 200 - 2 q above
    return max(1, min(100, round(5000 / scale if scale > 100 else 100 - scale / 2)))


def blockiness(grey_HW: Grey) -> float:
    """Share of the steps on an 8 × 8 grid that stand alone between two smooth sides, above what chance gives.

    Places where nothing changes at all do not count. Both directions must show it, and the lesser counts. About 0 for
    a picture that JPEG has not harmed.
    """
    return min(_grid(grey_HW), _grid(grey_HW.T))


def _grid(grey_HW: Grey) -> float:
    step = np.diff(grey_HW, axis=1)
    size = np.abs(step)
    before, here, after = size[:, :-2], size[:, 1:-1], size[:, 2:]
    alone = (here > 2 * np.maximum(before, after) + 1) & (here < 40)  # larger ones are edges of things
    changes = before + here + after > 0.5
    if alone.shape[1] < 4 * BLOCK:
        return 0.0
    lone, all_of = alone.sum(axis=0), changes.sum(axis=0)
    phases = np.array([lone[phase::BLOCK].sum() / max(1, all_of[phase::BLOCK].sum()) for phase in range(BLOCK)])
    best = int(phases.argmax())
    return float(phases[best] - np.delete(phases, best).max())
