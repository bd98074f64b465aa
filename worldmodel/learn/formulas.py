"""Numbers that follow from other numbers: sums, products, quotients and exact linear formulas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from worldmodel.derive.expressions import Expression, Linear, Product, Quotient
from worldmodel.derive.values import ABSENT, is_number
from worldmodel.learn.rows import FEWEST, NO_VALUES, Rows, rank

SHARE = 0.12
"""The least share of rows that a formula must be exact on: a tree may choose among several."""


def formulas(rows: Rows, targets: Sequence[Any], at: Sequence[int], most: int = 36) -> list[Expression]:
    """Sums, differences and products of two sources, and sparse linear combinations, that are exact."""
    at = [i for i in at if is_number(targets[i])][:400]
    if len(at) < 4 or len({targets[i] for i in at}) < 3:
        return []
    goal = np.array([float(targets[i]) for i in at])
    names, columns = _numeric(rows, at, most)
    found: list[tuple[int, Expression]] = []

    def offer(expression: Expression, exact: np.ndarray, known: np.ndarray) -> None:
        n = int(exact.sum())
        some = n >= max(FEWEST, SHARE * len(at)) and len(np.unique(goal[exact])) >= 3
        if n >= max(FEWEST, 0.6 * known.sum()) or some:
            found.append((n, expression))

    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for k, name in enumerate(names):
            known = ~np.isnan(columns[k])
            for shift in _modes(goal - columns[k]):
                offer(Linear(((1.0, name),), shift), np.abs(columns[k] + shift - goal) < 5e-3, known)
            for factor in _factors(columns[k], goal):
                offer(Linear(((factor, name),)), _close(columns[k] * factor, goal), known)
            for shift in _modes(goal + columns[k]):
                offer(Linear(((-1.0, name),), shift), np.abs(shift - columns[k] - goal) < 5e-3, known)
        if not any(n >= 0.9 * len(at) for n, _ in found):
            for a, left in enumerate(names):
                for b in range(a, len(names)):
                    right, x, y = names[b], columns[a], columns[b]
                    known = ~np.isnan(x + y)
                    if known.sum() < FEWEST:
                        continue
                    offer(Linear(((1.0, left), (1.0, right))), np.abs(x + y - goal) < 5e-3, known)
                    offer(Linear(((1.0, left), (-1.0, right))), np.abs(x - y - goal) < 5e-3, known)
                    offer(Linear(((-1.0, left), (1.0, right))), np.abs(y - x - goal) < 5e-3, known)
                    for factor in _modes(goal / (x * y)):
                        offer(Product(left, right, factor), np.abs(x * y * factor - goal) < 5e-3, known)
                    line = _line(x * y, goal)
                    if line is not None:
                        offer(Product(left, right, *line), np.abs(x * y * line[0] + line[1] - goal) < 5e-3, known)
                    offer(Quotient(left, right), np.abs(x / y - goal) < 5e-6, known)
                    offer(Quotient(right, left), np.abs(y / x - goal) < 5e-6, known)
        if not any(n >= 0.9 * len(at) for n, _ in found):
            for expression, exact in with_product(goal, names, columns):
                offer(expression, exact, np.ones(len(goal), bool))
    if not any(n >= 0.9 * len(at) for n, _ in found):
        combined = exact_pair(goal, names, columns) or sparse(goal, names, columns)
        if combined is not None:
            found.append((len(at), combined))
    found.sort(key=lambda pair: (-pair[0], len(repr(pair[1]))))
    return [e for _, e in found[:4]]


def with_product(
    goal: np.ndarray, names: Sequence[str], columns: Sequence[np.ndarray], most: int = 14
) -> list[tuple[Expression, np.ndarray]]:
    """A column more or less a product of two others: what is left after a quantity at a price."""
    found: list[tuple[Expression, np.ndarray]] = []
    pairs = [(a, b) for a in range(len(names[:most])) for b in range(a + 1, len(names[:most]))]
    products = np.stack([columns[a] * columns[b] for a, b in pairs]) if pairs else np.zeros((0, len(goal)))
    for k, name in enumerate(names[:most]):
        for sign in (-1.0, 1.0):
            exact = np.abs(columns[k] + sign * products - goal) < 6e-3
            hits = exact.sum(axis=1)
            if len(hits) and hits.max() >= max(FEWEST, 0.3 * len(goal)):
                best = int(np.argmax(hits))
                a, b = pairs[best]
                terms = ((1.0, name), (sign, f"times({names[a]}|{names[b]})"))
                found.append((Linear(terms), exact[best]))
    return found


def _close(values: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Which values are the goal but for the noise of floats."""
    return np.asarray(np.abs(values - goal) <= 1e-9 * np.maximum(1.0, np.abs(goal)))


def _factors(column: np.ndarray, goal: np.ndarray) -> list[float]:
    """The factors that give the goal in many rows, each written as short as it can be."""
    ratios = goal / column
    known = np.isfinite(ratios) & (ratios != 0)
    found: list[float] = []
    values, counts = np.unique(np.round(ratios[known], 4), return_counts=True)
    for rough in values[np.argsort(-counts)][:6]:
        at = known & (np.abs(ratios - rough) < 2e-4 * max(1.0, abs(rough)))
        if at.sum() < FEWEST:
            continue
        middle = float(np.median(ratios[at]))
        for digits in range(10):
            factor = round(middle, digits)
            if factor and _close(column[at] * factor, goal[at]).mean() >= 0.8:
                found.append(factor)
                break
        else:
            found.append(round(middle, 4))
    return found


def _numeric(rows: Rows, at: Sequence[int], most: int) -> tuple[list[str], list[np.ndarray]]:
    counts: Counter[str] = Counter()
    for i in at[:60]:
        counts.update(n for n, v in rows.rows[i].items() if is_number(v) and not n.startswith(("since/", *NO_VALUES)))
    names = sorted((n for n, c in counts.items() if c >= 0.25 * min(60, len(at))), key=lambda n: (rank(n), -counts[n]))
    columns: list[np.ndarray] = []
    kept: list[str] = []
    seen: set[bytes] = set()
    for name in names:
        column = np.array([_as_number(rows.rows[i].get(name)) for i in at], dtype=float)
        mark = column.tobytes()
        if mark not in seen and len(kept) < most:
            seen.add(mark)
            kept.append(name)
            columns.append(column)
    return kept, columns


def _as_number(value: Any) -> float:
    """A source in a sum: a field that is not there counts as nothing."""
    return float(value) if is_number(value) else 0.0 if value is ABSENT else np.nan


def _modes(values: np.ndarray) -> list[float]:
    """The value that most of these are, if it is one worth a constant: at least a half of those known."""
    known = values[np.isfinite(values)]
    if len(known) < FEWEST:
        return []
    rounded = np.round(known, 4)
    found, counts = np.unique(rounded, return_counts=True)
    best = int(np.argmax(counts))
    return [float(found[best])] if counts[best] >= max(FEWEST, 0.5 * len(known)) and found[best] != 0 else []


def _line(x: np.ndarray, goal: np.ndarray) -> tuple[float, float] | None:
    """The line through most of the points, if there are enough different ones."""
    known = np.isfinite(x)
    x, goal = x[known], goal[known]
    if len(x) < 6 or np.ptp(x) == 0:
        return None
    low, high = int(np.argmin(x)), int(np.argmax(x))
    slope = round(float((goal[high] - goal[low]) / (x[high] - x[low])), 4)
    return (slope, round(float(goal[low] - slope * x[low]), 4)) if slope else None


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
            exact = int((np.abs(matrix @ tidy - goal[known]) < 5e-3).sum())
            if exact >= 0.95 * n and tidy[0] and tidy[1] and (best is None or exact > best[0]):
                terms = ((float(tidy[0]), names[a]), (float(tidy[1]), names[b]))
                best = (exact, Linear(terms, float(tidy[2])))
    return None if best is None else best[1]


def sparse(goal: np.ndarray, names: Sequence[str], columns: Sequence[np.ndarray], terms: int = 5) -> Linear | None:
    """A linear combination of a few columns that is exact nearly everywhere, by greedy least squares."""
    usable = [k for k, c in enumerate(columns) if np.isnan(c).sum() <= 0.05 * len(c) and np.nanstd(c) > 0]
    if len(goal) < 12 or not usable:
        return None
    rows = ~np.isnan(np.stack([columns[k] for k in usable])).any(axis=0) if usable else np.zeros(len(goal), bool)
    y = goal[rows]
    if rows.sum() < 12:
        return None
    chosen: list[int] = []
    ones = np.ones(int(rows.sum()))
    residual = y - y.mean()
    for _ in range(terms):
        if np.abs(residual).max() < 5e-3:
            break
        best, score = None, 0.0
        for k in usable:
            if k in chosen:
                continue
            centred = columns[k][rows] - columns[k][rows].mean()
            norm = float(np.linalg.norm(centred))
            value = abs(float(centred @ residual)) / norm if norm > 0 else 0.0
            if value > score:
                best, score = k, value
        if best is None:
            return None
        chosen.append(best)
        matrix = np.stack([columns[k][rows] for k in chosen] + [ones], axis=1)
        factors, *_ = np.linalg.lstsq(matrix, y, rcond=None)
        residual = y - matrix @ factors
    tidy = [round(float(f), 3) for f in factors]
    exact = np.abs(matrix @ np.array(tidy) - y) < 2e-2
    if exact.mean() < 0.95 or rows.sum() < 4 * len(tidy):
        return None
    kept = tuple((f, names[k]) for f, k in zip(tidy[:-1], chosen, strict=True) if f)
    return Linear(kept, tidy[-1])
