"""Decision trees over general tests of a situation. Every split must pay for its own description (MDL)."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import permutations
from typing import Any

import msgspec
import numpy as np

from worldmodel.derive.situation import Row
from worldmodel.derive.trees import ZERO_WHERE_MISSING, Leaf, Split, Test, Tree, leaf_of, value_of
from worldmodel.derive.values import UNKNOWN, is_date, is_number
from worldmodel.learn.columns import IS_ABSENT, IS_NULL, IS_TRUE, IS_UNKNOWN, Column, date_ranks, days_of
from worldmodel.steps import is_identifier

DEEPEST = 9
MOST_TESTS = 2500
MOST_PAIRS = 900
MOST_DATES = 12
"""Pairs of dates whose distance is compared with a number."""
COSTS = {"known": 0.0, "is": 0.0, "in": 0.2, "=": 0.5, "has": 0.5, "absent": 0.5, "<": 1.5, "<=": 1.5}
"""Bits beside the choice among tests: of two that split alike, the simpler one is taken."""
KNOWN_AT_ALL = 0.6
"""Bits for asking whether a record is known: a value of it says more of records that are met in another way."""
KNOWN_PRICE = 3.0
"""Bits for asking whether a source is known that a test above has used."""
OF_A_TEXT = {"form(": 0.25, "shape(": 0.5, "said(": 1.0}
"""Bits for the shape of a text beside its prefix, which says more of texts of other lengths (an id that is a digit
short is not refused for its prefix), and for whether it was said before beside a value of the record that it names."""
EPISODE_WIDE = ("n/written", "n/tool", "prev/any", "did/", "since/", "at/")
"""Sources that count all calls so far, whatever this call names. They predict well where production always does things
in one order, and mislead for an agent that uses another order."""
AS_GOOD = 0.02
"""A tree without such sources is taken if it leaves at most this share more of the labels' bits open."""
MORE_SPLITS = 3
"""So many splits more it may have."""
PLAIN = ("arg/", "odd/", "known/", "missing/", "rec/", "pick/", "prev/same")
MOST_OPTIONS = 8
"""A source with more values than these does not choose among a few."""
_WORD = re.compile(r"[^\W_\d]{2,}")
OF_A_NUMBER = 2.0
"""Bits for the number in a threshold: a comparison of two sources needs none."""
FEWEST_KNOWN, MOST_KNOWN = 20, 0.95
"""Rows, and the most of all, that must know a record for a tree of their own."""
FEWEST_HELD, MOST_HELD, MOST_LISTS = 3, 12, 30
"""Rows whose list has a text, texts of one list, and lists, for tests of what a list has."""
NEAR_ZERO = 8
"""So many thresholds of a difference lie next to zero: what is left after a small fee."""
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
    "refused/",
    "days(",
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
        self._many: dict[str, bool] = {}

    def tests(self) -> tuple[list[Test], np.ndarray]:
        """All tests that are true for some rows and not for all, one of each kind that splits alike (N x P)."""
        if self._tests is None:
            self._tests = self._make_tests()
        return self._tests

    def is_somebodys(self, test: Test) -> bool:
        """Whether a test compares with one of many values: a name, an id, an amount."""
        if test.op not in ("=", "has") or test.against_source:
            return False
        if test.left not in self._many:
            values = {v for v in self.columns[test.left] if isinstance(v, str | int | float)}
            values.update(text for v in self.columns[test.left] if isinstance(v, list) for text in _texts_in(v))
            self._many[test.left] = len(values) > MOST_OPTIONS
        return self._many[test.left]

    def _make_tests(self) -> tuple[list[Test], np.ndarray]:
        size = len(self.rows)
        seen: dict[tuple[bool, bytes], int] = {}
        tests: list[Test] = []
        results: list[np.ndarray] = []
        for test, result in self._candidates():
            count = int(result.sum())
            if count == 0 or count == size:
                continue
            mark = test.left.startswith(EPISODE_WIDE), np.packbits(result).tobytes()
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
        texts: dict[str, Column] = {}
        wholes: dict[str, list[Any]] = {}
        times: dict[str, np.ndarray] = {}
        codes: dict[str, int] = {}
        for name, values in self.columns.items():
            column = Column(values, codes)
            if not name.startswith(("at/", "all/")):
                yield from self._unary(name, column)
            if column.has_numbers and name.startswith("at/"):
                times[name] = column.numbers
            elif column.has_numbers:
                numbers[name] = column.numbers
            if column.has_texts and not name.startswith(("shape(", "form(", "prefix(", "type(", "prev/")):
                texts[name] = column
            if column.has_wholes and not name.startswith(("arg/", "items(", "all/", "law/")):
                wholes[name] = values
        yield from self._pairs(numbers, texts, date_ranks(codes), days_of(codes))
        with np.errstate(invalid="ignore"):
            for a, b in list(permutations(sorted(times, key=lambda n: int(np.isnan(times[n]).sum()))[:16], 2)):
                yield Test(a, "<", b, True), times[a] < times[b]
        yield from self._members(texts, wholes)
        yield from self._held(wholes)

    def _unary(self, name: str, column: Column) -> Iterable[tuple[Test, np.ndarray]]:
        if name.startswith(("arg/", "rec/", "missing/", "now/", "told/", "last/", "pick/", "prev/", "law/", "odd/")):
            yield Test(name, "known"), column.codes != IS_UNKNOWN
            absent = column.codes == IS_ABSENT
            if absent.any():
                yield Test(name, "absent"), absent
        if column.has_booleans:
            yield Test(name, "is"), column.codes == IS_TRUE
        if column.has_nulls:
            yield Test(name, "=", None), column.codes == IS_NULL
        counts, values = column.counts, column.values
        often = np.argsort(-counts, kind="stable")
        few = 40 if len(often) <= 40 else 12
        if len(often) > 40 and not name.startswith("prev/"):  # an id or an amount: single values of it mean nothing
            few = sum(counts[value] >= 0.02 * len(column.codes) for value in often[:12])
        if not name.startswith(("since/", "did/", "did_on/", "n/", "sum(")):
            for value in often[:few].tolist():
                if counts[value] >= 2 and not (len(often) > 12 and is_identifier(str(column.frozen[value]))):
                    yield Test(name, "=", values[value]), column.codes == value
        numeric = [v for v in values if is_number(v)]
        if len(numeric) >= 2:
            with np.errstate(invalid="ignore"):
                for cut in _cuts(sorted(set(numeric))):
                    yield Test(name, "<=", cut), column.numbers <= cut
        dates = sorted({v for v in values if is_date(v)})
        if len(dates) >= 2:
            place = {date: at for at, date in enumerate(dates)}
            ranks = np.array([*(place.get(v, len(dates)) if isinstance(v, str) else len(dates) for v in values),
                              len(dates)])[column.codes.clip(min=-1)]  # fmt: skip
            for cut in _cuts(dates):
                yield Test(name, "<=", cut), ranks <= place[cut]

    def _pairs(
        self, numbers: dict[str, np.ndarray], texts: dict[str, Column], dates: np.ndarray, days: np.ndarray
    ) -> Iterable[tuple[Test, np.ndarray]]:
        left = [
            n
            for n in numbers
            if n.startswith(("arg/", "len(arg", "sum(arg", "item/", "sum(items")) and not n.startswith("len(arg/x")
        ]
        kept = ("rec/", "pick/", "now/", "told/", "last/", "len(rec", "sum(rec", "law/")
        right = sorted((n for n in numbers if n.startswith(kept)), key=lambda n: not n.startswith("law/"))
        pairs = [(a, b) for a in left for b in right] + [(a, b) for a in left for b in left if a < b]
        pairs += [(a, b) for a in right for b in right if a < b and a.startswith(("rec/", "law/"))]
        pairs.sort(key=lambda pair: not any(n.startswith(("law/", "sum(items")) for n in pair))  # not to be left out
        with np.errstate(invalid="ignore", over="ignore"):
            for a, b in pairs[:MOST_PAIRS]:
                if a.startswith("len(") != b.startswith("len(") and a.startswith("len(arg") and "len(" not in b:
                    continue
                yield Test(a, "<", b, True), numbers[a] < numbers[b]
                yield Test(a, "<=", b, True), numbers[a] <= numbers[b]
                yield Test(a, "=", b, True), numbers[a] == numbers[b]
                if np.isnan(numbers[b]).any():  # what is not less may be more, or not known
                    yield Test(b, "<", a, True), numbers[b] < numbers[a]
            products = [(a, b) for a in left if a.startswith("arg/") for b in [*left, *right] if a != b][:60]
            limits = [n for n in right if n.startswith((*BALANCES, "law/"))][:12]
            for a, b in products if limits else ():
                column = numbers[a] * numbers[b]
                for limit in limits:
                    if limit != b:
                        yield Test(f"times({a}|{b})", "<=", limit, True), column <= numbers[limit]
            for a, b in [(a, b) for a in left if a.startswith("arg/") for b in right if b.startswith(BALANCES)][:40]:
                sides = [(f"minus({a}|{b})", numbers[a] - numbers[b]), (f"plus({a}|{b})", numbers[a] + numbers[b])]
                if np.isnan(numbers[b]).any():
                    sides.append((f"minus({b}|{a})", numbers[b] - numbers[a]))
                for name, column in sides:
                    values = sorted(set(column[np.isfinite(column)].tolist()))
                    near = sorted(sorted(values, key=abs)[:NEAR_ZERO]) if name.startswith("minus") else []
                    if len(values) >= 4:
                        for cut in dict.fromkeys([*_cuts(values, 8), *near]):
                            yield Test(name, "<=", cut), column <= cut
            dated = {n for n, c in texts.items() if (~np.isnan(dates[c.texts[:200]])).sum() > 2}
            left = [n for n in texts if n.startswith(("arg/", "each(arg", "rec/", "item/"))]
            right = [n for n in texts if n.startswith(("rec/", "now/", "told/", "last/", "pick/", "arg/"))]
            pairs = [(a, b) for a in left for b in right if a != b and not (a.startswith("rec/") and b[:4] == "arg/")]
            made = 0
            for a, b in pairs[:MOST_PAIRS]:
                one, other = texts[a].texts, texts[b].texts
                yield Test(a, "=", b, True), (one == other) & (one >= 0)
                if a in dated and b in dated:
                    yield Test(a, "<", b, True), dates[one] < dates[other]
                    column = days[one] - days[other]
                    name, made = f"days({a}|{b})", made + 1
                    values = sorted(set(column[np.isfinite(column)].tolist())) if made <= MOST_DATES else []
                    near = sorted(sorted(values, key=abs)[:NEAR_ZERO])
                    for cut in dict.fromkeys([*_cuts(values, 8), *near]) if len(values) >= 3 else ():
                        yield Test(name, "<=", cut), column <= cut

    def _members(self, texts: dict[str, Column], wholes: dict[str, list[Any]]) -> Iterable[tuple[Test, np.ndarray]]:
        left = [n for n in texts if n.startswith(("arg/", "each(arg", "item/"))]
        for b in list(wholes)[:60] if left else ():
            inside = [_texts_in(whole) for whole in wholes[b]]
            for a in left:
                yield (
                    Test(a, "in", b, True),
                    np.array(
                        [x.__class__ is str and x in held for x, held in zip(self.columns[a], inside, strict=True)]
                    ),
                )


    def _held(self, wholes: dict[str, list[Any]]) -> Iterable[tuple[Test, np.ndarray]]:
        """Lists that have an item with one of a few texts: a hold of some type, a tag, a permission."""
        for name in sorted(n for n in wholes if n.startswith(("rec/", "pick/")))[:MOST_LISTS]:
            inside = [set(_texts_in(whole)) if isinstance(whole, list) else () for whole in wholes[name]]
            counts = Counter(text for texts in inside for text in texts)
            if len(counts) > MOST_HELD:  # names, not kinds
                continue
            often = sorted(t for t, n in counts.items() if n >= FEWEST_HELD and not is_identifier(t))
            for text in often:
                yield Test(name, "has", text), np.array([text in texts for texts in inside])


def _texts_in(whole: Any) -> Collection[str]:
    """The texts that a list or an object `contains`."""
    if isinstance(whole, dict):
        return whole
    if not isinstance(whole, list):
        return ()
    found = {item for item in whole if isinstance(item, str)}
    for item in whole:
        if isinstance(item, dict):
            found.update(v for v in item.values() if isinstance(v, str))
    return found


def _cuts(values: Sequence[Any], most: int = 24) -> list[Any]:
    """Where to cut sorted values: between neighbours, at most `most` times."""
    if len(values) <= most:
        return list(values[:-1])
    return [values[int(k * (len(values) - 1) / (most + 1))] for k in range(1, most + 1)]


def cost(test: Test) -> float:
    bits = COSTS[test.op] + OF_A_NUMBER * (test.op == "<=" and not test.against_source)
    bits += KNOWN_AT_ALL * (test.op == "known" or test.left.startswith("known/"))
    for name in (test.left, test.right if test.against_source else ""):
        bits += 1.0 * name.startswith(INDIRECT) + 0.2 * name.count(">")
        bits += next((more for kind, more in OF_A_TEXT.items() if name.startswith(kind)), 0.0)
    return bits


def is_plain(test: Test) -> bool:
    """Whether a test asks what most rules are about: the call's own arguments and the records that they name, and of
    two sources only those that have a word in common. There are few such tests, so choosing one takes fewer bits."""
    if not test.left.startswith(PLAIN) or ">" in test.left:
        return False
    if not test.against_source:
        return True
    right = str(test.right)
    return right.startswith(PLAIN) and ">" not in right and bool(_words(test.left) & _words(right))


@lru_cache(maxsize=10_000)
def _words(name: str) -> frozenset[str]:
    """The words of a source's field."""
    return frozenset(_WORD.findall(name.rpartition("/")[2].lower()))


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
    wide = np.array([t.left.startswith(EPISODE_WIDE) for t in tests], dtype=bool)
    plain = np.array([is_plain(t) and not table.is_somebodys(t) for t in tests], dtype=bool)

    def leaf(rows: np.ndarray) -> Leaf:
        counts = onehot[rows].sum(axis=0)
        seen = tuple(dict.fromkeys(conversations[i] for i in rows[:50]))[:3] if conversations else ()
        return Leaf({names[k]: int(n) for k, n in enumerate(counts) if n}, seen)

    def known_above(rows: np.ndarray, used: frozenset[str]) -> tuple[Test, np.ndarray] | None:
        """Whether a source is known at all that was asked for above is no new idea: it costs little to ask."""
        counts = onehot[rows].sum(axis=0)[:, None]
        options = []
        for name in sorted(used & table.columns.keys()):
            holds = np.array([table.columns[name][i] is not UNKNOWN for i in rows])
            if holds.any() and not holds.all():
                yes = onehot[rows[holds]].sum(axis=0)[:, None]
                gain = float((_bits(counts) - _bits(yes) - _bits(counts - yes))[0])
                options.append((gain, name, holds))
        best = max(options, key=lambda option: option[:2], default=None)
        return None if best is None or best[0] <= KNOWN_PRICE else (Test(best[1], "known"), best[2])

    def build(rows: np.ndarray, depth: int, used: frozenset[str] = frozenset(), narrow: bool = False) -> Tree:
        """`narrow`: without tests of what is EPISODE_WIDE."""
        counts = onehot[rows].sum(axis=0)
        if depth == DEEPEST or (counts > 0).sum() < 2 or not len(tests):
            return leaf(rows)
        inside = matrix[rows].astype(np.float32)
        yes = onehot[rows].T @ inside
        sizes = inside.sum(axis=0)
        total = len(rows)
        useful = (sizes > 0) & (sizes < total)
        if narrow:
            useful &= ~wide
        if not useful.any():
            return leaf(rows)
        bits = _bits(counts[:, None])[0] - _bits(yes) - _bits(counts[:, None] - yes)
        among = np.where(plain, int((useful & plain).sum()), int(useful.sum()))
        gain = np.where(useful, bits - costs - penalty * (np.log2(among + 1) + 1.0), -1.0)
        best = int(np.argmax(gain))
        chosen, holds = tests[best], matrix[rows, best]
        if gain[best] <= 0:
            known = known_above(rows, used)
            if known is None:
                return leaf(rows)
            chosen, holds = known
        if chosen.op == "<=" and not chosen.against_source:
            chosen, holds = _sharpened(chosen, table, onehot, rows)
        below = used | ({chosen.left, str(chosen.right)} if chosen.against_source else {chosen.left})
        whole = Split(chosen, *(build(part, depth + 1, below, narrow) for part in (rows[holds], rows[~holds])))
        if not narrow and chosen.left.startswith(EPISODE_WIDE):
            other = build(rows, depth, used, narrow=True)
            left, splits = _left_open(other), _splits(other) - _splits(whole)
            if left <= _left_open(whole) + AS_GOOD * float(_bits(counts[:, None])[0]) and splits <= MORE_SPLITS:
                return other
        return whole

    return build(index, 0)


def grow_guard(table: Table, labels: Sequence[str], at: Sequence[int], conversations: Sequence[str]) -> Tree:
    """A tree for `labels`, which may first ask whether the record that a call names is known.

    Where a record was never read, its part in the outcome does not show, and such rows hide a rule that holds in the
    others. If a tree of the rows that know the record is right more often on held-out ones of these, it answers them.
    Rows that do not know it are answered by a tree of all rows.
    """
    plain = grow(table, labels, at, conversations)
    apart = held_out(conversations) if len(conversations) else np.zeros(len(labels), dtype=bool)
    places = np.asarray(at, dtype=int)
    train = places[~apart[places]]
    best: tuple[int, str, np.ndarray] | None = None
    shared = None
    for name, column in table.columns.items():
        if not name.startswith("known/"):
            continue
        knows = np.array([value is True for value in column], dtype=bool)
        known, judged = train[knows[train]], places[apart[places] & knows[places]]
        if len(known) < FEWEST_KNOWN or len(judged) < 5 or len(known) > MOST_KNOWN * len(train):
            continue
        if len({labels[i] for i in known}) < 2:
            continue
        shared = shared or grow(table, labels, train)
        own = grow(table, labels, known)
        better = sum(
            (leaf_of(own, table.rows[i])[0].best()[0] == labels[i])
            - (leaf_of(shared, table.rows[i])[0].best()[0] == labels[i])
            for i in judged
        )
        if better > 0 and (best is None or better > best[0]):
            best = better, name, knows
    if best is None:
        return plain
    own = grow(table, labels, places[best[2][places]], conversations)
    return Split(Test(best[1], "is"), own, plain)


def _left_open(tree: Tree) -> float:
    """The bits that the labels take in the leaves."""
    if isinstance(tree, Split):
        return _left_open(tree.yes) + _left_open(tree.no)
    return float(_bits(np.array([[n] for n in tree.counts.values()], dtype=float))[0]) if tree.counts else 0.0


def _splits(tree: Tree) -> int:
    return 1 + _splits(tree.yes) + _splits(tree.no) if isinstance(tree, Split) else 0


def _sharpened(test: Test, table: Table, onehot: np.ndarray, rows: np.ndarray) -> tuple[Test, np.ndarray]:
    """A threshold moved to where it separates the labels of these rows best."""
    fits = is_date if is_date(test.right) else is_number
    found = [v if fits(v := value_of(table.rows[i], test.left)) else None for i in rows]
    scale = sorted({v for v in found if v is not None})
    place = {value: at for at, value in enumerate(scale)}
    values = np.array([len(scale) if v is None else place[v] for v in found], dtype=int)
    order = np.argsort(values, kind="stable")
    counts = onehot[rows][order].cumsum(axis=0)
    ends = np.flatnonzero(np.diff(values[order]))
    if not len(ends):
        return test, values < bisect_right(scale, test.right)
    low = counts[ends].T
    cost_ = _bits(low) + _bits(counts[-1][:, None] - low)
    last = int(values[order[ends[int(np.argmin(cost_))]]])
    cut = scale[last]
    tidy = int(cut) if isinstance(cut, float) and cut.is_integer() else cut
    return msgspec.structs.replace(test, right=tidy), values <= last


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
