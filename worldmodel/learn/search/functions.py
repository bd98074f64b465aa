"""Values that are a function of a text, a number, two values or a list (`worldmodel.derive.functions`), and texts with
values in them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from worldmodel.derive.expressions import Call, Const, Expression, Select, Source, Text, evaluate
from worldmodel.derive.functions import FUNCTIONS, apply, is_of, run
from worldmodel.derive.situation import Row
from worldmodel.derive.trees import ZERO_WHERE_MISSING
from worldmodel.derive.values import UNKNOWN, freeze, is_date, is_number, is_scalar, shown
from worldmodel.learn.rows import FEWEST, NO_VALUES, Rows, rank

MOST_SOURCES = 12
PROBES, FIRST = 10, 5
"""Rows with different targets that a function is tried on; it must be right on one of the first of them."""
SHARE = 0.15
"""The least share of the rows where a function says something that it must be right on to be offered: a tree may choose
among several."""
SOMETIMES = 0.3
"""A source that is a part of this share of the texts may be a part of one kind of them."""
MOST_PLACES = 7
_HIDDEN = re.compile(r"[*\u2022#](?:[ -]*[*\u2022#])*[ -]*|(?<![A-Za-z])[xX]{2,}(?:[ -]+[xX]{2,})*[ -]*(?![A-Za-z])")
"""A run of signs that hide a part of a text."""
LONGEST_HIDDEN = 200
NO_ITEMS = ("l", ())
"""A list without items, frozen: a function that gives only this may be any."""
NOT_OF = ("sum(", "len(", "did", "refused/", "n/", "since/", "at/", "told/", "min(", "max(", *NO_VALUES)


def functions(rows: Rows, targets: Sequence[Any], at: Sequence[int]) -> list[Expression]:
    """Calls of functions that give the target in many rows, the plainest first."""
    at = list(at)[:200]
    probes = _probes(targets, at)
    if len(probes) < 2 or len(at) < FEWEST:
        return []
    tried = dict.fromkeys(_candidates(rows, targets, probes, _sources(rows, probes)))
    for name, where in _seldom_known(rows, at).items():
        probes = _probes(targets, where)
        arguments = sorted(sorted({n for i in probes for n in rows.rows[i] if n.startswith("arg/")}), key=rank)
        tried.update(dict.fromkeys(_candidates(rows, targets, probes, [name, *arguments[:6]])))
    tried.update(dict.fromkeys(_following(rows, targets, probes)))
    found: list[tuple[int, int, int, Expression]] = []
    for expression in tried:
        values = [(evaluate(expression, rows.rows[i]), targets[i]) for i in at]
        hits = sum(freeze(value) == freeze(goal) for value, goal in values)
        known = sum(value is not UNKNOWN for value, _ in values)
        if hits >= max(FEWEST, SHARE * known):
            found.append((-hits, 2 * known - 3 * hits, _depth(expression), expression))
    found.sort(key=lambda entry: (entry[0], entry[2], repr(entry[3])))
    often = found[:3]
    found.sort(key=lambda entry: (entry[1], entry[2], repr(entry[3])))
    return list(dict.fromkeys(entry[3] for entry in [*often, *found[:3]]))


def _probes(targets: Sequence[Any], at: Sequence[int]) -> list[int]:
    chosen: dict[Any, int] = {}
    for i in at:
        chosen.setdefault(freeze(targets[i]), i)
    first = list(chosen.values())[:PROBES]
    return first + [i for i in at if i not in set(first)][: PROBES - len(first)]


def _depth(expression: Expression) -> int:
    return 1 + max(map(_depth, expression.of), default=0) if isinstance(expression, Call) else 0


def _seldom_known(rows: Rows, at: Sequence[int]) -> dict[str, list[int]]:
    """Fields of records that are known in some rows, and in which: what follows from them is seen in these only."""
    found: dict[str, list[int]] = defaultdict(list)
    for i in at:
        for name, value in rows.rows[i].items():
            if name.startswith("rec/") and isinstance(value, str | int | float | list) and not isinstance(value, bool):
                found[name].append(i)
    usual = {n: places for n, places in found.items() if FEWEST + 1 <= len(places) < 0.8 * len(at)}
    return dict(sorted(usual.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:MOST_SOURCES])


def _candidates(
    rows: Rows, targets: Sequence[Any], probes: Sequence[int], sources: Sequence[str]
) -> Iterable[Expression]:
    """Calls that are right on a few of the probes."""
    columns = {name: [rows.rows[i].get(name, UNKNOWN) for i in probes] for name in sources}
    goals = [freeze(targets[i]) for i in probes]
    kinds = {kind for kind in "tnbl" if any(_is_result(kind, targets[i]) for i in probes)}
    places = [n for n in sources if all(isinstance(v, int) and 0 <= v <= 12 for v in columns[n] if v is not UNKNOWN)]
    rounds = any(isinstance(targets[i], float) for i in probes)
    unlike = "calculated" if rounds else "calculated_fraction"  # 2 and 2.0 are equal, and written otherwise
    fits = {kind: {s: [is_of(kind, v) for v in columns[s]] for s in sources} for kind in "tnlN*"}
    for name, function in FUNCTIONS.items():
        if name in ("round", "fixed", "masked", unlike) or function.gives != "*" and function.gives not in kinds:
            continue
        for of in _arguments(function.kinds, sources, fits):
            fitting = list(map(all, zip(*(fits[kind][s] for kind, s in zip(function.kinds, of, strict=True)),
                                        strict=True)))  # fmt: skip
            if not any(fitting[:FIRST]):
                continue
            given = list(zip(*(columns[s] for s in of), strict=True))
            values = [run(function, given[k]) if fitting[k] else UNKNOWN for k in range(min(FIRST, len(given)))]
            if not _may_agree(values, goals, rounds):
                continue
            values += [run(function, given[k]) if fitting[k] else UNKNOWN for k in range(FIRST, len(given))]
            call = Call(name, tuple(Source(s) for s in of))
            if _agree(values, goals):
                yield call
            exact = all(freeze(value) == goal for value, goal in zip(values, goals, strict=True))
            if rounds and not exact and any(isinstance(v, float) for v in values):
                yield from _rounded(call, values, goals, places, columns)
    for name in sources:
        yield from _later(name, columns[name], [targets[i] for i in probes])
    for name in sources if rounds else ():
        if any(isinstance(v, float) for v in columns[name]):
            yield from _rounded(Source(name), columns[name], goals, places, columns)


def _later(name: str, column: Sequence[Any], targets: Sequence[Any]) -> Iterable[Expression]:
    """A date that is always as many days after another."""
    gaps = Counter(days for pair in zip(targets, column, strict=True)
                   if all(map(is_date, pair)) and (days := apply("days_between", pair)) is not UNKNOWN)  # fmt: skip
    for days, n in gaps.most_common(1):
        if n >= 2 and days:
            yield Call("days_later", (Source(name), Const(days)))


def _following(rows: Rows, targets: Sequence[Any], probes: Sequence[int]) -> Iterable[Expression]:
    """Numbers in texts that count up: what follows any text that is known, however far it is from the call, or the
    first or last item of a list."""
    hits: Counter[tuple[str, str, str]] = Counter()
    for i in probes:
        goal = targets[i]
        for name, value in rows.rows[i].items():
            if name.startswith(NOT_OF):
                continue
            if isinstance(value, str) and value[:1] == str(goal)[:1]:
                hits[(name, "", "")] += apply("following", [value]) == goal
            elif isinstance(value, list) and value and isinstance(value[0], dict) and isinstance(value[-1], dict):
                for end, item in (("first", value[0]), ("last", value[-1])):
                    hits.update((name, end, n) for n, v in item.items() if apply("following", [v]) == goal)
    often = [found for found, times in hits.items() if times >= 2]
    for name, end, field in sorted(often, key=lambda found: (-hits[found], rank(found[0]), found))[:3]:
        inner = Call(end, (Select(name, only=field),)) if end else Source(name)
        yield Call("following", (inner,))


def _may_agree(values: Sequence[Any], goals: Sequence[Any], rounds: bool) -> bool:
    """Whether one of the first values is right, perhaps after rounding."""
    for value, goal in zip(values, goals, strict=False):
        if value is UNKNOWN:
            continue
        if freeze(value) == goal or (rounds and is_number(value) and is_number(goal) and abs(value - goal) <= 0.5):
            return True
    return False


def _agree(values: Sequence[Any], goals: Sequence[Any]) -> bool:
    known = [(freeze(v), g) for v, g in zip(values, goals, strict=True) if v is not UNKNOWN]
    right = [v for v, g in known if v == g]
    return (
        len(right) >= 2
        and len(right) >= 0.3 * len(known)
        and (len(set(right)) > 1 or isinstance(right[0], tuple) and right[0] != NO_ITEMS)
    )


def _rounded(
    inner: Expression, values: Sequence[Any], goals: Sequence[Any], places: Sequence[str],
    columns: dict[str, list[Any]],
) -> Iterable[Expression]:  # fmt: skip
    """The same, rounded to as many places as an argument says, or always to as many."""
    near = sum(is_number(v) and is_number(g) and abs(v - g) <= 0.5 for v, g in zip(values, goals, strict=True))
    if near < 2:  # rounding moves no number further
        return
    for name in places:
        if _agree([apply("round", pair) for pair in zip(values, columns[name], strict=True)], goals):
            yield Call("round", (inner, Source(name)))
    for digits in range(MOST_PLACES):
        if _agree([apply("round", (v, digits)) for v in values], goals):
            yield Call("round", (inner, Const(digits)))
            return


def _sources(rows: Rows, probes: Sequence[int]) -> list[str]:
    counts: Counter[str] = Counter()
    for i in probes:
        counts.update(n for n, v in rows.rows[i].items() if isinstance(v, str | int | float | list)
                      and not isinstance(v, bool) and not n.startswith(NOT_OF))  # fmt: skip
    usual = [n for n, c in counts.items() if c >= 0.4 * len(probes)]
    return sorted(usual, key=lambda n: (rank(n), -counts[n]))[: 2 * MOST_SOURCES]


def _is_result(kind: str, value: Any) -> bool:
    return isinstance(value, bool) if kind == "b" else is_of(kind, value)


def _arguments(
    kinds: str, sources: Sequence[str], fits: Mapping[str, Mapping[str, Sequence[bool]]]
) -> Iterable[tuple[str, ...]]:
    fitting = [[s for s in sources if any(fits[k][s])][:MOST_SOURCES] for k in kinds]
    if len(kinds) == 1:
        yield from ((s,) for s in fitting[0])
        return
    yield from ((a, b) for a in fitting[0] for b in fitting[1] if a != b)


# ----- texts


def texts(rows: Rows, targets: Sequence[Any], at: Sequence[int]) -> list[Expression]:
    """Texts with the values of sources in them."""
    at = [i for i in at if isinstance(targets[i], str) and len(targets[i]) <= 600][:300]
    if len(at) < FEWEST:
        return []
    occurs: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for i in at:
        for name, value in rows.rows[i].items():
            if value is None or isinstance(value, bool) or not is_scalar(value):
                continue
            if name.startswith((*NO_VALUES, *ZERO_WHERE_MISSING)):  # a counter's digit stands in most numbers
                continue
            text = shown(value)
            if len(text) >= 1 and len(text) <= 200:
                held[name] += 1
                occurs[name] += text in targets[i]
    out: list[Expression] = []
    for share in (0.8, SOMETIMES):
        names = [n for n in occurs if occurs[n] >= max(FEWEST, share * held[n])]
        names = sorted(names, key=lambda n: (-occurs[n], rank(n)))[:12]
        found = Counter(_skeleton(targets[i], rows.rows[i], names) for i in at)
        for skeleton, n in found.most_common(2):
            if n >= FEWEST and any(p.startswith("\x00") for p in skeleton):
                whole = Text(tuple(Source(p[1:]) if p.startswith("\x00") else Const(p) for p in skeleton))
                if whole not in out:
                    out.append(whole)
    return out


def masks(rows: Rows, targets: Sequence[Any], at: Sequence[int]) -> list[Expression]:
    """Texts that show a part of a source and hide the rest: `+49******7090`, `r***@post.example`, `**** 4242`."""
    hits: Counter[tuple[str, str]] = Counter()
    for i in at[:200]:
        text = targets[i]
        found = _HIDDEN.search(text) if isinstance(text, str) and len(text) <= LONGEST_HIDDEN else None
        if found is None:
            continue
        for name, value in rows.rows[i].items():
            if isinstance(value, str) and not name.startswith(NO_VALUES):
                ways = _ways(value, text[: found.start()], found.group(), text[found.end() :])
                hits.update((name, how) for how in ways if apply("masked", (value, how)) == text)
    often = [way for way, n in hits.most_common() if n >= FEWEST]
    often.sort(key=lambda way: (-hits[way], rank(way[0]), len(way[1])))
    return [Call("masked", (Source(name), Const(how))) for name, how in often[:3]]


def _ways(value: str, start: str, hidden: str, end: str) -> Iterable[str]:
    """How a text may be shown in part so that this is left of it."""
    if not start + end or len(start) + len(end) >= len(value) or not (value.startswith(start) and value.endswith(end)):
        return
    last = "@" if end.startswith("@") else str(len(end))
    if len(set(hidden)) == 1:
        yield f"{len(start)}{hidden[0]}{last}"
    yield f"{len(start)}{hidden}{last}"


def _skeleton(text: str, row: Row, names: Sequence[str]) -> tuple[str, ...]:
    values = [(shown(row[n]), k, n) for k, n in enumerate(names) if n in row and is_scalar(row[n])]
    pieces: list[str] = [text]
    for value, _, name in sorted(values, key=lambda v: (-len(v[0]), v[1])):
        out: list[str] = []
        for piece in pieces:
            if piece.startswith("\x00") or not value or value not in piece:
                out.append(piece)
                continue
            before, _, after = piece.partition(value)
            out += [p for p in (before, "\x00" + name, after) if p]
        pieces = out
    return tuple(pieces)
