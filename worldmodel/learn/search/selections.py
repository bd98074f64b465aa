"""Lists that are a part of another list: by condition, in an order, by page, with some of the fields."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from worldmodel.derive.expressions import (
    Call,
    Condition,
    Const,
    Expression,
    Select,
    Source,
    evaluate,
    field_of,
    fulfils,
)
from worldmodel.derive.situation import Row
from worldmodel.derive.values import ABSENT, UNKNOWN, freeze, is_number, is_scalar
from worldmodel.learn.rows import FEWEST, Rows, rank

MOST_LISTS = 8
KNOWN = 0.15
"""The least share of the rows that know a list for something to be selected from it."""
MOST_ROWS = 120
PROBES = 9
"""Rows on which a condition is tried first; one that is wrong on most of them is not tried on the others."""
OPS = ("=", "holds", "<=", ">=", "<", ">", "starts", "holds_any_case")


@dataclass(frozen=True)
class _Case:
    """One row: the list that may have been selected from, and which of its items were, in which order."""

    row: dict[str, Any]
    items: list[Any]
    taken: list[int]


def selections(rows: Rows, targets: Sequence[Any], at: Sequence[int]) -> list[Expression]:
    """For list targets: parts of the lists of the situation. The best of each list that is right often."""
    at = [i for i in at if isinstance(targets[i], list)]
    out: list[Expression] = []
    for name, own in _lists(rows, at).items():
        for only, fields in _projections(rows, targets, own, name):
            whole = Select(name, fields=fields, only=only)
            cases = [c for i in own if (c := _case(rows.rows[i], targets[i], whole)) is not None]
            if len(cases) < max(FEWEST, 0.6 * len(own)) or not any(c.taken for c in cases):
                continue
            out.append(_narrowed(whole, cases))
    return out


def sizes(rows: Rows, targets: Sequence[Any], at: Sequence[int]) -> list[Expression]:
    """For number targets: how many items of a list fulfil a condition."""
    at = [i for i in at if isinstance(targets[i], int) and not isinstance(targets[i], bool)]
    out: list[tuple[int, Expression]] = []
    for name, own in _lists(rows, at).items():
        probes = own[:PROBES]
        if 3 * sum(0 <= targets[i] <= len(rows.rows[i][name]) for i in probes) < len(probes):  # no list is that long
            continue
        for condition in (None, *_conditions([rows.rows[i] for i in own], name)):
            left = len(probes) - -(-len(probes) // 3)  # so many of the probes may be wrong
            for i in probes:
                left -= _counted(rows.rows[i], name, condition) != targets[i]
                if left < 0:
                    break
            else:
                hits = sum(_counted(rows.rows[i], name, condition) == targets[i] for i in own)
                if hits >= max(FEWEST, 0.7 * len(own)):
                    out.append((hits, Call("count", (Select(name, where=(condition,) if condition else ()),))))
    out.sort(key=lambda pair: (-pair[0], len(repr(pair[1]))))
    return [call for _, call in out[:2]]


def _counted(row: Row, name: str, condition: Condition | None) -> int | None:
    """How many items of a list fulfil a condition; None if what they are compared with is not known."""
    if condition is None:
        return len(row[name])
    goal = evaluate(condition.value, row)
    if goal is UNKNOWN or goal is ABSENT:
        return None
    return sum(fulfils(condition.op, field_of(item, condition.field), goal) for item in row[name])


def _lists(rows: Rows, at: Sequence[int]) -> dict[str, list[int]]:
    """The lists that are known most often, each with (some of) the rows that know it."""
    found: dict[str, list[int]] = defaultdict(list)
    for i in at:
        for name, value in rows.rows[i].items():
            if isinstance(value, list):
                found[name].append(i)
    usual = {n: own for n, own in found.items() if len(own) >= max(FEWEST, KNOWN * len(at))}
    share = {n: round(4 * len(own) / max(1, len(at))) for n, own in usual.items()}
    order = sorted(usual, key=lambda n: (n.startswith("all/"), -share[n], rank(n)))[:MOST_LISTS]
    return {name: usual[name][:MOST_ROWS] for name in order}


def _projections(
    rows: Rows, targets: Sequence[Any], at: Sequence[int], name: str
) -> Iterable[tuple[str, tuple[str, ...]]]:
    """What of each item the target keeps: (one bare field, or these fields)."""
    goals = [item for i in at for item in targets[i]][:40]
    sources = [item for i in at for item in rows.rows[i].get(name) or () if isinstance(rows.rows[i].get(name), list)]
    fields = Counter(n for item in sources[:200] if isinstance(item, dict) for n in item)
    if goals and all(isinstance(g, dict) for g in goals):
        kept = tuple(dict.fromkeys(n for g in goals for n in g))
        if kept and set(kept) <= set(fields):
            yield "", kept
    elif goals and all(is_scalar(g) for g in goals):
        if not fields:
            yield "", ()
        wanted = {freeze(g) for g in goals}
        for field in fields:
            held = {freeze(item.get(field)) for item in sources if isinstance(item, dict)}
            if len(wanted & held) >= 0.8 * len(wanted):
                yield field, ()


def _case(row: dict[str, Any], target: list[Any], whole: Select) -> _Case | None:
    """Which items the target shows; None where it shows one that the list does not have."""
    items = row.get(whole.list)
    if not isinstance(items, list):
        return None
    values = [field_of(item, whole.only) for item in items] if whole.only else evaluate(whole, row)
    if values is UNKNOWN:
        return None
    shown = [freeze(v) for v in values]
    taken: list[int] = []
    for goal in map(freeze, target):
        place = next((k for k, value in enumerate(shown) if value == goal and k not in taken), None)
        if place is None:
            return None
        taken.append(place)
    return _Case(row, items, taken)


def _narrowed(whole: Select, cases: Sequence[_Case]) -> Select:
    """Conditions, then an order, then a cut: each where it explains more of the cases."""
    bases = [whole]
    conditions = list(_conditions([c.row for c in cases], whole.list))
    for _ in range(2):
        kept = {condition: _kept(bases[-1].where + (condition,), cases) for condition in conditions}
        better = max(kept, key=lambda c: kept[c], default=None)
        if better is None or kept[better] <= _kept(bases[-1].where, cases):
            break
        bases.append(msgspec.structs.replace(whole, where=(*bases[-1].where, better)))
    names = sorted({n for c in cases[:20] for item in c.items if isinstance(item, dict) for n in item})
    best, found = whole, -1
    for base in bases:  # a condition may only look like one where an order and a cut explain all
        ordered = [msgspec.structs.replace(base, order=n, falling=f) for n in names for f in (False, True)]
        for option in [base, *ordered, *(cut for o in (base, *ordered) for cut in _cuts(o, cases))]:
            right = _right(option, cases)
            if right > found:
                best, found = option, right
        if found >= 0.95 * len(cases):
            break
    return best


def _right(option: Select, cases: Sequence[_Case]) -> int:
    plain = msgspec.structs.replace(option, fields=(), only="")
    right = 0
    for case in cases:
        marked = {**case.row, option.list: [_Marked(item, k) for k, item in enumerate(case.items)]}
        right += _places(plain, marked) == case.taken
    return right


def _Marked(item: Any, place: int) -> Any:
    return {**item, "\x00": place} if isinstance(item, dict) else item


def _places(option: Select, row: dict[str, Any]) -> list[int] | None:
    found = evaluate(option, row)
    if found is UNKNOWN:
        return None
    if all(isinstance(item, dict) for item in found):
        return [item["\x00"] for item in found]
    items = row[option.list]
    places: list[int] = []
    for item in found:
        places.append(next(k for k, v in enumerate(items) if v == item and k not in places))
    return places


def _kept(where: tuple[Condition, ...], cases: Sequence[_Case]) -> int:
    """In how many cases exactly the items that fulfil the conditions are shown, or a part of them (a page)."""
    score = 0
    for case in cases:
        allowed = []
        for k, item in enumerate(case.items):
            values = [(field_of(item, c.field), c.op, evaluate(c.value, case.row)) for c in where]
            if all(goal is not UNKNOWN and fulfils(op, value, goal) for value, op, goal in values):
                allowed.append(k)
        score += 2 * (set(allowed) == set(case.taken)) + (set(case.taken) <= set(allowed))
    return score


def _conditions(rows: Sequence[dict[str, Any]], name: str) -> Iterable[Condition]:
    """Comparisons of the items' fields with scalar arguments, and with constants that fields often have."""
    fields: Counter[str] = Counter()
    values: Counter[tuple[str, Any]] = Counter()
    examples: dict[tuple[str, Any], Any] = {}
    for row in rows[:40]:
        for item in row.get(name) or () if isinstance(row.get(name), list) else ():
            for field, value in item.items() if isinstance(item, dict) else (("", item),):
                fields[field] += 1
                if isinstance(value, str | bool) or value is None:
                    values[(field, freeze(value))] += 1
                    examples[(field, freeze(value))] = value
    arguments = Counter(n for row in rows[:40] for n, v in row.items() if n.startswith("arg/") and is_scalar(v))
    for field in sorted(fields):
        for argument in sorted(arguments):
            some = [row[argument] for row in rows[:40] if argument in row]
            ops = OPS if all(map(is_number, some)) else ("=", "holds", "starts", "holds_any_case", "<=", ">=")
            for op in ops:
                yield Condition(field, op, Source(argument))
        for (of, frozen), n in values.most_common(24):
            if of == field and n >= 0.05 * fields[field]:
                yield Condition(field, "=", Const(examples[(of, frozen)]))


def _cuts(option: Select, cases: Sequence[_Case]) -> Iterable[Select]:
    """The first items: as many as an argument says, always as many; or a page of a fixed or given size."""
    numbers = Counter(n for c in cases for n, v in c.row.items() if n.startswith("arg/") and isinstance(v, int)
                      and not isinstance(v, bool))  # fmt: skip
    most = max((len(c.taken) for c in cases), default=0)
    sizes: list[Expression] = [Source(n) for n in sorted(numbers)]
    if most and any(len(c.items) > most for c in cases):
        sizes.append(Const(most))
    for size in sizes:
        yield msgspec.structs.replace(option, take=size)
        for name in sorted(numbers):
            if size != Source(name):
                yield msgspec.structs.replace(option, take=size, skip=Source(name))
                yield msgspec.structs.replace(option, take=size, skip=_page(Source(name), size, 1))
                yield msgspec.structs.replace(option, take=size, skip=_page(Source(name), size, 0))
    for name in sorted(numbers):
        yield msgspec.structs.replace(option, skip=Source(name))


def _page(number: Expression, size: Expression, first: int) -> Expression:
    before = Call("subtract", (number, Const(first))) if first else number
    return Call("multiply", (before, size))
