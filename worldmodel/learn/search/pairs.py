"""Numbers that follow from two other numbers: sums, differences, products, lines through products, and quotients.

All pairs of one column are tried at once; shapes are (pairs, rows), NaN where a value is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from worldmodel.derive.expressions import Expression, Linear, Product, Quotient
from worldmodel.learn.rows import FEWEST

OFTEN = 0.6
"""A formula is offered that is exact in so many of the rows that it knows."""
FEWEST_ON_LINE = 6
EXACT, EXACT_QUOTIENT = 5e-3, 5e-6
_Make = Callable[[str, str, int], Expression]


def pairs(
    goal: np.ndarray, names: Sequence[str], columns: Sequence[np.ndarray], share: float
) -> Iterator[tuple[Expression, np.ndarray, np.ndarray]]:
    """Expressions of two columns, the rows in which they are exact, and those in which both columns are known; all that
    are exact in `OFTEN` of the latter, or in this share of all rows."""
    for a, left in enumerate(names):
        right = np.stack(columns[a:])
        known = ~np.isnan(columns[a] + right)
        count = known.sum(axis=1)
        fewest = np.maximum(FEWEST, np.minimum(OFTEN * count, share * len(goal)))
        if not (count >= FEWEST).any():
            continue
        found: list[list[tuple[Expression, np.ndarray, np.ndarray]]] = [[] for _ in names[a:]]
        for make, exact in _options(goal, columns[a], right):
            for k in np.flatnonzero((exact.sum(axis=1) >= fewest) & (count >= FEWEST)):
                found[k].append((make(left, names[a + k], k), exact[k], known[k]))
        for offered in found:
            yield from offered


def _options(goal: np.ndarray, x: np.ndarray, y: np.ndarray) -> Iterator[tuple[_Make, np.ndarray]]:
    """Each kind of formula, and where it is exact."""
    yield lambda a, b, _: Linear(((1.0, a), (1.0, b))), np.abs(x + y - goal) < EXACT
    yield lambda a, b, _: Linear(((1.0, a), (-1.0, b))), np.abs(x - y - goal) < EXACT
    yield lambda a, b, _: Linear(((-1.0, a), (1.0, b))), np.abs(y - x - goal) < EXACT
    product = x * y
    factor = modes(goal / product)
    yield lambda a, b, k: Product(a, b, float(factor[k])), np.abs(product * factor[:, None] - goal) < EXACT
    slope, base = _lines(product, goal)
    exact = np.abs(product * slope[:, None] + base[:, None] - goal) < EXACT
    yield lambda a, b, k: Product(a, b, float(slope[k]), float(base[k])), exact
    yield lambda a, b, _: Quotient(a, b), np.abs(x / y - goal) < EXACT_QUOTIENT
    yield lambda a, b, _: Quotient(b, a), np.abs(y / x - goal) < EXACT_QUOTIENT


def modes(values: np.ndarray) -> np.ndarray:
    """For each row of a matrix, the value that at least half of its known values have; NaN if there is none, or if it
    is 0. In a sorted row, such a value stands in the middle."""
    if not values.size:
        return np.full(len(values), np.nan)
    ordered = np.sort(np.round(np.where(np.isfinite(values), values, np.nan), 4), axis=1)
    known = np.isfinite(ordered).sum(axis=1)
    out = np.full(len(values), np.nan)
    for middle in (known // 2, np.maximum(known - 1, 0) // 2):
        value = np.take_along_axis(ordered, np.minimum(middle, ordered.shape[1] - 1)[:, None], axis=1)
        times = (ordered == value).sum(axis=1)
        often = (known >= FEWEST) & (times >= np.maximum(FEWEST, 0.5 * known))
        out = np.where(often, np.where(value[:, 0] != 0, value[:, 0], np.nan), out)
    return out


def _lines(x: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and base of the line from the least to the largest value; NaN if there are few, or if it is level."""
    known = np.isfinite(x)
    low = np.argmin(np.where(known, x, np.inf), axis=1)
    high = np.argmax(np.where(known, x, -np.inf), axis=1)
    at = np.arange(len(x))
    slope = np.round((goal[high] - goal[low]) / (x[at, high] - x[at, low]), 4)
    slope = np.where((known.sum(axis=1) >= FEWEST_ON_LINE) & np.isfinite(slope) & (slope != 0), slope, np.nan)
    return slope, np.round(goal[low] - slope * x[at, low], 4)


def exact_pair(goal: np.ndarray, names: Sequence[str], columns: Sequence[np.ndarray]) -> Linear | None:
    """Two columns and a constant that give the goal nearly everywhere, whatever each of them alone may look like."""
    best: tuple[int, Linear] | None = None
    for a in range(len(names)):
        for b in range(a + 1, len(names)):
            known = ~np.isnan(columns[a] + columns[b])
            n = int(known.sum())
            if n < max(8, 0.5 * len(goal)):
                continue
            matrix = np.stack([columns[a][known], columns[b][known], np.ones(n)], axis=1)
            factors, *_ = np.linalg.lstsq(matrix, goal[known], rcond=None)
            tidy = np.asarray(np.round(factors, 3))
            exact = int((np.abs(matrix @ tidy - goal[known]) < EXACT).sum())
            if exact >= 0.95 * n and tidy[0] and tidy[1] and (best is None or exact > best[0]):
                terms = ((float(tidy[0]), names[a]), (float(tidy[1]), names[b]))
                best = (exact, Linear(terms, float(tidy[2])))
    return None if best is None else best[1]
