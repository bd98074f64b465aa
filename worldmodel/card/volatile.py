"""Volatile fields: what an answer holds that no call and no state determines, such as times, random ids, and counters.

They are found by what they do, never by their names. A volatile value is new every time: nobody has seen it before, and
no other answer repeats it. In addition one of these holds: the same call, with no write between, shows another value;
the same write shows another value in another conversation; or the values of a write rise as the recording goes on. A
value that stays when a tool answers once more in the same conversation is a fact, however unique it is.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.models.edits import canonical
from worldmodel.derive.values import parse
from worldmodel.generate.values import kind_of
from worldmodel.steps import OK, Step, leaves

FEWEST_PAIRS = 3
FEWEST_VALUES = 20
NEARLY_ALWAYS = 0.9
MOST_PATHS = 60
"""Answers with more fields are not looked into: their keys are data."""

Volatile = Mapping[str, frozenset[str]]
"""By tool, the dotted paths of its volatile fields. Items of lists have none: they have no place of their own."""


@dataclass
class _Field:
    """What one field of one tool's answers did."""

    values: list[Any] = field(default_factory=list)
    fresh: int = 0
    other: int = 0
    """The same call, with no write between, showed another value; and the same value."""
    stays: int = 0
    elsewhere: int = 0
    """The same call in another conversation showed another value; and the same value."""
    agrees: int = 0
    first: dict[str, tuple[str, Any]] = field(default_factory=dict)

    def why(self, is_write: bool) -> str:
        """Why the field is volatile; empty where it is not."""
        n = len(self.values)
        distinct = len({json.dumps(v, sort_keys=True) for v in self.values})
        if n < FEWEST_PAIRS or distinct < NEARLY_ALWAYS * n or self.fresh < NEARLY_ALWAYS * n:
            return ""
        if self.other >= max(FEWEST_PAIRS, NEARLY_ALWAYS * (self.other + self.stays)):
            return f"another value in {self.other} of {self.other + self.stays} repeated calls"
        if self.stays or not is_write:
            return ""
        if self.elsewhere >= max(FEWEST_PAIRS, NEARLY_ALWAYS * (self.elsewhere + self.agrees)):
            return f"another value in {self.elsewhere} of {self.elsewhere + self.agrees} equal calls of conversations"
        rising = _rising(self.values)
        if n >= FEWEST_VALUES and rising >= NEARLY_ALWAYS:
            return f"rises with the recording in {rising:.0%} of {n - 1} steps"
        return ""


def find_volatile(conversations: Mapping[str, Sequence[Step]], writes: frozenset[str]) -> dict[str, dict[str, str]]:
    """By tool and path, why a field of its successful answers is volatile. Conversations are in the order of time."""
    found: dict[tuple[str, str], _Field] = defaultdict(_Field)
    for cid, steps in conversations.items():
        known: set[str] = set()
        last: dict[str, dict[str, Any]] = {}
        told: dict[tuple[str, str], set[str]] = defaultdict(set)
        for step in steps:
            known |= {text for _, text in leaves(dict(step.arguments))}
            if step.outcome != OK:
                continue
            shown = dict(_scalars(step.content))
            before = last.get(step.key, {})
            for path, value in shown.items():
                _note(found[(step.tool, path)], cid, step, value, before.get(path), known, told[(step.tool, path)])
            if step.tool in writes:
                last.clear()
            last[step.key] = shown
            known |= {str(v) for v in shown.values()}
    out: dict[str, dict[str, str]] = defaultdict(dict)
    for (tool, path), one in sorted(found.items()):
        why = one.why(tool in writes)
        if why:
            out[tool][path] = why
    return dict(out)


def _note(one: _Field, cid: str, step: Step, value: Any, before: Any, known: set[str], told: set[str]) -> None:
    text = json.dumps(value)
    one.values.append(value)
    one.fresh += str(value) not in known
    if before is not None:
        one.other += before != value
        one.stays += before == value
    elif text in told:
        one.stays += 1
    told.add(text)
    owner, earlier = one.first.setdefault(step.key, (cid, value))
    if owner != cid:
        one.elsewhere += earlier != value
        one.agrees += earlier == value


def _scalars(content: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of the scalars of an answer that stand in no list: only these have a place of their own."""
    try:
        body = json.loads(content)
    except ValueError:
        return
    waiting: list[tuple[str, Any]] = [("", body)]
    out: list[tuple[str, Any]] = []
    while waiting and len(out) <= MOST_PATHS:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{path}.{name}".lstrip("."), inner) for name, inner in value.items()]
        elif isinstance(value, str | int | float) and not isinstance(value, bool) and path:
            out.append((path, value))
    if len(out) <= MOST_PATHS:
        yield from out


def _rising(values: Sequence[Any]) -> float:
    """The share of neighbours that rise: numbers, or texts of one length as they sort, or by their last number."""
    ranks = [_rank(v) for v in values]
    pairs = [(a, b) for a, b in zip(ranks, ranks[1:], strict=False) if a is not None and b is not None]
    return sum(a < b for a, b in pairs) / (len(values) - 1) if len(values) > 1 else 0.0


def _rank(value: Any) -> tuple[float, ...] | None:
    if isinstance(value, int | float):
        return (float(value),)
    numbers = re.findall(r"\d+", value)
    return tuple(float(n) for n in numbers[:8]) if numbers else None


def settled(content: str, paths: frozenset[str]) -> str:
    """An answer in canonical form, in which each volatile value is replaced by its JSON type."""
    return _edited(content, paths, keep_types=True)


def without(content: str, paths: frozenset[str]) -> str:
    """An answer in canonical form without its volatile fields."""
    return _edited(content, paths, keep_types=False)


def _edited(content: str, paths: frozenset[str], keep_types: bool) -> str:
    body: Any = parse(content) if paths else None
    for path in paths if isinstance(body, dict) else ():
        *above, name = path.split(".")
        place = body
        for part in above:
            place = place.get(part) if isinstance(place, dict) else None
        if isinstance(place, dict) and name in place:
            value = place.pop(name)
            if keep_types:
                place[name] = f"\x00{kind_of(value)}"
    return canonical(json.dumps(body) if isinstance(body, dict) else content)


def by_tool(found: Mapping[str, Mapping[str, str]]) -> dict[str, frozenset[str]]:
    """The paths alone."""
    return {tool: frozenset(paths) for tool, paths in found.items()}


def in_sentences(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What is excluded from exact match, and why."""
    return [
        f"{tool}: the field {path!r} is volatile ({why}); only its type counts in exact match"
        for tool, paths in found.items() for path, why in paths.items()
    ]  # fmt: skip
