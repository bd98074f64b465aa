"""Numbers that follow from others."""

from __future__ import annotations

from worldmodel.derive.expressions import Linear, Product, Quotient, evaluate
from worldmodel.derive.values import UNKNOWN

LARGE = 10**308


def test_what_is_too_large_to_calculate_with_is_unknown() -> None:
    for expression, a, b, found in (
        (Product("a", "b"), 3, 4, 12),
        (Product("a", "b", 0.5, 1.0), 3, 5, 8.5),
        (Product("a", "b"), LARGE, 20, UNKNOWN),
        (Product("a", "b", 2.5), LARGE, 20, UNKNOWN),
        (Product("a", "b", 3.5), 1e308, 2.5, UNKNOWN),
        (Quotient("a", "b"), 3, 4, 0.75),
        (Quotient("a", "b"), 3, 0, UNKNOWN),
        (Quotient("a", "b"), 1e308, 1e-5, UNKNOWN),
        (Linear(((1.0, "a"), (1.0, "b"))), LARGE, LARGE, UNKNOWN),
        (Linear(((2.0, "a"),)), LARGE, 0, UNKNOWN),
    ):
        assert evaluate(expression, {"a": a, "b": b}) == found, expression
