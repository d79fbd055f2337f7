"""Aspect buckets: sizes, least cropping, and that nothing is left out."""

import pytest

from zit_app.core.errors import ZitError
from zit_app.data.buckets import bucket_sizes, crop_to_bucket


@pytest.mark.parametrize("resolution", [64, 128, 250, 512, 1024])
def test_sizes_are_multiples_of_16_and_never_above_the_area(resolution: int) -> None:
    sizes = bucket_sizes(resolution)
    assert all(w % 16 == 0 and h % 16 == 0 and w * h <= resolution**2 for w, h in sizes)
    assert (resolution // 16 * 16,) * 2 in sizes
    assert {(h, w) for w, h in sizes} == set(sizes)
    assert all(max(w / h, h / w) <= 4 for w, h in sizes)


def test_one_square_without_buckets_and_none_below_one_step() -> None:
    assert bucket_sizes(520, enable_bucket=False) == [(512, 512)]
    with pytest.raises(ZitError, match="too small"):
        bucket_sizes(15)


def test_chooses_what_crops_least() -> None:
    sizes = bucket_sizes(1024)
    for size in ((4000, 3000), (1080, 1920), (333, 1000), (640, 641), (7, 2000), (3000, 100)):
        crop = crop_to_bucket(size, sizes)
        aspect = size[0] / size[1]
        least = 1 - max(min(aspect * h / w, w / (aspect * h)) for w, h in sizes)
        assert crop.lost == pytest.approx(least, abs=1e-8)
        left, top, right, bottom = crop.box
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        assert (right - left) / (bottom - top) == pytest.approx(crop.size[0] / crop.size[1])
        assert 1 - (right - left) * (bottom - top) / (size[0] * size[1]) == pytest.approx(crop.lost)
        assert left + right == pytest.approx(size[0]) and top + bottom == pytest.approx(size[1])


def test_ordinary_photographs_lose_little() -> None:
    for size in ((6000, 4000), (4032, 3024), (1920, 1080), (1080, 1350)):
        assert crop_to_bucket(size, bucket_sizes(1024)).lost < 0.02
