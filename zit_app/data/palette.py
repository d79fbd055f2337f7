"""Few colours: which ones a data set uses most, and pictures that are put into them.

An art of flat colours is told by them: of the embedded model's own pictures none passes for one of the demo's stickers,
of the same pictures in the stickers' twelve colours nearly all do (`zit pocket teach`).

N pixels, P colours, H and W pixels.
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
    """The picture in flat areas of these colours, each pixel in the nearest one (RGB)."""
    smooth = picture.convert("RGB").filter(ImageFilter.MedianFilter(SMOOTHED))
    pixels_N3 = np.asarray(smooth, np.float32).reshape(-1, 3)
    nearest_N, least_N = np.zeros(len(pixels_N3), np.uint8), np.full(len(pixels_N3), np.inf, np.float32)
    for i, colour in enumerate(palette_P3.astype(np.float32)):  # not all at once: 256 colours of 1024² are 1 GB
        apart_N = np.square(pixels_N3 - colour).sum(1)
        nearest_N[apart_N < least_N] = i
        least_N = np.minimum(apart_N, least_N)
    nearest_HW = nearest_N.reshape(picture.height, picture.width)
    tidy_HW = np.asarray(Image.fromarray(nearest_HW).filter(ImageFilter.ModeFilter(TIDIED)))
    return Image.fromarray(palette_P3[tidy_HW])


def _pixels(item: Item, background: str) -> np.ndarray:
    size, box = (SEEN, SEEN), (0.0, 0.0, float(item.size[0]), float(item.size[1]))
    return np.asarray(load_picture(item.path, size, box, background)).reshape(-1, 3)
