"""Drift: new tools, changed schemas, and error rates or values that have shifted since a world was fitted."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worldmodel.derive.values import parse
from worldmodel.generate.values import kind_of
from worldmodel.steps import OK, Step

SHIFTED = 3.0
"""Standard errors by which an error rate must differ to count as shifted; the values of a field, by one more, because
there are many of them."""
CLEARLY = 0.2
"""Smaller distances between distributions are not named, however certain."""
FEWEST = 20
MOST_VALUES = 20
MOST_FIELDS = 60

Conversations = Mapping[str, Sequence[Step]]


def drift(trained: Conversations, newest: Conversations) -> list[str]:
    """Return, in sentences, the differences between the newest and the trained conversations."""
    old, new = by_tool(trained), by_tool(newest)
    said = []
    for tool in sorted(new):
        if tool not in old:
            said.append(f"{tool} is a new tool: {len(new[tool])} calls, none before")
            continue
        said += _new_names(tool, old[tool], new[tool])
        said += _shifted_values(tool, trained, newest)
        was, now = (sum(s.outcome != OK for s in steps) for steps in (old[tool], new[tool]))
        shift = _standard_errors(was, len(old[tool]), now, len(new[tool]))
        if abs(shift) >= SHIFTED:
            rates = f"{was / len(old[tool]):.2f} to {now / len(new[tool]):.2f}"
            said.append(f"{tool}: the error rate went from {rates} ({shift:+.1f} standard errors)")
    gone = [tool for tool in old if tool not in new and len(old[tool]) >= 0.02 * sum(map(len, old.values()))]
    return said + [f"{tool} is not called any more" for tool in sorted(gone)]


def by_tool(conversations: Conversations) -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = defaultdict(list)
    for steps in conversations.values():
        for step in steps:
            found[step.tool].append(step)
    return found


def _new_names(tool: str, old: Sequence[Step], new: Sequence[Step]) -> list[str]:
    """Arguments and fields that are new, gone, or of another type, where enough calls say so."""
    said = []
    for what, names in (("argument", _arguments), ("field", _fields)):
        before, after = names(old), names(new)
        enough = max(2, 0.05 * len(new))
        for name in sorted(after):
            if name not in before and sum(after[name].values()) >= enough:
                said.append(f"{tool}: the {what} {name!r} is new")
            elif name in before:
                kinds = {k for k, n in after[name].items() if n >= enough} - set(before[name])
                said += [f"{tool}: the {what} {name!r} is now also {kind}" for kind in sorted(kinds)]
        for name in sorted(before):
            if name not in after and sum(before[name].values()) >= 0.5 * len(old) and len(new) >= FEWEST:
                said.append(f"{tool}: the {what} {name!r} is gone")
    return said


def _shifted_values(tool: str, trained: Conversations, newest: Conversations) -> list[str]:
    """Arguments and fields whose values come from another distribution than before."""
    said = []
    for what, values in (("argument", _argument_values), ("field", _field_values)):
        before, after = _by_name(values, tool, trained), _by_name(values, tool, newest)
        for name in sorted(before.keys() & after.keys()):
            was, now = before[name], after[name]
            if min(len(was), len(now)) >= FEWEST and (change := _shift(was, now)):
                said.append(f"{tool}: the values of the {what} {name!r} have shifted ({change})")
    return said


def _by_name(values: Callable[[Step], Mapping[str, Any]], tool: str, found: Conversations) -> dict[str, list[Any]]:
    """By name, one value a conversation: the calls of one conversation are not independent."""
    out: dict[str, list[Any]] = defaultdict(list)
    for steps in found.values():
        first: dict[str, Any] = {}
        for step in steps:
            if step.tool == tool:
                first = {**values(step), **first}
        for name, value in first.items():
            if value is not None and isinstance(value, str | int | float):
                out[name].append(value)
    return out


def _shift(was: Sequence[Any], now: Sequence[Any]) -> str:
    """How two samples differ, in words; empty where they do not: numbers by the distance of Kolmogorov and Smirnov, few
    values by a G-test. Texts that are mostly different from one another are not compared."""
    numbers = [[v for v in side if isinstance(v, int | float) and not isinstance(v, bool)] for side in (was, now)]
    if len(numbers[0]) == len(was) and len(numbers[1]) == len(now) and len(set(was)) > MOST_VALUES:
        distance = _distance(numbers[0], numbers[1])
        large = distance >= max(CLEARLY, 1.95 * math.sqrt(1 / len(was) + 1 / len(now)))
        middles = " to ".join(f"{sorted(side)[len(side) // 2]:g}" for side in numbers)
        return f"median {middles}" if large else ""
    counts = Counter(map(str, was)), Counter(map(str, now))
    names = counts[0].keys() | counts[1].keys()
    if len(names) > MOST_VALUES:
        return ""
    shares = {n: (counts[0][n] / len(was), counts[1][n] / len(now)) for n in names}
    if sum(abs(a - b) for a, b in shares.values()) / 2 < CLEARLY or _deviates(counts) < SHIFTED + 1:
        return ""
    most = max(sorted(shares), key=lambda n: abs(shares[n][0] - shares[n][1]))
    return f"{most!r} from {shares[most][0]:.0%} to {shares[most][1]:.0%}"


def _distance(left: Sequence[float], right: Sequence[float]) -> float:
    """The largest difference of two distribution functions."""
    a, b = sorted(left), sorted(right)
    return max(abs(bisect_right(a, x) / len(a) - bisect_right(b, x) / len(b)) for x in {*a, *b})


def _deviates(counts: tuple[Counter[str], Counter[str]]) -> float:
    """The G statistic of a table of two rows, in standard deviations of the normal (Wilson and Hilferty)."""
    totals = [sum(row.values()) for row in counts]
    column = counts[0] + counts[1]
    freedom = len(column) - 1
    if not freedom:
        return 0.0
    g = 2 * sum(
        n * math.log(n * sum(totals) / (totals[k] * column[name])) for k in (0, 1) for name, n in counts[k].items()
    )
    share = 2 / (9 * freedom)
    return float(((g / freedom) ** (1 / 3) - (1 - share)) / math.sqrt(share))


def _argument_values(step: Step) -> Mapping[str, Any]:
    return step.arguments


def _field_values(step: Step) -> Mapping[str, Any]:
    body = parse(step.content) if step.outcome == OK else None
    return body if isinstance(body, dict) and len(body) <= MOST_FIELDS else {}


def _arguments(steps: Sequence[Step]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for step in steps:
        for name, value in step.arguments.items():
            found[name][kind_of(value)] += 1
    return found


def _fields(steps: Sequence[Step]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for step in steps:
        for name, value in _field_values(step).items():
            if not any(char.isdigit() for char in name):
                found[name][kind_of(value)] += 1
    return found


def _standard_errors(was: int, of: int, now: int, out_of: int) -> float:
    if min(of, out_of) < FEWEST:
        return 0.0
    pooled = (was + now) / (of + out_of)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / of + 1 / out_of))
    return (now / out_of - was / of) / spread if spread else 0.0
