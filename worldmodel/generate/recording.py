"""Replay: production's answers in the grounding conversation, and answers that never varied in production."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from worldmodel.derive.engine import Engine
from worldmodel.derive.grounding import continued
from worldmodel.derive.trees import Test
from worldmodel.effects import Effects
from worldmodel.generate.index import TransitionIndex
from worldmodel.generate.resolver import Answer
from worldmodel.steps import OK, Step, call_key

Path = tuple[tuple[Test, bool], ...]
"""The tests of a guard on the way to a leaf, and how they came out."""
HISTORY = re.compile(r"""(?:^|[(|"])(?:n|did|did_on|since|prev|at|told|last|used|first|refused)/""")
"""Sources (`worldmodel.derive.situation`) that say what an episode did before."""


class Recording:
    """The answers of one conversation, each with its state: the earlier writes that affect it."""

    def __init__(self, facts: Sequence[Step], effects: Effects, index: TransitionIndex) -> None:
        self._effects, self._index, self._facts = effects, index, tuple(facts)
        self._paths: dict[int, Path] = {}
        self._answers: dict[str, list[tuple[str, Step]]] = {}
        writes: list[Step] = []
        for step in facts:
            if not effects.is_transient(step.tool, step.outcome):
                related = effects.bearing(step.tool, step.arguments, step, writes)
                self._answers.setdefault(step.key, []).append((_state(related), step))
            if step.outcome == OK and effects.is_write(step.tool):
                writes.append(step)

    def answer(
        self, tool: str, arguments: Mapping[str, Any], steps: Sequence[Step], writes: Sequence[Step]
    ) -> Answer | None:
        """Return production's answer to this call in the state after the episode's steps, of which `writes` are the
        successful writes. None if production did not make this call in this state."""
        found, related = self._replay(tool, arguments, steps, writes)
        if found is None and not related and not self._effects.is_write(tool):
            found = self._index.always(call_key(tool, arguments))
        return None if found is None else Answer(found, "replayed", 1.0)

    def at_another_time(self, rules: Engine, recorded: Step, path: Path) -> bool:
        """Whether the guard tells the state in which production made a recorded call from one in which its tests came
        out as in `path`, by what had been done before: production's answer then says nothing about this call."""
        number = next((k for k, fact in enumerate(self._facts) if fact is recorded), None)
        if number is None:
            return False
        if number not in self._paths:
            session = continued(rules, self._facts[:number])
            decided = session.derive(recorded.tool, recorded.arguments, accidents=False)
            self._paths[number] = decided.path if decided is not None else ()
        for (test, then), (_, now) in zip(self._paths[number], path, strict=False):
            if then != now:
                sources = [test.left, *([str(test.right)] if test.against_source else [])]
                return any(map(asks_history(rules, recorded.tool), sources))
        return False

    def _replay(
        self, tool: str, arguments: Mapping[str, Any], steps: Sequence[Step], writes: Sequence[Step]
    ) -> tuple[Step | None, list[Step]]:
        key, effects = call_key(tool, arguments), self._effects
        related = effects.bearing(tool, arguments, None, writes)
        matching = []
        for state, step in self._answers.get(key, ()):
            related = effects.bearing(tool, arguments, step, writes)
            if state == _state(related):
                matching.append((step, related))
        if not matching:
            return None, related
        lasting = sum(
            s.key == key and not effects.is_transient(s.tool, s.outcome) for s in _since(matching[0][1], steps)
        )
        step, related = matching[min(lasting, len(matching) - 1)]
        if lasting and len(matching) == 1 and effects.lags(tool, related):
            return None, related  # production stopped at what may have been stale
        return step, related


def asks_history(rules: Engine, tool: str) -> Callable[[str], bool]:
    """Whether a source of the tool's guard says what the episode did before, by itself or through a law."""
    found = rules.rules.tools.get(tool)
    told: set[str] = set()
    for law in found.laws if found is not None else ():
        said = msgspec.json.encode(law.expression).decode()
        if HISTORY.search(said) or any(f'"{name}' in said for name in told):
            told.add(law.name)
    return lambda source: bool(HISTORY.search(source)) or any(name in source for name in told)


def _state(related: Sequence[Step]) -> str:
    return "|".join(s.key for s in related)


def _since(related: Sequence[Step], steps: Sequence[Step]) -> Sequence[Step]:
    """The steps after the last write that bears on a call."""
    if not related:
        return steps
    last = next((at for at in range(len(steps) - 1, -1, -1) if steps[at] is related[-1]), -1)
    return steps[last + 1 :]
