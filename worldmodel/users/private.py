"""Private facts: what the agent asks of the user, and what the recording does not say.

A user knows their own birth year although the recorded user was never asked. The value is that of the record which the
user is concerned with: the store's, or the world's invention, which then stands in the store. What no record has (a
secret that a tool only checks) is invented from the values of that argument, so that the tool accepts it. A user who
has named no record at all, and is asked for its number, has one: a new one, which agrees with what they said.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from typing import Any

from worldmodel.derive.engine import Session
from worldmodel.derive.schema import EPISODE
from worldmodel.derive.store import Key
from worldmodel.derive.values import ABSENT, UNKNOWN, is_scalar, key_of, shown
from worldmodel.generate.agreement import put
from worldmodel.generate.holes import Holes
from worldmodel.generate.invent import Inventor, arguments_of
from worldmodel.generate.resolver import uniform
from worldmodel.generate.unknown import Heard
from worldmodel.generate.values import fits
from worldmodel.steps import OK, leaves, words_of
from worldmodel.users.goal import Goal, Said
from worldmodel.users.knowledge import Knowledge

Mark = tuple[str, Key]
CANDIDATES = 24
"""So many invented values of a secret are tried on the tool that checks it."""
_ID = re.compile(r"[\w@.+-]*\w")


async def private_facts(
    knowledge: Knowledge, session: Session, start: Session, holes: Holes, goal: Goal, said: Said
) -> dict[str, str]:
    """Return the values that the agent's last message asks for and that the recording does not say, by name.

    What is invented of a record is put into the session's store. It is invented in `start`, the world's state before
    any episode, so that equal worlds give equal values whoever is asked first.
    """
    asked = knowledge.asked(goal, said)
    if not asked:
        return {}
    told = "\n".join((*goal.messages, *(text for speaker, text in said if speaker == "user")))
    inventor = holes.inventor
    marks = list(dict.fromkeys(_concerned(session, inventor, told)))
    found = {}
    for name in asked:
        value = await _of_record(session, start, holes, marks, name)
        if value is UNKNOWN:
            value = await (_secret(start, inventor, marks, name) if marks else _own(start, inventor, goal, name))
        if value is not UNKNOWN and value is not ABSENT and value is not None and is_scalar(value):
            if text := shown(value).strip():
                found[name] = text
    return found


# ----- whose fact


def _concerned(session: Session, inventor: Inventor, told: str) -> Iterator[Mark]:
    """Yield the records that the user has named, then those that these name or that name these."""
    store, heard = session.store, Heard([told])
    named = [mark for mark in reversed(store.records) if mark[0] != EPISODE and heard.says(mark[1])]
    named += [mark for mark in _unseen(session, inventor, told) if mark not in named]
    yield from named
    keys = {part for _, key in named for part in key}
    for type_, key in named:
        fields = store.fields(type_, key)
        for name, other in inventor.owners().get(type_, ()):
            text = key_of(fields.get(name))
            if text and inventor.invents(other):
                yield other, (text,)
        texts = {text for value in fields.values() if is_scalar(value) and (text := key_of(value))}
        yield from (mark for mark in store.records if len(mark[1]) == 1 and mark[1][0] in texts and mark not in named)
    for mark in list(store.records):
        if mark[0] != EPISODE and keys & {key_of(v) for v in store.fields(*mark).values() if is_scalar(v)}:
            yield mark


def _unseen(session: Session, inventor: Inventor, told: str) -> Iterator[Mark]:
    """Yield the records that the user has named and nobody has looked up: the form of the key says of which type."""
    for text in dict.fromkeys(_ID.findall(told)):
        types = []
        for type_, (site, link) in inventor.readers.items():
            if inventor.invents(type_) and len(link.keys) == 1:
                values = inventor.shapes.arguments.get(site.tool, {}).get(link.keys[0].source.removeprefix("arg/"))
                key = link.keys[0].read(text)
                if values is not None and key is not None and fits(values, text):
                    types.append((type_, (key,)))
        if len(types) == 1 and not session.store.known(*types[0]):
            yield types[0]


# ----- its value


async def _of_record(session: Session, start: Session, holes: Holes, marks: list[Mark], name: str) -> Any:
    """Return the value of the first record that has a field of this name; UNKNOWN if none has."""
    inventor = holes.inventor
    for type_, key in marks:
        fields = [field for field in _fields(inventor, type_) if field.rpartition(".")[2] == name]
        for field in fields:
            value = session.store.get(type_, key, field)
            if value is UNKNOWN and inventor.invents(type_):
                put(session, type_, key, await _read(start, holes, type_, key))
                value = session.store.get(type_, key, field)
            if value is not UNKNOWN:
                return value
    return UNKNOWN


async def _read(start: Session, holes: Holes, type_: str, key: Key) -> dict[str, Any]:
    """Return the fields of a record as its tool would show them, and those that only other tools show."""
    inventor = holes.inventor
    record = {**await inventor.record(type_, key), **inventor.related(type_, key, start.store)}
    site, link = inventor.readers[type_]
    arguments = inventor.typed(inventor.shapes.arguments.get(site.tool, {}), arguments_of(link, key))
    decided = start.derive(site.tool, arguments, holes.seed, accidents=False)
    if decided is None or decided.outcome != OK:
        return record
    content = decided.content
    if content is None:
        content = (await holes.fill(start.fork(), site.tool, arguments, decided, ())).step.content
    shown_now = start.store.shown(site.tool, arguments, start.engine.layout.read(site.tool, content))
    return {**record, **{name: value for of, found, name, value in shown_now if (of, found) == (type_, key)}}


def _fields(inventor: Inventor, type_: str) -> list[str]:
    schema = inventor.engine.rules.schema
    shown_in = (name for site in schema.sites if site.type == type_ for name in site.fields)
    return list(dict.fromkeys([*shown_in, *inventor.shapes.fields.get(type_, {})]))


async def _secret(start: Session, inventor: Inventor, marks: list[Mark], name: str) -> Any:
    """Return a value for an argument that no record shows, accepted by the tool that takes it; UNKNOWN if no tool takes
    it for one of these records."""
    for type_, key in marks:
        for tool, values in inventor.shapes.arguments.items():
            link = next((k for k in start.engine.rules.schema.links.get(tool, ()) if k.type == type_ and not k.over
                         and all(part.source.startswith("arg/") for part in k.keys)), None)  # fmt: skip
            if name not in values or link is None or name in arguments_of(link, key):
                continue
            known = inventor.typed(values, arguments_of(link, key))

            async def invent(tool: str = tool, known: dict[str, Any] = known, type_: str = type_) -> Any:
                rng = random.Random(int(2**53 * uniform(inventor.seed, "private", type_, tool, name, *known.values())))
                values = inventor.shapes.arguments[tool][name]
                drawn = [inventor.shapes.fresh(values, rng, _kind(values.kinds)) for _ in range(CANDIDATES)]
                return next((v for v in drawn if _accepted(start, inventor, tool, {**known, name: v})), drawn[0])

            return await inventor.pins.settle(f"private {type_} {json.dumps(key)} {name}", invent)
    return UNKNOWN


async def _own(start: Session, inventor: Inventor, goal: Goal, name: str) -> Any:
    """Return the key, as this argument has it, of a record that the user means and nobody has named; UNKNOWN if no tool
    takes this argument alone as a key. Of many new records it is one that shares words with what the user wants."""
    wanted = words_of(" ".join(goal.messages))

    def common(record: Mapping[str, Any]) -> int:
        return len(wanted & words_of(" ".join(text for _, text in leaves(dict(record)))))

    for tool, values in inventor.shapes.arguments.items():
        links = start.engine.rules.schema.links.get(tool, ())
        link = next((k for k in links if [part.source for part in k.keys] == [f"arg/{name}"] and not k.over
                     and inventor.invents(k.type)), None)  # fmt: skip
        if name not in values or link is None:
            continue
        rng = random.Random(int(2**53 * uniform(inventor.seed, "own", tool, name, *goal.messages)))
        drawn = (inventor.shapes.fresh(values[name], rng, _kind(values[name].kinds)) for _ in range(CANDIDATES))
        for value in drawn:
            key = link.keys[0].read(value)
            if key is not None and not start.store.known(link.type, (key,)) and _formed(start, tool, name, value):
                await inventor.settle(link.type, (key,), common, rng)
                return value
    return UNKNOWN


def _formed(start: Session, tool: str, name: str, value: Any) -> bool:
    """Whether a tool does not refuse this value for its form."""
    decided = start.derive(tool, {name: value}, accidents=False)
    return decided is None or decided.outcome == OK or not decided.sure


def _kind(kinds: dict[str, int]) -> str:
    scalars = {kind: n for kind, n in kinds.items() if kind in ("text", "int", "float")}
    return max(scalars, key=lambda kind: scalars[kind]) if scalars else ""


def _accepted(start: Session, inventor: Inventor, tool: str, arguments: dict[str, Any]) -> bool:
    decided = start.derive(tool, arguments, inventor.seed, accidents=False)
    return decided is not None and decided.outcome == OK
