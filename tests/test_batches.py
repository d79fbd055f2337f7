"""The data order: complete, pure, and the same from any point on."""

import itertools
import json
from collections import Counter

import pytest
import torch

from zit_app.engine.batches import DataOrder
from zit_app.engine.focus import Focus

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
    focus = Focus(order, 0.5)
    focus.saw([2] * 20 + [8] * 20, [6.0] * 40)  # picture 2 among seven, 8 among three stay hard
    large = [focus.choose([0, 1], random) for _ in range(500)]
    assert {i for batch in large for i in batch} <= set(range(7))
    counts = Counter(itertools.chain(*large))
    assert counts[2] == pytest.approx(500 * 6 / 12, rel=0.2) and counts[3] == pytest.approx(500 / 12, rel=0.4)
    assert Counter(itertools.chain(*(focus.choose([7], random) for _ in range(100))))[8] > 20

    again, copy = Focus(order, 0.5), torch.Generator()
    again.load(focus.state())
    copy.set_state(random.get_state())
    assert [again.choose([0, 1], copy) for _ in range(9)] == [focus.choose([0, 1], random) for _ in range(9)]
    before = random.get_state()
    assert Focus(order, 0.0).choose([0, 1], random) == [0, 1] and torch.equal(random.get_state(), before)


def test_a_focus_on_concepts_prefers_those_whose_held_out_loss_stays_high() -> None:
    order, random = DataOrder(SIZES, 2, 1, seed=5), torch.Generator().manual_seed(0)
    focus = Focus(order, 0.0, 0.5, ["cat", "cat", "cat", "dog", "dog", "dog", "bird", "cat", "cat", "cat", "dog"])
    focus.saw([0] * 60, [3.0] * 60)  # nothing is known of held-out pictures yet: training's own losses tell
    assert focus.hardness("cat") > 2.5 and focus.hardness("dog") == focus.hardness("bird") == 1
    focus.hear({"cat": 0.1, "dog": 0.5})
    assert (focus.hardness("cat"), focus.hardness("dog")) == (pytest.approx(1 / 3), pytest.approx(5 / 3))
    assert focus.hardness("bird") == 1  # none was kept aside
    counts = Counter(itertools.chain(*(focus.choose([0, 6], random) for _ in range(2000))))
    weights = {0: 1 / 3, 1: 1 / 3, 2: 1 / 3, 3: 5 / 3, 4: 5 / 3, 5: 5 / 3, 6: 1.0}
    for picture in (1, 2, 3, 4, 5):
        assert counts[picture] == pytest.approx(2000 * weights[picture] / sum(weights.values()), rel=0.25), picture
    assert {i for _ in range(50) for i in focus.choose([8, 9], random)} <= {7, 8, 9}  # of the batch's bucket

    again, copy = Focus(order, 0.0, 0.5, focus.categories), torch.Generator()
    again.load(json.loads(json.dumps(focus.state())))
    copy.set_state(random.get_state())
    assert [again.choose([0, 1], copy) for _ in range(9)] == [focus.choose([0, 1], random) for _ in range(9)]
    old = Focus(order, 0.5)
    old.load([2.0] * len(SIZES))  # of a checkpoint of version 0.1
    assert old.relative == [2.0] * len(SIZES)


def test_both_focuses_share_a_batch() -> None:
    order, random = DataOrder(SIZES, 4, 1, seed=5), torch.Generator().manual_seed(1)
    focus = Focus(order, 0.3, 0.6, ["a"] * 6 + ["b"] * 5)
    focus.saw([2] * 30, [9.0] * 30)
    focus.hear({"a": 0.001, "b": 1.0})
    counts = Counter(itertools.chain(*(focus.choose([0, 1, 3, 4], random) for _ in range(1000))))
    own = 4000 * 0.1 / 4
    assert counts[6] == pytest.approx(4000 * (0.6 * 2 / (2 + 6 * 0.002) + 0.3 / 15), rel=0.15)  # the only one of b
    assert counts[2] == pytest.approx(4000 * 0.3 * 9 / 15, rel=0.2) and counts[0] > 0.8 * own
