"""Which arguments a tool expects: what a call lacks, or says in another way, is what many refusals are about."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from worldmodel.derive.arguments import Expected, kind_of
from worldmodel.derive.values import freeze
from worldmodel.steps import Step

FEWEST = 10
"""So many calls of a tool show what it expects."""
USUAL = 0.85
"""An argument that this share of the calls gives is expected, and so is the kind of value that this share has."""
MOST_VALUES = 8
"""More different texts than these are no list of options."""
OFTEN = 4
"""An option is said so many times at least."""


def learn_expected(conversations: Mapping[str, Sequence[Step]]) -> dict[str, tuple[Expected, ...]]:
    """By tool, its arguments in the order in which calls say them. Refused calls count too: where agents make mistakes,
    most calls are still without one."""
    calls: dict[str, list[Step]] = defaultdict(list)
    for steps in conversations.values():
        for step in steps:
            calls[step.tool].append(step)
    return {tool: found for tool, of_tool in calls.items() if len(of_tool) >= FEWEST and (found := _of_tool(of_tool))}


def _of_tool(steps: Sequence[Step]) -> tuple[Expected, ...]:
    given = Counter(name for step in steps for name in step.arguments)
    places: dict[str, list[int]] = defaultdict(list)
    for step in steps:
        for at, name in enumerate(step.arguments):
            places[name].append(at)
    order = sorted((n for n, count in given.items() if count >= FEWEST), key=lambda n: sum(places[n]) / len(places[n]))
    found = []
    for name in order:
        values = [step.arguments[name] for step in steps if name in step.arguments]
        kind, count = Counter(map(kind_of, values)).most_common(1)[0]
        needed = given[name] >= USUAL * len(steps)
        found.append(Expected(name, needed, kind if count >= USUAL * len(values) else "", _options(values, kind)))
    return tuple(found)


def _options(values: Sequence[object], kind: str) -> tuple[str, ...]:
    """The texts that an argument chooses among; none for other values, or for free texts."""
    if kind != "string":
        return ()
    counts = Counter(v for v in map(freeze, values) if isinstance(v, str))
    often = tuple(sorted(v for v, n in counts.items() if n >= OFTEN))
    told = sum(counts[v] for v in often)
    return often if 2 <= len(often) <= MOST_VALUES and told >= USUAL * counts.total() else ()
