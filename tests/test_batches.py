"""The data order: complete, pure, and the same from any point on."""

import itertools
from collections import Counter

import pytest
import torch

from zit_app.engine.batches import DataOrder
from zit_app.engine.focus import PictureFocus

SIZES = [(64, 64)] * 7 + [(80, 48)] * 3 + [(48, 80)]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("repeats", [1, 3])
def test_every_picture_is_seen_equally_often_at_any_batch_size(batch_size: int, repeats: int) -> None:
    order = DataOrder(SIZES, batch_size, repeats, seed=5)
    for number in range(3):
        batches = order.epoch(number)
        assert len(batches) == order.batches_per_epoch
        assert Counter(itertools.chain(*batches)) == Counter({i: repeats for i in range(len(SIZES))})
        assert all(len({SIZES[i] for i in batch}) == 1 and 0 < len(batch) <= batch_size for batch in batches)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    order = DataOrder(SIZES, 2, 1, seed=5)
    assert order.epoch(3) == DataOrder(SIZES, 2, 1, seed=5).epoch(3)
    assert order.epoch(3) != order.epoch(4)
    assert order.epoch(3) != DataOrder(SIZES, 2, 1, seed=6).epoch(3)
    assert order.epoch(0) == [[6, 1], [10], [2], [9], [5, 3], [8, 7], [0, 4]]  # a change would break every resume


def test_stream_goes_on_anywhere() -> None:
    order = DataOrder(SIZES, 2, 1, seed=5)
    whole = list(itertools.islice(order.stream(0), 25))
    for done in range(20):
        assert list(itertools.islice(order.stream(done), 5)) == whole[done : done + 5]


def test_a_focus_prefers_hard_pictures_of_the_same_bucket() -> None:
    order, random = DataOrder(SIZES, 2, 1, seed=5), torch.Generator().manual_seed(0)
    focus = PictureFocus(order, 0.5)
    focus.saw([2] * 20 + [8] * 20, [6.0] * 40)  # picture 2 among seven, 8 among three stay hard
    large = [focus.choose([0, 1], random) for _ in range(500)]
    assert {i for batch in large for i in batch} <= set(range(7))
    counts = Counter(itertools.chain(*large))
    assert counts[2] == pytest.approx(500 * 6 / 12, rel=0.2) and counts[3] == pytest.approx(500 / 12, rel=0.4)
    assert Counter(itertools.chain(*(focus.choose([7], random) for _ in range(100))))[8] > 20

    again, copy = PictureFocus(order, 0.5), torch.Generator()
    again.load(focus.state())
    copy.set_state(random.get_state())
    assert [again.choose([0, 1], copy) for _ in range(9)] == [focus.choose([0, 1], random) for _ in range(9)]
    before = random.get_state()
    assert PictureFocus(order, 0.0).choose([0, 1], random) == [0, 1] and torch.equal(random.get_state(), before)
