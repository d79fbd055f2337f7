"""How sharp a picture is: the width of its sharpest edges.

An edge of contrast C whose steepest step from pixel to pixel is G is C / G pixels wide: 1 for a hard edge, 2.5 σ behind
a Gaussian blur of σ (edge-width measures: Marziliano et al. 2002). The sharpest tenth of the edges counts, so a soft
background does not make a picture blurred; each direction alone, so a moved camera does.

H height, W width.
"""

import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.float32]  # (H, W), 0 … 255
REACH = 8  # pixels to each side of an edge in which its contrast is found
SHARPEST = 10  # percent of the edges
FEWEST = 30  # edges below which nothing is said


def edge_width(grey_HW: Grey) -> float:
    """Width in pixels of the sharpest edges, the wider of the two directions; infinite where contrast has no edge.

    0 for a picture without contrast: nothing can be said about its sharpness.
    """
    low, high = np.percentile(grey_HW, (1, 99))
    contrast = max(20.0, 0.3 * float(high - low))
    if high - low < 20:
        return 0.0
    widths = [_width(grey_HW, contrast), _width(grey_HW.T, contrast)]
    known = [width for width in widths if width > 0]
    return max(known) if known else float("inf")


def _width(grey_HW: Grey, contrast: float) -> float:
    """The same along the rows; 0 when there are too few edges."""
    step = np.abs(np.diff(grey_HW, axis=1))  # (H, W - 1)
    length = step.shape[1] - 2 * REACH
    if length < 8:
        return 0.0
    peak = step[:, REACH : REACH + length]
    largest = np.zeros_like(peak)
    high = grey_HW[:, REACH : REACH + length].copy()
    low = high.copy()
    for shift in range(-REACH, REACH + 2):
        window = grey_HW[:, REACH + shift : REACH + shift + length]
        np.maximum(high, window, out=high)
        np.minimum(low, window, out=low)
        if -2 <= shift <= 2:
            np.maximum(largest, step[:, REACH + shift : REACH + shift + length], out=largest)
    found = (high - low > contrast) & (peak >= largest) & (peak > 0)
    if np.count_nonzero(found) < FEWEST:
        return 0.0
    return float(np.percentile((high - low)[found] / peak[found], SHARPEST))
