"""Which items a step uses: all of them in random order, again and again, and no item twice within one step."""

from __future__ import annotations

import numpy as np


def order_of(step: int, wanted: int, count: int, seed: int) -> list[int]:
    """The `wanted` of `count` items that a step uses, as numbers.

    Each item is used once before any is repeated. Where a step begins a new round, it takes the items of that round
    that it does not have yet; the others follow in the next step. An item comes twice in a step only if there are fewer
    items than wanted. The result depends on nothing but the arguments, so a resumed run continues the order.
    """
    left: list[int] = []
    chosen: list[int] = []
    rounds = 0
    for _ in range(step + 1):
        chosen = []
        while len(chosen) < wanted:
            if not left:
                left = np.random.default_rng([seed, rounds]).permutation(count).tolist()
                rounds += 1
            item = next((k for k in left if k not in chosen), left[0])
            left.remove(item)
            chosen.append(item)
    return chosen
