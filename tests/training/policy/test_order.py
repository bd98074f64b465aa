"""The order in which steps use scenarios: each once a round, and none twice in one step."""

from __future__ import annotations

from collections import Counter

import pytest

from training.policy.order import order_of


@pytest.mark.parametrize(("count", "wanted"), [(14, 6), (7, 7), (9, 8), (20, 3), (5, 1)])
def test_each_item_is_used_once_a_round_and_never_twice_in_a_step(count: int, wanted: int) -> None:
    steps = [order_of(step, wanted, count, seed=3) for step in range(4 * count)]
    assert all(len(set(chosen)) == wanted for chosen in steps)
    flat = [k for chosen in steps for k in chosen]
    rounds = [flat[k : k + count] for k in range(0, len(flat), count)]
    assert all(sorted(one) == list(range(count)) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_with_fewer_items_than_wanted_they_are_repeated_evenly() -> None:
    used = Counter(order_of(0, 8, 3, seed=0))
    assert sorted(used.values()) == [2, 3, 3]
