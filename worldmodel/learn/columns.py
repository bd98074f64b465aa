"""The sources of a situation as columns of numbers, one for all rows, and the tests that a tree may ask of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import permutations
from typing import Any

import numpy as np

from worldmodel.derive.functions import apply
from worldmodel.derive.situation import Row
from worldmodel.derive.trees import AS_AMOUNT, ZERO_WHERE_MISSING, Test
from worldmodel.derive.values import ABSENT, UNKNOWN, amount_in, freeze, is_date, is_number, is_part, same
from worldmodel.steps import is_identifier

IS_UNKNOWN, IS_ABSENT, IS_NULL, IS_TRUE, IS_FALSE, IS_WHOLE = -1, -2, -3, -4, -5, -6
_CODES: dict[Any, int] = {UNKNOWN: IS_UNKNOWN, ABSENT: IS_ABSENT, None: IS_NULL, True: IS_TRUE, False: IS_FALSE}


class Column:
    """One source over all rows, as numbers: equal texts and numbers have equal codes, counted from 0 as they come; what
    is neither has a code below 0. `shared` numbers the texts of all columns of a table."""

    def __init__(self, column: Sequence[Any], shared: dict[str, int]) -> None:
        self.column = column
        numbered: dict[Any, int] = {}
        values: list[Any] = []
        codes: list[int] = []
        for value in column:
            kind = value.__class__
            if kind is str or kind is int:
                frozen = value
            elif kind is float:
                frozen = freeze(value)
            else:
                codes.append(IS_WHOLE if kind is list or kind is dict else _CODES[value])
                continue
            code = numbered.get(frozen)
            if code is None:
                code = numbered[frozen] = len(values)
                values.append(value)
            elif kind is not str:
                values[code] = value
            codes.append(code)
        self.frozen, self.values = list(numbered), values
        self.codes = np.array(codes, dtype=np.int64)
        self.counts = np.bincount(self.codes[self.codes >= 0], minlength=len(values))
        self._shared = [shared.setdefault(v, len(shared)) if isinstance(v, str) else -1 for v in values]
        kinds = {v.__class__ for v in values}
        self.has_texts = str in kinds
        self.has_numbers = int in kinds or float in kinds
        special = set(np.unique(self.codes[self.codes < 0]).tolist())
        self.has_booleans = IS_TRUE in special or IS_FALSE in special
        self.has_nulls, self.has_wholes = IS_NULL in special, IS_WHOLE in special

    @cached_property
    def numbers(self) -> np.ndarray:
        """The numbers of the column, NaN elsewhere."""
        of = np.array([*(v if is_number(v) else np.nan for v in self.values), np.nan], dtype=float)
        found: np.ndarray = of[self.codes.clip(min=-1)]
        return found

    @cached_property
    def texts(self) -> np.ndarray:
        """The table's numbers of the texts of the column, -1 elsewhere."""
        found: np.ndarray = np.array([*self._shared, -1], dtype=np.int64)[self.codes.clip(min=-1)]
        return found


def days_of(texts: dict[str, int]) -> np.ndarray:
    """By the number of a text: the day that it names, counted from any day; NaN where it names none."""
    counted = (apply("days_between", (text, "2000-01-01")) if is_date(text) else UNKNOWN for text in texts)
    return np.array([*(v if is_number(v) else np.nan for v in counted), np.nan], dtype=float)


def date_ranks(texts: dict[str, int]) -> np.ndarray:
    """By the number of a text: its place among all dates; NaN where it is none, and at the end for no text."""
    dates = {text: at for at, text in enumerate(sorted(t for t in texts if is_date(t)))}
    return np.array([*(dates.get(text, np.nan) for text in texts), np.nan], dtype=float)


# ----- tests

MOST_TESTS = 2500
MOST_PAIRS = 900
MOST_DATES = 12
"""Pairs of dates whose distance is compared with a number."""
PROBED = 60
"""A relation between texts that holds in none of so many rows is not looked at in the others."""
COSTS = {"known": 0.0, "is": 0.0, "in": 0.2, "=": 0.5, "has": 0.5, "absent": 0.5, "part": 0.7, "<": 1.5, "<=": 1.5,
         ">": 1.5}  # fmt: skip
"""Bits beside the choice among tests: of two that split alike, the simpler one is taken."""
KNOWN_AT_ALL = 0.6
"""Bits for asking whether a record is known: a value of it says more of records that are met in another way."""
OF_A_TEXT = {"form(": 0.25, "shape(": 0.5, "said(": 1.0}
"""Bits for the shape of a text beside its prefix, which says more of texts of other lengths (an id that is a digit
short is not refused for its prefix), and for whether it was said before beside a value of the record that it names."""
EPISODE_WIDE = ("n/written", "n/tool", "prev/any", "did/", "since/", "at/")
"""Sources that count all calls so far, whatever this call names. They predict well where production always does things
in one order, and mislead for an agent that uses another order."""
MOST_OPTIONS = 8
"""A source with more values than these does not choose among a few."""
OF_A_NUMBER = 2.0
"""Bits for the number in a threshold: a comparison of two sources needs none."""
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
    """Situations as columns, and the outcomes of all candidate tests on them. `favoured`: the tests that are likely
    before anything is counted."""

    def __init__(self, rows: Sequence[Row], favoured: Callable[[Test], bool] | None = None) -> None:
        self.rows, self.favoured = rows, favoured
        columns: dict[str, list[Any]] = {}
        size = len(rows)
        for at, row in enumerate(rows):
            for name, value in row.items():
                column = columns.get(name)
                if column is None:
                    column = columns[name] = [0 if name.startswith(ZERO_WHERE_MISSING) else UNKNOWN] * size
                column[at] = value
                if value.__class__ is str and (amount := amount_in(value)) is not None:
                    columns.setdefault(name + AS_AMOUNT, [UNKNOWN] * size)[at] = amount
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
                if self._price(test) < self._price(tests[before]):
                    tests[before] = test
                continue
            if len(tests) < MOST_TESTS:
                seen[mark] = len(tests)
                tests.append(test)
                results.append(result)
        matrix = np.stack(results, axis=1) if results else np.zeros((size, 0), dtype=bool)
        return tests, matrix

    def _price(self, test: Test) -> tuple[bool, float]:
        return self.favoured is None or not self.favoured(test), cost(test)

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
            if column.has_wholes and not name.startswith(("arg/", "items(", "view/", "among/", "all/", "law/")):
                wholes[name] = values
        yield from self._pairs(numbers, texts, date_ranks(codes), days_of(codes))
        with np.errstate(invalid="ignore"):
            for a, b in list(permutations(sorted(times, key=lambda n: int(np.isnan(times[n]).sum()))[:16], 2)):
                yield Test(a, "<", b, True), times[a] < times[b]
        yield from self._parts(texts)
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
                    if name.startswith("law/") and np.isnan(column.numbers).any():
                        yield Test(name, ">", cut), column.numbers > cut
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
                            if np.isnan(column).any():
                                yield Test(name, ">", cut), column > cut
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

    def _parts(self, texts: dict[str, Column]) -> Iterable[tuple[Test, np.ndarray]]:
        """Texts of the call that stand in texts of records: what a caller says to show who they are."""
        left = [n for n in texts if n.startswith("arg/")]
        right = [n for n in texts if n.startswith(("rec/", "pick/", "now/"))]
        for a, b in [(a, b) for a in left for b in right][:MOST_PAIRS]:
            values = list(zip(self.columns[a], self.columns[b], strict=True))
            if any(is_part(x, y) and not same(x, y) for x, y in values[:PROBED]):
                yield Test(a, "part", b, True), np.array([is_part(x, y) for x, y in values])

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
    bits = COSTS[test.op] + OF_A_NUMBER * (test.op in ("<=", ">") and not test.against_source)
    bits += KNOWN_AT_ALL * (test.op == "known" or test.left.startswith("known/"))
    return bits + _cost_of(test.left) + (_cost_of(str(test.right)) if test.against_source else 0.0)


@lru_cache(maxsize=10_000)
def _cost_of(name: str) -> float:
    bits = 1.0 * name.startswith(INDIRECT) + 0.2 * name.count(">")
    return bits + next((more for kind, more in OF_A_TEXT.items() if name.startswith(kind)), 0.0)
