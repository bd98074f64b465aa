"""Decision trees over general tests of a situation. Every split must pay for its own description (MDL)."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Any

import msgspec
import numpy as np

from worldmodel.derive.situation import Row
from worldmodel.derive.trees import ZERO_WHERE_MISSING, Leaf, Split, Test, Tree, compare, contains, value_of
from worldmodel.derive.values import ABSENT, UNKNOWN, freeze, is_date, is_number, is_scalar
from worldmodel.steps import is_identifier

DEEPEST = 9
MOST_TESTS = 2500
MOST_PAIRS = 900
COSTS = {"known": 0.0, "is": 0.0, "in": 0.2, "=": 0.5, "absent": 0.5, "<": 1.5, "<=": 1.5}
"""Bits beside the choice among tests: of two that split alike, the simpler one is taken."""
BALANCES = ("rec/", "pick/", "last/", "now/")
"""What an argument may be added to or taken from before it is compared with a limit."""
INDIRECT = (
    "plus(",
    "minus(",
    "times(",
    "at/",
    "now/",
    "last/",
    "told/",
    "prev/any",
    "shape(",
    "form(",
    "len(",
    "type(",
    "prefix(",
    "sum(",
    "since/",
    "n/",
    "did_on/",
)


class Table:
    """Situations as columns, and the outcomes of all candidate tests on them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        columns: dict[str, list[Any]] = {}
        size = len(rows)
        for at, row in enumerate(rows):
            for name, value in row.items():
                column = columns.get(name)
                if column is None:
                    column = columns[name] = [0 if name.startswith(ZERO_WHERE_MISSING) else UNKNOWN] * size
                column[at] = value
        self.columns = columns
        self._tests: tuple[list[Test], np.ndarray] | None = None

    def tests(self) -> tuple[list[Test], np.ndarray]:
        """All tests that are true for some rows and not for all, one of each kind that splits alike (N x P)."""
        if self._tests is None:
            self._tests = self._make_tests()
        return self._tests

    def _make_tests(self) -> tuple[list[Test], np.ndarray]:
        size = len(self.rows)
        seen: dict[bytes, int] = {}
        tests: list[Test] = []
        results: list[np.ndarray] = []
        for test, result in self._candidates():
            count = int(result.sum())
            if count == 0 or count == size:
                continue
            mark = np.packbits(result).tobytes()
            before = seen.get(mark)
            if before is not None:
                if cost(test) < cost(tests[before]):
                    tests[before] = test
                continue
            if len(tests) < MOST_TESTS:
                seen[mark] = len(tests)
                tests.append(test)
                results.append(result)
        matrix = np.stack(results, axis=1) if results else np.zeros((size, 0), dtype=bool)
        return tests, matrix

    def _candidates(self) -> Iterable[tuple[Test, np.ndarray]]:
        numbers: dict[str, np.ndarray] = {}
        texts: dict[str, list[Any]] = {}
        wholes: dict[str, list[Any]] = {}
        times: dict[str, np.ndarray] = {}
        for name, column in self.columns.items():
            if not name.startswith(("at/", "all/")):
                yield from self._unary(name, column)
            kinds = Counter(
                "n" if is_number(v) else "t" if isinstance(v, str) else "w" if isinstance(v, list | dict) else "-"
                for v in column
            )
            if kinds["n"] and name.startswith("at/"):
                times[name] = np.array([v if is_number(v) else np.nan for v in column], dtype=float)
            elif kinds["n"]:
                numbers[name] = np.array([v if is_number(v) else np.nan for v in column], dtype=float)
            if kinds["t"] and not name.startswith(("shape(", "form(", "prefix(", "type(", "prev/")):
                texts[name] = [v if isinstance(v, str) else UNKNOWN for v in column]
            if kinds["w"] and not name.startswith(("arg/", "items(", "all/")):
                wholes[name] = column
        yield from self._pairs(numbers, texts)
        with np.errstate(invalid="ignore"):
            for a, b in list(permutations(sorted(times, key=lambda n: int(np.isnan(times[n]).sum()))[:16], 2)):
                yield Test(a, "<", b, True), times[a] < times[b]
        yield from self._members(texts, wholes)

    def _unary(self, name: str, column: list[Any]) -> Iterable[tuple[Test, np.ndarray]]:
        known = np.array([v is not UNKNOWN for v in column])
        if name.startswith(("arg/", "rec/", "missing/", "now/", "told/", "last/", "pick/", "prev/")):
            yield Test(name, "known"), known
            absent = np.array([v is ABSENT for v in column])
            if absent.any():
                yield Test(name, "absent"), absent
        if any(isinstance(v, bool) for v in column):
            yield Test(name, "is"), np.array([v is True for v in column])
        counts: dict[Any, int] = Counter(
            freeze(v) for v in column if is_scalar(v) and v is not UNKNOWN and not isinstance(v, bool) and v is not None
        )
        values = {freeze(v): v for v in column if is_scalar(v) and not isinstance(v, bool) and v is not None}
        if any(v is None for v in column):
            yield Test(name, "=", None), np.array([v is None for v in column])
        numeric = [v for v in values.values() if is_number(v)]
        often = sorted(counts, key=lambda v: -counts[v])
        few = 40 if len(often) <= 40 else 12
        if len(often) > 40 and not name.startswith("prev/"):  # an id or an amount: single values of it mean nothing
            few = sum(counts[value] >= 0.02 * len(column) for value in often[:12])
        if not name.startswith(("since/", "did/", "did_on/", "n/", "sum(")):
            frozen = [freeze(v) if is_scalar(v) else UNKNOWN for v in column]
            for value in often[:few]:
                if counts[value] >= 2 and not (len(often) > 12 and is_identifier(str(value))):
                    result = np.array([v == value and type(v) is type(value) for v in frozen])
                    yield Test(name, "=", values[value]), result
        if len(numeric) >= 2:
            array = np.array([v if is_number(v) else np.nan for v in column], dtype=float)
            with np.errstate(invalid="ignore"):
                for cut in _cuts(sorted(set(numeric))):
                    yield Test(name, "<=", cut), array <= cut
        dates = sorted({v for v in values.values() if is_date(v)})
        if len(dates) >= 2:
            for cut in _cuts(dates):
                yield Test(name, "<=", cut), np.array([is_date(v) and v <= cut for v in column])

    def _pairs(self, numbers: dict[str, np.ndarray], texts: dict[str, list[Any]]) -> Iterable[tuple[Test, np.ndarray]]:
        left = [
            n
            for n in numbers
            if n.startswith(("arg/", "len(arg", "sum(arg", "item/", "sum(items")) and not n.startswith("len(arg/x")
        ]
        kept = ("rec/", "pick/", "now/", "told/", "last/", "len(rec", "sum(rec", "law/")
        right = [n for n in numbers if n.startswith(kept)]
        pairs = [(a, b) for a in left for b in right] + [(a, b) for a in left for b in left if a < b]
        pairs += [(a, b) for a in right for b in right if a < b and a.startswith(("rec/", "law/"))]
        with np.errstate(invalid="ignore"):
            for a, b in pairs[:MOST_PAIRS]:
                if a.startswith("len(") != b.startswith("len(") and a.startswith("len(arg") and "len(" not in b:
                    continue
                yield Test(a, "<", b, True), numbers[a] < numbers[b]
                yield Test(a, "<=", b, True), numbers[a] <= numbers[b]
                yield Test(a, "=", b, True), numbers[a] == numbers[b]
            products = [(a, b) for a in left if a.startswith("arg/") for b in [*left, *right] if a != b][:60]
            limits = [n for n in right if n.startswith((*BALANCES, "law/"))][:12]
            for a, b in products if limits else ():
                column = numbers[a] * numbers[b]
                for limit in limits:
                    if limit != b:
                        yield Test(f"times({a}|{b})", "<=", limit, True), column <= numbers[limit]
            for a, b in [(a, b) for a in left if a.startswith("arg/") for b in right if b.startswith(BALANCES)][:40]:
                for sign, column in (("minus", numbers[a] - numbers[b]), ("plus", numbers[a] + numbers[b])):
                    values = sorted(set(column[np.isfinite(column)].tolist()))
                    if len(values) >= 4:
                        for cut in _cuts(values, 8):
                            yield Test(f"{sign}({a}|{b})", "<=", cut), column <= cut
        dated = {n for n, column in texts.items() if sum(map(is_date, column[:200])) > 2}
        left = [n for n in texts if n.startswith(("arg/", "each(arg", "rec/", "item/"))]
        right = [n for n in texts if n.startswith(("rec/", "now/", "told/", "last/", "pick/", "arg/"))]
        pairs = [(a, b) for a in left for b in right if a != b and not (a.startswith("rec/") and b.startswith("arg/"))]
        for a, b in pairs[:MOST_PAIRS]:
            one, other = texts[a], texts[b]
            result = np.array([x is not UNKNOWN and x == y for x, y in zip(one, other, strict=True)])
            yield Test(a, "=", b, True), result
            if a in dated and b in dated:
                less = np.array([compare("<", x, y) for x, y in zip(one, other, strict=True)])
                yield Test(a, "<", b, True), less

    def _members(self, texts: dict[str, list[Any]], wholes: dict[str, list[Any]]) -> Iterable[tuple[Test, np.ndarray]]:
        left = [n for n in texts if n.startswith(("arg/", "each(arg", "item/"))]
        for a in left:
            for b in list(wholes)[:60]:
                result = np.array([contains(y, x) for x, y in zip(texts[a], wholes[b], strict=True)])
                yield Test(a, "in", b, True), result


def _cuts(values: Sequence[Any], most: int = 24) -> list[Any]:
    """Where to cut sorted values: between neighbours, at most `most` times."""
    if len(values) <= most:
        return list(values[:-1])
    return [values[int(k * (len(values) - 1) / (most + 1))] for k in range(1, most + 1)]


def cost(test: Test) -> float:
    bits = COSTS[test.op]
    for name in (test.left, test.right if test.against_source else ""):
        bits += 1.0 * name.startswith(INDIRECT) + 0.2 * name.count(">")
    return bits


def grow(
    table: Table, labels: Sequence[str], at: Sequence[int] | None = None, conversations: Sequence[str] = (),
    penalty: float = 1.0,
) -> Tree:  # fmt: skip
    """A tree for `labels` of the rows `at` (all of them by default)."""
    index = np.arange(len(table.rows)) if at is None else np.asarray(at, dtype=int)
    names = sorted({labels[i] for i in index})
    numbers = {name: k for k, name in enumerate(names)}
    onehot = np.zeros((len(labels), len(names)), dtype=np.float32)
    for i in index:
        onehot[i, numbers[labels[i]]] = 1.0
    tests, matrix = table.tests() if len(names) > 1 else ([], np.zeros((len(labels), 0), dtype=bool))
    costs = np.array([cost(t) for t in tests], dtype=np.float32)

    def leaf(rows: np.ndarray) -> Leaf:
        counts = onehot[rows].sum(axis=0)
        seen = tuple(dict.fromkeys(conversations[i] for i in rows[:50]))[:3] if conversations else ()
        return Leaf({names[k]: int(n) for k, n in enumerate(counts) if n}, seen)

    def build(rows: np.ndarray, depth: int) -> Tree:
        counts = onehot[rows].sum(axis=0)
        if depth == DEEPEST or (counts > 0).sum() < 2 or not len(tests):
            return leaf(rows)
        inside = matrix[rows].astype(np.float32)
        yes = onehot[rows].T @ inside
        sizes = inside.sum(axis=0)
        total = len(rows)
        useful = (sizes > 0) & (sizes < total)
        if not useful.any():
            return leaf(rows)
        bits = _bits(counts[:, None])[0] - _bits(yes) - _bits(counts[:, None] - yes)
        gain = np.where(useful, bits - costs, -1.0)
        best = int(np.argmax(gain))
        price = penalty * (math.log2(int(useful.sum()) + 1) + 1.0)
        if gain[best] <= price:
            return leaf(rows)
        chosen, holds = tests[best], matrix[rows, best]
        if chosen.op == "<=" and not chosen.against_source and is_number(chosen.right):
            chosen, holds = _sharpened(chosen, table, onehot, rows)
        return Split(chosen, build(rows[holds], depth + 1), build(rows[~holds], depth + 1))

    return build(index, 0)


def _sharpened(test: Test, table: Table, onehot: np.ndarray, rows: np.ndarray) -> tuple[Test, np.ndarray]:
    """A threshold moved to where it separates the labels of these rows best."""
    values = np.array([v if is_number(v := value_of(table.rows[i], test.left)) else np.inf for i in rows], dtype=float)
    order = np.argsort(values, kind="stable")
    counts = onehot[rows][order].cumsum(axis=0)
    ends = np.array([k for k in range(len(rows) - 1) if values[order[k]] < values[order[k + 1]]], dtype=int)
    if not len(ends):
        return test, values <= test.right
    low = counts[ends].T
    cost_ = _bits(low) + _bits(counts[-1][:, None] - low)
    cut = float(values[order[ends[int(np.argmin(cost_))]]])
    tidy = int(cut) if cut.is_integer() else cut
    return msgspec.structs.replace(test, right=tidy), values <= tidy


def _bits(counts: np.ndarray) -> np.ndarray:
    """The bits that labels with these counts (classes x sets) take: n times their entropy."""
    total = counts.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(counts > 0, counts * np.log2(np.maximum(counts, 1e-9)), 0.0).sum(axis=0)
        whole = np.where(total > 0, total * np.log2(np.maximum(total, 1e-9)), 0.0)
    return whole - part


def held_out(conversations: Sequence[str]) -> np.ndarray:
    """Which rows are kept back to score a tree: those of every fourth conversation, by its name."""
    marks: dict[str, bool] = defaultdict(bool)
    for cid in set(conversations):
        marks[cid] = hashlib.blake2b(cid.encode(), digest_size=2).digest()[0] % 4 == 0
    return np.array([marks[cid] for cid in conversations], dtype=bool)
