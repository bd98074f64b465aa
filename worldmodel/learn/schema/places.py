"""Where objects stand in answers: which paths are maps, which nested objects are records of their own."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from worldmodel.derive.schema import Placed, objects
from worldmodel.derive.values import MAP_KEYS, freeze, is_scalar, parse
from worldmodel.steps import OK, Step

Conversations = Mapping[str, Sequence[Step]]
FEWEST_TOOLS, SMALL = 3, 3
"""So many tools must show an object of so few fields for it to stand beside the content."""
DEEPEST = 2
"""So many objects may stand around one that is a record of its own."""


def _beside(inner: Mapping[str, Mapping[str, set[str]]]) -> set[str]:
    """Small objects that stand beside the content in the answers of most tools, with the same few fields: `meta`."""
    tools: Counter[str] = Counter()
    fields: dict[str, set[str]] = defaultdict(set)
    shown = sum(bool(places) for places in inner.values())
    for places in inner.values():
        for name, found in places.items() if len(places) > 1 else ():
            tools[name] += 1
            fields[name] |= found
    return {n for n, count in tools.items()
            if count >= FEWEST_TOOLS and 2 * count > shown and len(fields[n]) <= SMALL}  # fmt: skip


def _wrapped(name: str, bodies: Sequence[Any]) -> list[str]:
    """The object that is alone in an envelope: `card` in `{"data": {"card": {...}}}`."""
    held = [body[name] for body in bodies if isinstance(body, dict) and isinstance(body.get(name), dict)]
    keys = {tuple(value) for value in held}
    if len(keys) != 1 or len(only := keys.pop()) != 1 or not all(isinstance(value[only[0]], dict) for value in held):
        return []
    return [f"{name}.{only[0]}"]


class Places:
    """Which paths of a tool's answers are maps, and which nested objects are records of their own."""

    def __init__(self, conversations: Conversations, most: int = 400) -> None:
        bodies: dict[str, list[Any]] = defaultdict(list)
        for steps in conversations.values():
            for step in steps:
                if step.outcome == OK and len(bodies[step.tool]) < most:
                    bodies[step.tool].append(parse(step.content))
        self.maps = {tool: self._maps(found) for tool, found in bodies.items()}
        self.nested: dict[str, frozenset[str]] = {tool: frozenset() for tool in bodies}
        self.nested = self._nested(bodies)

    def is_map(self, tool: str, path: str) -> bool:
        return path in self.maps.get(tool, ())

    def objects(self, tool: str, body: Any) -> list[Placed]:
        maps, nested = self.maps.get(tool, frozenset()), self.nested.get(tool, frozenset())
        return list(objects(body, lambda p: p in maps, lambda p: p in nested))

    @staticmethod
    def _maps(bodies: Iterable[Any]) -> frozenset[str]:
        keys: dict[str, Counter[str]] = defaultdict(Counter)
        seen: Counter[str] = Counter()

        def walk(value: Any, path: str) -> None:
            if isinstance(value, dict):
                seen[path] += 1
                keys[path].update(value.keys())
                for name, inner in value.items():
                    walk(inner, f"{path}.{name}" if path else name)
            elif isinstance(value, list):
                for inner in value[:8]:
                    walk(inner, path + "[]")

        for body in bodies:
            walk(body, "")
        maps = set()
        for path, counts in keys.items():
            common = sum(1 for n in counts.values() if n >= 0.5 * seen[path])
            if path and len(counts) > MAP_KEYS and common <= 1 and seen[path] >= 5:
                maps.add(path)
        return frozenset(maps)

    def _nested(self, bodies: Mapping[str, list[Any]]) -> dict[str, frozenset[str]]:
        """Nested objects that are an envelope's content, or have the fields of what other answers show."""
        outer: dict[str, dict[str, set[str]]] = {}
        inner: dict[str, dict[str, set[str]]] = {}
        deeper: dict[str, dict[str, set[str]]] = {}
        plain: dict[str, bool] = {}
        envelopes: dict[str, set[str]] = defaultdict(set)
        for tool, found in bodies.items():
            outer[tool], inner[tool], deeper[tool] = defaultdict(set), defaultdict(set), {}
            values: dict[str, set[Any]] = defaultdict(set)
            for body in found:
                for placed in self.objects(tool, body):
                    outer[tool][placed.path].update(placed.fields)
                if isinstance(body, dict):
                    for name, value in body.items():
                        if isinstance(value, dict) and not self.is_map(tool, name):
                            inner[tool][name].update(value)
                            deeper[tool].update(self._inside(tool, name, value, deeper[tool]))
                        elif is_scalar(value):
                            values[name].add(freeze(value))
            plain[tool] = bool(values) and len(values) <= 4 and all(len(v) <= 3 for v in values.values())
        beside = _beside(inner)
        for tool, found in bodies.items():
            names = inner[tool].keys() - beside or inner[tool].keys()
            single = all(isinstance(b, dict) and len(b) == 1 for b in found)  # one object under one name
            if len(names) == 1 and len(found) >= 5 and (plain[tool] or single):
                envelopes[tool].update(names)
        usual = {name for names in envelopes.values() for name in names}
        nested = {}
        for tool in bodies:
            alone = inner[tool].keys() - beside or inner[tool].keys()
            chosen = set(envelopes[tool]) | (usual & alone if len(alone) == 1 else set())
            chosen.update(path for name in envelopes[tool] for path in _wrapped(name, bodies[tool]))
            for path, names in {**inner[tool], **deeper[tool]}.items():
                others = [f for t, places in outer.items() for p, f in places.items() if t != tool or p.endswith("]")]
                if len(names) >= 3 and any(len(names & f) >= 0.6 * min(len(names), len(f)) >= 2 for f in others):
                    chosen.add(path)
            nested[tool] = frozenset(chosen)
        return nested

    def _inside(
        self, tool: str, path: str, value: Mapping[str, Any], known: Mapping[str, set[str]]
    ) -> dict[str, set[str]]:
        """The fields of the objects in an object: `{"data": {"card": {...}}}` has a record two levels down."""
        found: dict[str, set[str]] = {}
        for name, inner in value.items():
            place = f"{path}.{name}"
            if isinstance(inner, dict) and not self.is_map(tool, place) and place.count(".") <= DEEPEST:
                found[place] = known.get(place, set()) | set(inner)
                found.update(self._inside(tool, place, inner, known))
        return found
