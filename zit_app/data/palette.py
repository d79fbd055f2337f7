"""Few colours: which ones a data set uses most, and pictures that are put into them.

An art of flat colours is told by them: of the embedded model's own pictures none passes for one of the demo's stickers,
of the same pictures in the stickers' twelve colours nearly all do (`zit pocket teach`).

N pixels, P colours of the palette, K of the picture.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from zit_app.data.formats import load_picture
from zit_app.data.pictures import Item

SEEN = 128  # pixels a side that are looked at: more costs time and finds the same colours
BIN = 4  # of 256 steps a channel: what differs less counts as one colour
ENOUGH = 200  # pictures, spread over the data set
# Pixels: a drawing's grain is evened out before it is put into few colours, and lonely spots afterwards.
SMOOTHED, TIDIED = 5, 5
OWN, ROUNDS = 12, 10  # colours of its own that a picture is brought to at least, and rounds of k-means to find them
_TO_CONES = np.array(
    (
        (0.4122214708, 0.5363325363, 0.0514459929),
        (0.2119034982, 0.6806995451, 0.1073969566),
        (0.0883024619, 0.2817188376, 0.6299787005),
    )
)
_TO_OKLAB = np.array(
    (
        (0.2104542553, 0.7936177850, -0.0040720468),
        (1.9779984951, -2.4285922050, 0.4505937099),
        (0.0259040371, 0.7827717662, -0.8086757660),
    )
)


def frequent_colours(items: Sequence[Item], count: int, background: str = "white") -> np.ndarray:
    """The ``count`` most frequent colours of pictures, the first one first: (P, 3) uint8, P ≤ count ≤ 256.

    Colours within one bin of 4 steps a channel are one, their mean. All pictures count alike.
    """
    looked_at = items[:: -(-len(items) // ENOUGH)]
    seen_N3 = np.concatenate([_pixels(item, background) for item in looked_at]).astype(np.int64)
    _, inverse_N, sizes_P = np.unique(seen_N3 // BIN, axis=0, return_inverse=True, return_counts=True)
    inverse_N = inverse_N.reshape(-1)
    sums_P3 = np.stack([np.bincount(inverse_N, seen_N3[:, i], len(sizes_P)) for i in range(3)], 1)
    first = np.argsort(-sizes_P, kind="stable")[:count]
    return np.rint(sums_P3[first] / sizes_P[first, None]).astype(np.uint8)


def in_colours(picture: Image.Image, palette_P3: np.ndarray) -> Image.Image:
    """The picture in flat areas of these colours: it is first brought to few colours of its own (median cut, k-means),
    and each of those becomes the nearest of the palette's, so that an area gets one colour.

    Near is what has the same hue: with L lightness, C chroma and ΔH what is left of Δa² + Δb² (OKLab),

        d² = (ΔL / 2)² + (2 ΔC)² + ΔH²

    By RGB or even distances grey becomes whatever green or pink is as light, and one area falls apart by its shades.
    """
    smooth = picture.convert("RGB").filter(ImageFilter.MedianFilter(SMOOTHED))
    small = smooth.copy()
    small.thumbnail((SEEN, SEEN), Image.Resampling.NEAREST)
    few = small.quantize(max(OWN, len(palette_P3)), Image.Quantize.MEDIANCUT, kmeans=ROUNDS, dither=Image.Dither.NONE)
    own_K3 = np.array(few.getpalette(), np.uint8).reshape(-1, 3)
    own_K13, palette_1P3 = oklab(own_K3)[:, None], oklab(palette_P3)[None]
    lightness_KP = own_K13[..., 0] - palette_1P3[..., 0]
    chroma_KP = np.linalg.norm(own_K13[..., 1:], axis=-1) - np.linalg.norm(palette_1P3[..., 1:], axis=-1)
    colour_KP = np.square(own_K13[..., 1:] - palette_1P3[..., 1:]).sum(-1)  # ΔC² + ΔH²
    nearest_K = (lightness_KP**2 / 4 + 3 * chroma_KP**2 + colour_KP).argmin(1).astype(np.uint8)
    own_N = _nearest(np.asarray(smooth, np.float32).reshape(-1, 3), own_K3)
    areas = Image.fromarray(nearest_K[own_N].reshape(picture.height, picture.width))
    return Image.fromarray(palette_P3[np.asarray(areas.filter(ImageFilter.ModeFilter(TIDIED)))])


def oklab(rgb_N3: np.ndarray) -> np.ndarray:
    """sRGB in 0 … 255 to OKLab (Ottosson 2020, "A perceptual color space for image processing"): lightness from 0 to 1,
    a and b, (N, 3) float64."""
    value_N3 = rgb_N3 / 255
    linear_N3 = np.where(value_N3 <= 0.04045, value_N3 / 12.92, ((value_N3 + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear_N3 @ _TO_CONES.T) @ _TO_OKLAB.T


def _nearest(pixels_N3: np.ndarray, colours_K3: np.ndarray) -> np.ndarray:
    """Which of up to 256 colours is nearest in RGB, (N,) uint8. (Pillow's mapping to a palette rounds colours.)"""
    nearest_N, least_N = np.zeros(len(pixels_N3), np.uint8), np.full(len(pixels_N3), np.inf, np.float32)
    for i, colour in enumerate(colours_K3.astype(np.float32)):  # not all at once: 256 colours of 1024² are 1 GB
        apart_N = np.square(pixels_N3 - colour).sum(1)
        nearest_N[apart_N < least_N] = i
        least_N = np.minimum(apart_N, least_N)
    return nearest_N


def _pixels(item: Item, background: str) -> np.ndarray:
    size, box = (SEEN, SEEN), (0.0, 0.0, float(item.size[0]), float(item.size[1]))
    return np.asarray(load_picture(item.path, size, box, background)).reshape(-1, 3)
