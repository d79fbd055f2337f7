"""Near duplicates: the same picture again, mirrored, turned, resized, recompressed or cropped.

Two looks, the cheap one first. Whole pictures are compared by a perceptual hash (16 × 16 colours, all eight ways to
turn and mirror). What resembles in colours only may be a crop: the smaller one is sought in the larger at many sizes
by normalised correlation. Either way the two are laid over each other and must agree everywhere, so that two faces
with different mouths stay two pictures.

N pictures, H height, W width, S sizes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zit_app.data.formats import Box

Floats = NDArray[np.float32]
Thumb = NDArray[np.uint8]  # (H, W, 3)

HASH, THUMB, COARSE, FINE = 16, 128, 32, 48  # pixels a side: of hash, signature, search and comparison
COLOURS = 4  # levels a channel in the histogram of colours
ALIKE_HASH = 0.85  # correlation of two hashes from which the pictures are laid over each other
ALIKE_COLOURS = 0.88  # overlap of two histograms from which one may be a crop of the other
CANDIDATES = 6  # of the pictures with the most similar colours, as many are looked at
SMALLEST_CROP = 0.55  # of a side that a crop keeps
SCALES = 0.965 ** np.arange(0, 17)  # 1 … 0.57
ALIKE_COARSE, UNLIKE_COARSE = 0.6, 0.6  # least correlation and largest error from which a crop is looked at closely
MEAN_LIMIT, CELL_LIMIT = 0.12, 0.6  # squared difference over the picture's variance: all over, and in the worst cell
CELLS = 8  # cells a side in which the difference is looked at


@dataclass(frozen=True)
class Signature:
    """What is remembered of a picture to find it again: a small copy of its own aspect, at most 128 pixels a side."""

    thumb_HW3: Thumb


def signature(picture: Image.Image) -> Signature:
    """The signature of an RGB picture, without its bars."""
    scale = THUMB / max(picture.size)
    size = (max(8, round(picture.width * scale)), max(8, round(picture.height * scale)))
    return Signature(np.asarray(picture.resize(size, Image.Resampling.LANCZOS)))


_MOVES = (
    *((x, y, 0) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y),
    (0, 0, 1), (0, 0, -1), (0.5, 0, 1), (-0.5, 0, 1), (0, 0.5, 1), (0, -0.5, 1),
    (0.5, 0, -1), (-0.5, 0, -1), (0, 0.5, -1), (0, -0.5, -1),
)  # fmt: skip


def duplicates(signatures: list[Signature], crops: bool = True) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of pictures that are the same; `crops`: also where one is a part of the other."""
    if len(signatures) < 2:
        return []
    hashes = [_resized(each.thumb_HW3, (HASH, HASH)) for each in signatures]
    pairs = {pair for pair in _alike_hashes(hashes) if _same_whole(*(signatures[i].thumb_HW3 for i in pair))}
    for i, j in dict.fromkeys(_alike_colours(signatures)) if crops else ():
        if (i, j) not in pairs and (
            _is_crop(signatures[i].thumb_HW3, signatures[j].thumb_HW3)
            or _is_crop(signatures[j].thumb_HW3, signatures[i].thumb_HW3)
        ):
            pairs.add((i, j))
    return sorted(pairs)


def _alike_hashes(hashes: list[Floats]) -> Iterator[tuple[int, int]]:
    """Pairs whose hashes correlate, in any of the eight ways to turn and mirror one of them."""
    unit_ND = np.stack([_unit(one) for one in hashes])
    for way in range(8):
        turned_ND = np.stack([_unit(_turned(one, way)) for one in hashes])
        for start in range(0, len(hashes), 1024):  # 1024 × N correlations at a time
            close = np.argwhere(unit_ND[start : start + 1024] @ turned_ND.T > ALIKE_HASH)
            yield from ((int(i) + start, int(j)) for i, j in close if i + start < j)


def _alike_colours(signatures: list[Signature]) -> Iterator[tuple[int, int]]:
    """Pairs that share most of their colours, the nearest of each picture."""
    root_ND = np.stack([np.sqrt(_histogram(each.thumb_HW3)) for each in signatures])
    for i in range(len(signatures)):
        overlap = root_ND @ root_ND[i]
        overlap[i] = 0
        for j in np.argsort(overlap)[::-1][:CANDIDATES]:
            if overlap[j] > ALIKE_COLOURS:
                yield min(i, int(j)), max(i, int(j))


def _histogram(thumb_HW3: Thumb) -> Floats:
    levels = (thumb_HW3.astype(np.int32) * COLOURS) >> 8
    bins = levels[..., 0] * COLOURS**2 + levels[..., 1] * COLOURS + levels[..., 2]
    counts = np.bincount(bins.ravel(), minlength=COLOURS**3).astype(np.float32)
    return counts / counts.sum()


def _same_whole(one: Thumb, other: Thumb) -> bool:
    """Whether two whole pictures are the same in one of the eight ways, however they were resized."""
    a, b = (_resized(each, (FINE, FINE)) for each in (one, other))
    return any(_agree(a, _turned(b, way)) for way in range(8))


def _is_crop(large: Thumb, small: Thumb) -> bool:
    """Whether the small picture lies somewhere in the large one, mirrored perhaps."""
    scale = COARSE / max(large.shape[:2])
    ground_HW = _resized(large, (round(large.shape[1] * scale), round(large.shape[0] * scale))).mean(axis=2)
    height, width = ground_HW.shape
    fit = min(width / small.shape[1], height / small.shape[0])
    sizes = [(round(small.shape[1] * fit * shrink), round(small.shape[0] * fit * shrink)) for shrink in SCALES]
    sizes = [size for size in dict.fromkeys(sizes) if min(size) >= 8]
    for way in (small, np.ascontiguousarray(small[:, ::-1])):
        score, box = _best_place(ground_HW, way, sizes)
        if score > ALIKE_COARSE and _fits(large, way, tuple(edge / scale for edge in box)):
            return True
    return False


def _best_place(ground_HW: Floats, part: Thumb, sizes: list[tuple[int, int]]) -> tuple[float, Box]:
    """Highest normalised correlation of a picture, at any of these sizes, with any place of the ground."""
    height, width = ground_HW.shape
    ground = ground_HW - ground_HW.mean()
    shape = (2 * COARSE, 2 * COARSE)
    parts_SHW = np.zeros((len(sizes), *shape), np.float32)
    for i, size in enumerate(sizes):
        grey = _resized(part, size).mean(axis=2)
        parts_SHW[i, : size[1], : size[0]] = _unit(grey).reshape(grey.shape)
    spectrum = np.fft.rfft2(parts_SHW).conj() * np.fft.rfft2(ground, shape)
    cross_SHW = np.fft.irfft2(spectrum, shape)
    sums = np.pad(np.stack([ground, ground**2]).cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    best, place = 0.0, (0.0, 0.0, 0.0, 0.0)
    for i, (w, h) in enumerate(sizes):
        total = sums[:, h:, w:] - sums[:, :-h, w:] - sums[:, h:, :-w] + sums[:, :-h, :-w]
        power = np.maximum(total[1] - total[0] ** 2 / (w * h), w * h)  # at least one level of deviation
        score = cross_SHW[i, : height - h + 1, : width - w + 1] / np.sqrt(power)
        y, x = np.unravel_index(int(score.argmax()), score.shape)
        if score[y, x] > best:
            best, place = float(score[y, x]), (float(x), float(y), float(x + w), float(y + h))
    return best, place


def _fits(large: Thumb, small: Thumb, box: Box) -> bool:
    """Whether the small picture agrees with the large one near this box of it; the box is moved until it fits best."""
    scale = FINE / max(small.shape[:2])
    size = (max(8, round(small.shape[1] * scale)), max(8, round(small.shape[0] * scale)))
    wanted, picture = _resized(small, size), Image.fromarray(large)

    def cut(place: NDArray) -> Floats | None:
        """The part of the large picture around (x, y) with the width given, None when it reaches outside."""
        x, y, width = place
        half = (width / 2, width / 2 * size[1] / size[0])
        edges = (x - half[0], y - half[1], x + half[0], y + half[1])
        slack = 0.01 * max(picture.size)
        outside = max(-min(edges[:2]), edges[2] - picture.width, edges[3] - picture.height)
        if width < SMALLEST_CROP * THUMB / 4 or outside > slack:
            return None
        inside = (max(0, edges[0]), max(0, edges[1]), min(picture.width, edges[2]), min(picture.height, edges[3]))
        return np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=inside), np.float32)

    def error(place: NDArray) -> float:
        part = cut(place)
        return float("inf") if part is None else float(((part - wanted) ** 2).mean())

    place = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0]])
    place[2] = min(place[2], picture.width, picture.height * size[0] / size[1])
    place[0] = np.clip(place[0], place[2] / 2, picture.width - place[2] / 2)
    tall = place[2] * size[1] / size[0]
    place[1] = np.clip(place[1], tall / 2, picture.height - tall / 2)
    least, step = error(place), THUMB / COARSE / 1.5
    if least > UNLIKE_COARSE * max(60.0, float(wanted.reshape(-1, 3).var(axis=0).mean())):
        return False
    while step > 0.25:
        tries = [place + step * np.array(move) for move in _MOVES]
        errors = [error(one) for one in tries]
        if min(errors) < least:
            least, place = min(errors), tries[int(np.argmin(errors))]
        else:
            step /= 2
    part = cut(place)
    return part is not None and _agree(wanted, part)


def _agree(one: Floats, other: Floats) -> bool:
    """Whether two pictures laid over each other agree on the whole and in every part."""
    variance = max(60.0, float(one.reshape(-1, 3).var(axis=0).mean()))
    squared_HW = ((one - other) ** 2).mean(axis=2)
    if squared_HW.mean() > MEAN_LIMIT * variance:
        return False
    cells = np.asarray(Image.fromarray(squared_HW).resize((CELLS, CELLS), Image.Resampling.BOX))
    return bool(cells.max() <= CELL_LIMIT * variance)


def _resized(picture: NDArray, size: tuple[int, int]) -> Floats:
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS), np.float32)


def _turned(picture: Floats, way: int) -> Floats:
    """One of the eight ways to turn and mirror a square."""
    turned = np.rot90(picture, way % 4)
    return turned[:, ::-1] if way >= 4 else turned


def _unit(picture: Floats) -> Floats:
    vector = picture.ravel() - picture.mean()
    return vector / max(1.0, float(np.linalg.norm(vector)))
