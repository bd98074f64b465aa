"""Tables: a value, or a rate of a number, by what one or two sources hold, confirmed across conversations."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from worldmodel.derive.expressions import JOINS, Call, Const, Expression, Lookup, Source, evaluate
from worldmodel.derive.values import UNKNOWN, freeze, is_date, is_number, is_scalar, text_of
from worldmodel.learn.rows import FEWEST, GOOD, Rows, rank
from worldmodel.learn.search.shares import PLACES
from worldmodel.steps import is_identifier

OF = ("arg/", "item/", "rec/", "pick/", "new/", "ans/", "each(")
"""What a table is by."""
FEWEST_ROWS = 12
MOST_ROWS = 400
MOST_SOURCES, MOST_OF_PAIRS, MOST_NUMBERS = 60, 10, 12
MOST_ENTRIES, MOST_ENTRIES_OF_PART = 200, 14
FEWEST_EACH = 3
"""Rows of an entry, on average: a table by what is different in each call says nothing."""
LONGEST = 60
LEFT = 0.2
"""The share of the rows that the most usual value does not explain of which a table may be wrong."""
FEWEST_OTHERS = 3
"""Rows that a table must explain and the most usual value does not."""
KNOWN = 0.5
"""The least share of the rows that must have an entry."""
MOST_DIGITS = 6

Keys = list[str | None]


def lookups(rows: Rows, targets: Sequence[Any], at: Sequence[int]) -> list[Expression]:
    """Tables that give the targets of other conversations, the best first: of values, and where all are numbers, of
    rates. A table has an entry where two conversations agree on it, so that nobody's own value is one."""
    at = [i for i in at if is_scalar(targets[i])][:MOST_ROWS]
    if len(at) < FEWEST_ROWS or not rows.conversations or len({freeze(targets[i]) for i in at}) < 2:
        return []
    goals = [targets[i] for i in at]
    cids = [rows.conversations[i] for i in at]
    single: dict[tuple[str, ...], Keys] = dict(_sources(rows, at))
    found: list[tuple[float, Expression]] = list(_tables(single, goals, cids))
    if not found and all(map(is_number, goals)):
        found = list(_rates(rows, at, single, goals, cids))
    if not found:
        few = [name for name in single if len(set(single[name])) <= MOST_ENTRIES_OF_PART][:MOST_OF_PAIRS]
        both = {a + b: _joined(single[a], single[b]) for a, b in combinations(few, 2)}
        found = list(_tables(both, goals, cids))
    found.sort(key=lambda pair: (-pair[0], len(repr(pair[1]))))
    return [expression for _, expression in found[:2]]


def _sources(rows: Rows, at: Sequence[int]) -> Iterator[tuple[tuple[str, ...], Keys]]:
    """The sources that a table may be by, plain ones first, with the entry of each row. Ids are none: what is known of
    a record is for the store."""
    counts: Counter[str] = Counter()
    for i in at:
        counts.update(n for n, v in rows.rows[i].items() if n.startswith(OF) and is_scalar(v) and v is not None)
    usual = [n for n, c in counts.items() if c >= KNOWN * len(at)]
    for name in sorted(usual, key=lambda n: (rank(n), n))[:MOST_SOURCES]:
        keys = [_key(rows.rows[i].get(name, UNKNOWN)) for i in at]
        values = {key for key in keys if key is not None}
        known = len(keys) - keys.count(None)
        if 2 <= len(values) <= MOST_ENTRIES and known >= FEWEST_EACH * len(values):
            yield (name,), keys


def _key(value: Any) -> str | None:
    if not is_scalar(value):
        return None
    text = text_of(value)
    if isinstance(value, str) and (is_identifier(text) or is_date(text)) or len(text) > LONGEST:
        return None
    return None if isinstance(value, float) and not value.is_integer() else text


def _joined(left: Keys, right: Keys) -> Keys:
    return [None if a is None or b is None else f"{a}{JOINS}{b}" for a, b in zip(left, right, strict=True)]


# ----- tables of values


def _tables(
    columns: Mapping[tuple[str, ...], Keys], goals: Sequence[Any], cids: Sequence[str]
) -> Iterator[tuple[float, Expression]]:
    """The columns that determine the goal, with how many rows of others each explains."""
    frozen = [freeze(goal) for goal in goals]
    usual, _ = Counter(frozen).most_common(1)[0]
    for of, keys in columns.items():
        if not _may_determine(keys, frozen):
            continue
        right, wrong, more = _left_out(keys, frozen, cids, usual)
        open_ = sum(key is not None and goal != usual for key, goal in zip(keys, frozen, strict=True))
        if more < FEWEST_OTHERS or wrong > LEFT * open_ or right < max(FEWEST, KNOWN * len(goals)):
            continue
        if right >= GOOD * (right + wrong):
            table = _confirmed(keys, goals, cids)
            if len({freeze(value) for value in table.values()}) > 1:
                yield right - 8 * wrong, Lookup(of, table)


def _may_determine(keys: Keys, goals: Sequence[Any]) -> bool:
    """Whether few rows say otherwise than the row before them with the same entry."""
    last: dict[str, Any] = {}
    allowed = 1 + 2 * (1 - GOOD) * len(goals)
    for key, goal in zip(keys, goals, strict=True):
        if key is not None:
            allowed -= last.get(key, goal) != goal
            last[key] = goal
            if allowed < 0:
                return False
    return True


def _left_out(keys: Keys, goals: Sequence[Any], cids: Sequence[str], usual: Any) -> tuple[int, int, int]:
    """Rows that most of the rows of other conversations with the same entry agree with, and that they do not; and those
    of the former that are not the most usual value."""
    rows = list(zip(keys, goals, cids, strict=True))
    entries, values = Counter(keys), Counter((key, goal) for key, goal, _ in rows)
    own, own_values = Counter((key, cid) for key, _, cid in rows), Counter(rows)
    right = wrong = more = 0
    for key, goal, cid in rows:
        others = entries[key] - own[(key, cid)]
        if key is None or not others:
            continue
        agrees = 2 * (values[(key, goal)] - own_values[(key, goal, cid)]) > others
        right, wrong, more = right + agrees, wrong + (not agrees), more + (agrees and goal != usual)
    return right, wrong, more


def _confirmed(keys: Keys, goals: Sequence[Any], cids: Sequence[str]) -> dict[str, Any]:
    """The entries of a table: what most rows say, where two conversations do."""
    said: dict[str, dict[Any, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, (key, goal) in enumerate(zip(keys, goals, strict=True)):
        if key is not None:
            said[key][freeze(goal)].append(i)
    table = {}
    for key, by_value in sorted(said.items()):
        places = max(by_value.values(), key=len)
        if len({cids[i] for i in places}) >= 2:
            table[key] = goals[places[0]]
    return table


# ----- tables of rates


def _rates(
    rows: Rows, at: Sequence[int], columns: Mapping[tuple[str, ...], Keys], goals: Sequence[Any], cids: Sequence[str]
) -> Iterator[tuple[float, Expression]]:
    """A number times what a table says: so much a day by the kind of car."""
    goal = np.array([float(g) for g in goals])
    places = next((d for d in range(PLACES + 1) if np.allclose(np.round(goal, d), goal, rtol=0, atol=1e-9)), None)
    if places is None:
        return
    for name, numbers in _numbers(rows, at):
        for of, keys in columns.items():
            if of == (name,):
                continue
            table, right = _factors(keys, numbers, goal, cids, places)
            if right >= max(FEWEST_ROWS, 0.9 * len(goals)) and len(set(table.values())) > 1:
                product = Call("multiply", (Lookup(of, table), Source(name)))
                yield right, product if _exact(product, rows, at, goals) else Call("round", (product, Const(places)))


def _numbers(rows: Rows, at: Sequence[int]) -> Iterable[tuple[str, np.ndarray]]:
    of = (*OF, "law/", "sum(", "len(")
    counts = Counter(n for i in at for n, v in rows.rows[i].items() if n.startswith(of) and is_number(v))
    usual = sorted((n for n, c in counts.items() if c >= 0.9 * len(at)), key=lambda n: (rank(n), n))
    for name in usual[:MOST_NUMBERS]:
        values = [rows.rows[i].get(name, UNKNOWN) for i in at]
        column = np.array([float(v) if is_number(v) else np.nan for v in values])
        if len(np.unique(column[np.isfinite(column)])) > 2:
            yield name, column


def _factors(
    keys: Keys, numbers: np.ndarray, goal: np.ndarray, cids: Sequence[str], places: int
) -> tuple[dict[str, float], int]:
    """One factor for each entry, and the rows in which these give the goal. An entry needs different numbers, and more
    rows than a factor fits by chance."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        if key is not None and np.isfinite(numbers[i]) and numbers[i]:
            groups[key].append(i)
    table: dict[str, float] = {}
    right = missed = 0
    for key, some in sorted(groups.items()):
        x, y = numbers[some].tolist(), goal[some].tolist()
        if len(some) <= FEWEST or len(set(x)) < 2 or len({cids[i] for i in some}) < 2:
            continue
        half = 0.5 / 10**places
        factors = _within((goal[some] - half) / numbers[some], (goal[some] + half) / numbers[some])
        hits = {f: sum(freeze(round(f * a, places)) == freeze(b) for a, b in zip(x, y, strict=True)) for f in factors}
        best = max(hits, key=lambda f: hits[f], default=None)
        if best is None or hits[best] < GOOD * len(some):
            missed += len(some)
            if missed > 0.1 * len(goal):
                return {}, 0
            continue
        table[key] = int(best) if best == int(best) else best
        right += hits[best]
    return table, right


def _within(low: np.ndarray, high: np.ndarray) -> list[float]:
    """Short factors that lie between all of these bounds, or else between most of them; the shortest first."""
    low, high = np.minimum(low, high), np.maximum(low, high)
    found = []
    for a, b in ((low.max(), high.min()), (np.quantile(low, 0.9), np.quantile(high, 0.1))):
        for digits in range(MOST_DIGITS):
            scale = 10**digits
            few = np.arange(np.ceil(a * scale - 1e-6), np.floor(b * scale + 1e-6) + 1)[:3]
            found += [round(float(f) / scale, digits) for f in few if f]
            if len(found) >= 3:
                return found
    return found


def _exact(product: Call, rows: Rows, at: Sequence[int], goals: Sequence[Any]) -> bool:
    """Whether a product is the goal without being rounded, where it is the goal at all."""
    given = ((evaluate(product, rows.rows[i]), goal) for i, goal in zip(at, goals, strict=True))
    return all(v is UNKNOWN or v == goal or abs(v - goal) >= 0.5 for v, goal in given)
