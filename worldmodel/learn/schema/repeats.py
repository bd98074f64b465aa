"""Idempotency keys: arguments whose value, used again, gets the first answer again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from worldmodel.derive.values import flatten, freeze, is_scalar, parse
from worldmodel.steps import OK, Step


def learn_repeats(conversations: Mapping[str, Sequence[Step]], fewest: int = 4) -> dict[str, tuple[str, ...]]:
    """By tool, the argument that makes a call repeat an earlier answer, whatever its other arguments say."""
    like: Counter[tuple[str, str]] = Counter()
    total: Counter[tuple[str, str]] = Counter()
    for steps in conversations.values():
        first: dict[tuple[str, str, str], tuple[Step, set[Any]]] = {}
        for step in steps:
            body = parse(step.content) if step.outcome == OK else None
            said = {(k, freeze(v)) for k, v in flatten(body)} if isinstance(body, dict) else set()
            for name, value in step.arguments.items() if len(said) >= 3 and len(step.arguments) > 1 else ():
                before, told = first.setdefault((step.tool, name, str(value)), (step, said))
                other = {freeze(v) for n, v in before.arguments.items() if is_scalar(v) and v != step.arguments.get(n)}
                echoed = {(k, v) for k, v in told if v in other}
                if echoed and isinstance(value, str):
                    total[(step.tool, name)] += 1
                    like[(step.tool, name)] += echoed <= said
    found: dict[str, list[str]] = defaultdict(list)
    for (tool, name), n in sorted(like.items()):
        if n >= fewest and n >= 0.9 * total[(tool, name)]:
            found[tool].append(name)
    return {tool: tuple(names) for tool, names in found.items() if len(names) == 1}
