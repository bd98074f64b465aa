"""Shares of amounts, rounded to hundredths, tenths or whole numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from worldmodel.derive.expressions import Call, Const, Expression, Linear, Product, Quotient
from worldmodel.learn.rows import FEWEST

SHARE = 0.12
"""The least share of rows that a formula must be exact on: a tree may choose among several."""
PLACES = 2
"""Places that sums of money are rounded to."""
LEAST_WHOLE = 30
"""Shares of smaller whole numbers are met by chance."""
TOTALS = ("law/", "sum(")
"""Sources that come first: a tax is taken of what the answer adds up."""
DIFFERENCES = 8
"""Of so many columns, two may be subtracted before a share is taken: a subtotal less its discount."""
WHOLE: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("whole", np.round), ("half_up", lambda x: np.floor(x + 0.5)), ("floor", np.floor), ("ceiling", np.ceil),
)  # fmt: skip
GOOD_ENOUGH = 0.6
"""The shortest factor is taken that is right at least this often, relative to the best one: 1.07 instead of 1.0701."""


def rounded(
    goal: np.ndarray, names: Sequence[str], columns: Sequence[np.ndarray], first: int = 16
) -> Iterator[tuple[Expression, np.ndarray, np.ndarray]]:
    """A share of a column, or of a product, quotient or difference of two, rounded to as many places as the goal has,
    or to whole numbers where all are whole (amounts in minor units): a price for a part of a month, a tax, a share in
    percent.
    """
    whole = np.allclose(np.round(goal), goal, rtol=0, atol=1e-9)
    if whole and np.median(np.abs(goal)) < LEAST_WHOLE:
        return
    if not np.allclose(np.round(goal, PLACES), goal, rtol=0, atol=1e-9):
        return
    order = sorted(range(len(names)), key=lambda k: not names[k].startswith(TOTALS))
    names, columns = [names[k] for k in order], [columns[k] for k in order]
    some = range(len(names[:first]))
    made: list[tuple[Expression, np.ndarray]] = [
        (Linear(((1.0, name),)), column) for name, column in zip(names, columns, strict=True)
    ]
    if not whole:
        made += [(Product(names[a], names[b]), columns[a] * columns[b]) for a in some for b in some if a <= b]
        made += [(Quotient(names[a], names[b]), columns[a] / columns[b]) for a in some for b in some if a != b]
    near = range(len(names[:DIFFERENCES]))
    apart = [(a, b) for a in near for b in near if a != b]
    made += [(Linear(((1.0, names[a]), (-1.0, names[b]))), columns[a] - columns[b]) for a, b in apart]
    places = 1 if np.allclose(np.round(goal, 1), goal, rtol=0, atol=1e-9) else PLACES
    ways = WHOLE if whole else (("round", lambda x: np.round(x, places)),)
    for plain, column in made:
        known = np.isfinite(column) & (column != 0)
        if known.sum() < max(8, 0.3 * len(goal)) or np.ptp(column[known]) == 0:
            continue
        large = known & (np.abs(column) >= np.median(np.abs(column[known])))
        for ratio in _ratios(goal[large] / column[large]):
            right = [
                (f, way, np.abs(to(np.round(column * f, 9)) - goal) < 1e-9)
                for f in _short(ratio) if not (whole and f == int(f)) for way, to in ways
            ]  # fmt: skip
            most = max((exact.sum() for _, _, exact in right), default=0)
            if most >= max(FEWEST, SHARE * known.sum()):
                fewest = most if whole else GOOD_ENOUGH * most
                factor, way, exact = next(one for one in right if one[2].sum() >= fewest)
                inner = _times(plain, factor)
                yield Call(way, (inner,) if whole else (inner, Const(places))), exact, known


def _ratios(found: np.ndarray) -> list[float]:
    """The median ratio, and the ratios that occur most often: the share may depend on something else."""
    values, counts = np.unique(np.round(found, 2), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:4]
    usual = [v for v, n in zip(values[order], counts[order], strict=True) if v and n >= FEWEST]
    return [float(np.median(found)), *(float(np.median(found[np.round(found, 2) == v])) for v in usual)]


def _short(ratio: float) -> list[float]:
    """Factors near a ratio that are written shortly, also as one part of so many."""
    if not math.isfinite(ratio) or abs(ratio) < 1e-6:
        return []
    found = [round(ratio, digits) for digits in range(5)]
    if round(1 / ratio):
        found.append(1 / round(1 / ratio))
    return [f for f in dict.fromkeys(found) if f and abs(f / ratio - 1) < 0.01]


def _times(plain: Expression, factor: float) -> Expression:
    if isinstance(plain, Linear):
        return Linear(tuple((factor * own, name) for own, name in plain.terms))
    return msgspec.structs.replace(plain, factor=factor)
