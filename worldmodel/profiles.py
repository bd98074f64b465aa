"""What is known of each tool without a model: its arguments, latencies, and the shape of its answers."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from worldmodel.steps import OK, Step

QUANTILES = tuple(k / 20 for k in range(21))
FEWEST_CALLS = 3
"""A tool with fewer recorded calls supports no generated answer."""


@dataclass(frozen=True)
class Shape:
    """The shape of answers of one outcome class: JSON kinds, required fields, and every path seen."""

    kinds: tuple[str, ...]
    required: tuple[str, ...]
    paths: tuple[str, ...]
    seen: int

    def allows(self, content: str) -> bool:
        """Whether an answer has a kind and only paths that production showed, and every required field."""
        value, kind = _parse(content)
        if kind not in self.kinds:
            return False
        if isinstance(value, dict) and not set(self.required) <= value.keys():
            return False
        return set(_paths(value)) <= set(self.paths)


@dataclass(frozen=True)
class Profile:
    """One tool: number of calls, argument keys (and the required ones), latency quantiles and shapes by outcome."""

    calls: int
    argument_keys: tuple[str, ...]
    always: tuple[str, ...]
    latency_ms: Mapping[str, tuple[float, ...]]
    shapes: Mapping[str, Shape]

    def latency(self, outcome: str, u: float) -> float:
        """Return the interpolated latency at quantile `u` for that outcome (or for `ok`)."""
        quantiles = self.latency_ms.get(outcome) or self.latency_ms.get(OK)
        if not quantiles:
            return 0.0
        at = u * (len(quantiles) - 1)
        low = min(int(at), len(quantiles) - 2)
        return quantiles[low] + (at - low) * (quantiles[low + 1] - quantiles[low])

    def objection(self, arguments: Mapping[str, Any]) -> str | None:
        """Return the reason why production does not support an answer to these arguments; None if it does."""
        if self.calls < FEWEST_CALLS:
            return f"only {self.calls} recorded calls"
        unseen = [key for key in arguments if key not in self.argument_keys]
        if unseen:
            return f"unexpected argument {unseen[0]!r}"
        missing = [key for key in self.always if key not in arguments]
        return f"missing argument {missing[0]!r}" if missing else None

    def allows(self, outcome: str, content: str) -> bool:
        shape = self.shapes.get(outcome)
        return shape is None or shape.allows(content)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Profile:
        shapes = {
            name: Shape(tuple(s["kinds"]), tuple(s["required"]), tuple(s["paths"]), s["seen"])
            for name, s in value["shapes"].items()
        }
        latency = {name: tuple(q) for name, q in value["latency_ms"].items()}
        return cls(value["calls"], tuple(value["argument_keys"]), tuple(value["always"]), latency, shapes)


def learn_profiles(steps: Iterable[Step]) -> dict[str, Profile]:
    by_tool: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        by_tool[step.tool].append(step)
    return {tool: _profile(found) for tool, found in sorted(by_tool.items())}


def _profile(steps: Sequence[Step]) -> Profile:
    keys = Counter(key for step in steps for key in step.arguments)
    by_outcome: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        by_outcome[step.outcome].append(step)
    succeeded = by_outcome.get(OK, [])
    always = tuple(k for k, n in keys.items() if n == len(steps) and len(succeeded) >= 20)
    latency = {name: _quantiles([s.latency_ms for s in found]) for name, found in by_outcome.items()}
    shapes = {name: _shape(found) for name, found in by_outcome.items()}
    known = {k: q for k, q in latency.items() if q}
    return Profile(len(steps), tuple(sorted(keys)), always, known, shapes)


def _quantiles(values: Sequence[float | None]) -> tuple[float, ...]:
    known = sorted(v for v in values if v is not None)
    return tuple(round(known[round(q * (len(known) - 1))], 3) for q in QUANTILES) if known else ()


def _shape(steps: Sequence[Step]) -> Shape:
    kinds: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    paths: set[str] = set()
    objects = 0
    for step in steps:
        value, kind = _parse(step.content)
        kinds[kind] += 1
        paths.update(_paths(value))
        if isinstance(value, dict):
            objects += 1
            fields.update(value.keys())
    required = tuple(sorted(k for k, n in fields.items() if n == objects and "*" not in _name(k)))
    return Shape(tuple(sorted(kinds)), required, tuple(sorted(paths)), len(steps))


def _parse(content: str) -> tuple[Any, str]:
    try:
        value = json.loads(content)
    except ValueError:
        return None, "text"
    if isinstance(value, dict):
        return value, "object"
    return value, "array" if isinstance(value, list) else "scalar"


def _paths(value: Any, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Return every key path of a JSON value. Keys with digits (ids) become `*`."""
    if depth > 6:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{prefix}.{_name(key)}"
            yield path
            yield from _paths(inner, path, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, f"{prefix}[]", depth + 1)


def _name(key: str) -> str:
    return "*" if re.search(r"\d{2,}", key) else key
