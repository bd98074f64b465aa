"""What recorded answers imply of a record that the recording never read: `O-1 has shipped` tells its status.

An invented record is drawn again until the rules, asked about it, answer as production did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from training.models.edits import canonical
from worldmodel.derive.engine import Session
from worldmodel.derive.store import Key
from worldmodel.generate.shapes import named_alone
from worldmodel.steps import OK, Step

DRAWS = 16
"""Draws of a record before the one that agrees best is taken."""


class Recorded:
    """Production's answers by the record that the call named, those before a write changed it. `start` is the session
    at the start of an episode; `passes` tells errors that pass by themselves."""

    def __init__(self, start: Session, facts: Sequence[Step], passes: Callable[[str, str], bool]) -> None:
        self._start = start
        self._about: dict[tuple[str, Key], list[Step]] = {}
        engine, changed = start.engine, set[tuple[str, Key]]()
        for step in facts:
            if passes(step.tool, step.outcome):
                continue
            named = named_alone(engine, start.situation(step.tool, step.arguments))
            for mark in named:
                if mark not in changed and (step.outcome != OK or step.tool in engine.writes):
                    self._about.setdefault(mark, []).append(step)
            if step.tool in engine.writes and step.outcome == OK:
                changed.update(named)

    def choose(self, type_: str, key: Key, draws: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """The first of the drawn records with which the rules give every recorded answer about it, else the best."""
        best: tuple[int, dict[str, Any]] | None = None
        steps = self._about.get((type_, key), ())
        for record in draws:
            score = sum(self._gives(type_, key, record, step) for step in steps)
            if best is None or score > best[0]:
                best = score, record
            if score == len(steps):
                break
        assert best is not None
        return best[1]

    def _gives(self, type_: str, key: Key, record: Mapping[str, Any], step: Step) -> bool:
        session = self._start.fork()
        put(session, type_, key, record)
        decided = session.derive(step.tool, step.arguments, accidents=False)
        if decided is None or decided.outcome != step.outcome:
            return False
        return decided.content is None or step.outcome == OK or canonical(decided.content) == canonical(step.content)


def put(session: Session, type_: str, key: Key, record: Mapping[str, Any]) -> None:
    """Add an invented record to a session's store. Known fields of the record are kept."""
    known = session.store.records.get((type_, key), {})
    for name, value in record.items():
        if name not in known:
            session.store.set(type_, key, name, value, "generated")
