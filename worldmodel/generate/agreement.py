"""What recorded answers imply of a record that the recording never read: `O-1 has shipped` tells its status.

An invented record is drawn again until the rules, asked about it, answer as production did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from training.models.edits import canonical
from worldmodel.derive.engine import Session
from worldmodel.derive.situation import History
from worldmodel.derive.store import Key
from worldmodel.derive.values import UNKNOWN
from worldmodel.generate.shapes import named_alone
from worldmodel.steps import OK, Step

DRAWS = 16
"""Draws of a record before the one that agrees best is taken."""


class Recorded:
    """Production's answers by the record that the call named, up to the first write that succeeded: what it answered
    later says nothing of the start. `start` is the session at the start of an episode; `passes` tells errors that pass
    by themselves."""

    def __init__(self, start: Session, facts: Sequence[Step], passes: Callable[[str, str], bool]) -> None:
        self._start, self._facts, self._passes = start, facts, passes

    @cached_property
    def _about(self) -> dict[tuple[str, Key], list[tuple[Step, History]]]:
        """By record: the recorded answers, each with what the recording had done by then."""
        found: dict[tuple[str, Key], list[tuple[Step, History]]] = {}
        engine, history = self._start.engine, History()
        writes = engine.writes
        for step in self._facts:
            if not self._passes(step.tool, step.outcome) and (step.outcome != OK or step.tool in writes):
                for mark in named_alone(self._start.engine, self._start.situation(step.tool, step.arguments)):
                    found.setdefault(mark, []).append((step, history.fork()))
            if engine.wrote(step.tool, step.content, step.outcome):
                break
            said = engine.layout.unpacked(step.tool, step.content) if step.outcome == OK else step.content
            history.add(step.tool, step.arguments, said, step.outcome, False)
        return found

    def choose(self, type_: str, key: Key, draws: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
        """The first of the drawn records with which the rules give every recorded answer about it, else the best; None
        if there are none. No more are drawn than needed."""
        best: tuple[int, dict[str, Any]] | None = None
        steps = self._about.get((type_, key), ())
        for record in draws:
            score = sum(self._gives(type_, key, record, *asked) for asked in steps)
            if best is None or score > best[0]:
                best = score, record
            if score == len(steps):
                break
        return best[1] if best else None

    def _gives(self, type_: str, key: Key, record: Mapping[str, Any], step: Step, history: History) -> bool:
        """Whether the rules give this answer after what the recording had done by then."""
        session = Session(self._start.engine, self._start.store.fork(), history)
        put(session, type_, key, record)
        decided = session.derive(step.tool, step.arguments, accidents=False)
        if decided is None or decided.outcome != step.outcome:
            return False
        return decided.content is None or step.outcome == OK or canonical(decided.content) == canonical(step.content)


def put(session: Session, type_: str, key: Key, record: Mapping[str, Any]) -> None:
    """Add an invented record to a session's store. Fields that are known, or that a write has changed, are kept."""
    for name, value in record.items():
        if session.store.get(type_, key, name) is UNKNOWN and (type_, key, name) not in session.store.lost:
            session.store.set(type_, key, name, value, "generated")
