"""Shares of amounts, rounded to hundredths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from worldmodel.derive.expressions import Call, Const, Expression, Linear, Product, Quotient
from worldmodel.learn.rows import FEWEST

SHARE = 0.12
"""The least share of rows that a formula must be exact on: a tree may choose among several."""
PLACES = 2
"""Places that sums of money are rounded to."""
GOOD_ENOUGH = 0.6
"""The shortest factor is taken that is right at least this often, relative to the best one: 1.07 instead of 1.0701."""


def rounded(
    goal: np.ndarray, names: Sequence[str], columns: Sequence[np.ndarray], first: int = 16
) -> Iterator[tuple[Expression, np.ndarray, np.ndarray]]:
    """A share of a column, or of a product or quotient of two, rounded to hundredths: a price for a part of a month."""
    if not np.allclose(np.round(goal, PLACES), goal, rtol=0, atol=1e-9) or np.allclose(np.round(goal), goal):
        return
    some = range(len(names[:first]))
    made: list[tuple[Expression, np.ndarray]] = [(Linear(((1.0, names[a]),)), columns[a]) for a in some]
    made += [(Product(names[a], names[b]), columns[a] * columns[b]) for a in some for b in some if a <= b]
    made += [(Quotient(names[a], names[b]), columns[a] / columns[b]) for a in some for b in some if a != b]
    for plain, column in made:
        known = np.isfinite(column) & (column != 0)
        if known.sum() < max(8, 0.3 * len(goal)) or np.ptp(column[known]) == 0:
            continue
        large = known & (np.abs(column) >= np.median(np.abs(column[known])))
        for ratio in _ratios(goal[large] / column[large]):
            right = [(f, np.abs(np.round(column * f, PLACES) - goal) < 1e-9) for f in _short(ratio)]
            most = max((exact.sum() for _, exact in right), default=0)
            if most >= max(FEWEST, SHARE * known.sum()):
                factor, exact = next(pair for pair in right if pair[1].sum() >= GOOD_ENOUGH * most)
                yield Call("round", (_times(plain, factor), Const(PLACES))), exact, known


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
        return Linear(((factor, plain.terms[0][1]),))
    return msgspec.structs.replace(plain, factor=factor)
