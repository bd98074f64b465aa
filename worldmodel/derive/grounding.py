"""What a recorded conversation says is true of the world, without what only happened in it later.

An episode that starts where the recording started may be told what production read before anything was written. It
is not told that a user was verified, that an order was cancelled, or how often something had been tried: that is the
episode's own business, and guards look at its own history.
"""

from __future__ import annotations

from collections.abc import Sequence

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.paths import fields_of
from worldmodel.derive.schema import EPISODE
from worldmodel.derive.store import Key
from worldmodel.steps import OK, Step


def continued(engine: Engine, steps: Sequence[Step]) -> Session:
    """A session that goes on where a recording stopped: its calls are the session's own past."""
    session = engine.session()
    for step in steps:
        session.told(step.tool, step.arguments, step.content, step.outcome)
    return session


def opened(engine: Engine, steps: Sequence[Step]) -> Session:
    """A session that starts where a recording started, with the facts that it showed before it changed them. Where
    records hang on the session (the place where it is), the recording is followed to see of which place a read was."""
    session = engine.session()
    store = session.store
    follower = engine.session() if engine.layout.hidden else session
    touched: set[tuple[str, Key]] = set()
    changed: set[tuple[str, Key, str]] = set()
    for step in steps:
        situation = follower.situation(step.tool, step.arguments)
        body = engine.layout.read(step.tool, step.content) if step.outcome == OK else None
        shown = follower.store.shown(step.tool, step.arguments, body) if step.outcome == OK else []
        if follower is not session:
            follower.told(step.tool, step.arguments, step.content, step.outcome)
        named = {(link.type, situation.keys[link.name]) for link in situation.links if link.name in situation.keys}
        if step.tool in engine.writes:
            if engine.wrote(step.tool, step.content, step.outcome):
                fields = _changes(engine, step)
                if not fields:
                    touched |= named
                changed |= {(type_, key, name) for type_, key in named for of, name in fields if of == type_}
                touched |= {(type_, key) for type_, key, _, _ in shown} | {(EPISODE, ())}
            continue
        for type_, key, name, value in shown:
            mark = (type_, key)
            if mark not in touched and (type_, key, name) not in changed and name not in store.records.get(mark, {}):
                store.set(type_, key, name, value, "seen")
    store.missing.clear()
    return session


def _changes(engine: Engine, step: Step) -> set[tuple[str, str]]:
    """The (type, field) pairs that a write is known to change; empty where that is not known."""
    rules = engine.rules.tools.get(step.tool)
    effects = rules.effects if rules is not None else ()
    return {(effect.type, field) for effect in effects for field in fields_of(effect.field, step.arguments)}
