"""Fill what the rules leave open: invent records that were never seen, and write the rest of an answer.

hole ──▶ invent the records that its call names ──▶ the rules again ──▶ still open? ──▶ the model ──▶ drawn values
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from worldmodel.derive.engine import Derivation, Session
from worldmodel.derive.layout import Layout
from worldmodel.derive.store import Key
from worldmodel.derive.values import ABSENT, UNKNOWN, dumps, flatten, key_of, unflatten
from worldmodel.generate.agreement import put
from worldmodel.generate.invent import Inventor, schema_with
from worldmodel.generate.resolver import Answer, Resolver, abstained, uniform
from worldmodel.generate.shapes import Shapes, named_alone
from worldmodel.generate.values import Values
from worldmodel.steps import OK, Step, call_key

Invented = list[tuple[str, Key, dict[str, Any]]]
INVENTED = 0.5
"""Support of an answer that holds something invented, as a share of what its outcome has."""


class Holes:
    """Fills the holes of one world's answers."""

    def __init__(self, inventor: Inventor, resolver: Resolver, shapes: Shapes, seed: int) -> None:
        self.inventor, self.resolver, self.shapes, self.seed = inventor, resolver, shapes, seed
        self.pins = inventor.pins

    async def meet(self, session: Session, tool: str, arguments: Mapping[str, Any]) -> Invented:
        """Invent the records that a write itself names, as far as its guard asks for fields that nobody has seen or it
        is known to change an unseen one, and put them into the session."""
        rules = session.engine.rules.tools[tool]
        guard, changed = repr(rules.guard), {effect.type for effect in rules.effects}
        situation = session.situation(tool, arguments)
        alone = set(named_alone(session.engine, situation))
        made: dict[tuple[str, Key], dict[str, Any]] = {}
        for link in situation.links:
            mark = (link.type, situation.keys.get(link.name, ()))
            if mark not in alone or mark in made or not self.inventor.invents(link.type):
                continue
            unseen = link.type in changed and not session.store.known(*mark)
            if unseen or any(session.store.lacks(*mark, name) for name in _asked(guard, link.name)):
                made[mark] = (await self._put(session, *mark))[2]
        return [(*mark, record) for mark, record in made.items()]

    async def fill(
        self, session: Session, tool: str, arguments: Mapping[str, Any], decided: Derivation, before: Sequence[Step]
    ) -> Answer:
        """Return the answer to a call whose outcome the rules know. Updates the session."""
        made = await self._named(session, tool, arguments, decided)
        if made:
            decided = session.again(tool, arguments, decided)
        content = decided.content
        if content is None:
            content = await self._written(session, tool, arguments, decided, before)
        if content is None:
            return abstained(tool, arguments, f"no recorded answer of the kind {decided.outcome!r}")
        content, more = await self._agreed(session, tool, content, decided)
        step = Step(tool, arguments, content, decided.outcome)
        support = INVENTED * decided.purity
        return Answer(step, "generated", support, decided.rule, tuple(made + more))

    # ----- records

    async def _named(self, session: Session, tool: str, arguments: Mapping[str, Any], decided: Derivation) -> Invented:
        """Return the records whose fields fill open slots of the answer, through one link or several: those that nobody
        has seen, or of which only other fields are known."""
        form = session.engine.rules.tools[tool].forms[decided.label]
        made: dict[tuple[str, Key], dict[str, Any]] = {}
        for _ in range(3):
            again = session.again(tool, arguments, decided)
            settled = again.known.keys() | session.given(tool, arguments, again)  # what is new is in no record
            open_ = " ".join(repr(slot.expression) for slot in form.slots if slot.path not in settled)
            situation = session.situation(tool, arguments)
            wanted = [
                mark
                for link in situation.links
                if link.name in situation.keys and self.inventor.invents(link.type)
                and (mark := (link.type, situation.keys[link.name])) not in made
                and any(session.store.lacks(*mark, name) for name in _asked(open_, link.name))
            ]  # fmt: skip
            if not wanted:
                break
            for mark in dict.fromkeys(wanted):
                made[mark] = (await self._put(session, *mark))[2]
        return [(*mark, record) for mark, record in made.items()]

    async def _put(self, session: Session, type_: str, key: Key) -> tuple[str, Key, dict[str, Any]]:
        """Invent a record and add it to the store, together with what is known of it."""
        record = await self.inventor.record(type_, key)
        record = {**record, **self.inventor.related(type_, key, session.store)}
        put(session, type_, key, record)
        return type_, key, record

    # ----- what no record says

    async def _written(
        self, session: Session, tool: str, arguments: Mapping[str, Any], decided: Derivation, before: Sequence[Step]
    ) -> str | None:
        """Return a body for what is still open. Equal calls in equal states get equal bodies, with what is known of
        their fields: another episode of this world may have asked first, and known something else."""
        state = f"{session.history.written}" if tool not in session.engine.writes else f"{len(before)}"
        question = f"body {call_key(tool, arguments)} {decided.label} {state}"
        made = await self.pins.settle(question, lambda: self._write(session, tool, arguments, decided, question))
        return _with_known(session.engine.layout, tool, made, _told(decided)) if made else None

    async def _write(
        self, session: Session, tool: str, arguments: Mapping[str, Any], decided: Derivation, question: str
    ) -> str:
        rng = random.Random(int(2**53 * uniform(self.seed, question)))
        values = self.shapes.bodies.get(tool, {}).get(decided.outcome)
        if values is None:
            return ""
        known = _told(decided)
        body: Any = None
        if self.resolver.writes and tool not in self.resolver.blocked and not values.kinds.get("text"):
            schema = schema_with(values, known)
            seed, around = int(2**31 * rng.random()), self.inventor.around
            body = await self.resolver.written(tool, arguments, decided.outcome, schema, seed, around)
        layout = session.engine.layout
        if body is None or isinstance(body, str) and not values.kinds.get("text"):
            body = self._drawn(tool, arguments, decided, rng)
        if body is not ABSENT:
            told = {name: value for name, value in known.items() if value is not ABSENT}
            opened = layout.open(tool, body) if decided.outcome == OK else body
            clean = self.inventor.cleaned(opened, [dict(arguments), told], rng)
            body = body if clean is opened else clean
        if isinstance(body, dict):
            for name in sorted((session.given(tool, arguments, decided) - body.keys()) & values.fields.keys()):
                body[name] = self._given(values.fields[name], rng)
        if body is ABSENT:
            return ""
        if isinstance(body, str) or decided.outcome != OK:
            return body if isinstance(body, str) else dumps(body)
        return layout.written(tool, body, True) or ""

    def _drawn(self, tool: str, arguments: Mapping[str, Any], decided: Derivation, rng: random.Random) -> Any:
        """Draw an answer: one like those that such users got, else values that its open fields have in production."""
        values, known = self.shapes.bodies[tool][decided.outcome], _told(decided)
        body = UNKNOWN
        if decided.outcome == OK:
            body = self.shapes.answer(tool, arguments, self.inventor.around.user, rng)
        if body is not UNKNOWN:
            return body
        if known and values.fields:
            return {n: v for n, inner in values.fields.items() if (v := self.shapes.fresh(inner, rng)) is not ABSENT}
        return self.shapes.fresh(values, rng)

    def _given(self, values: Values, rng: random.Random) -> Any:
        """Draw a value of a field that is not left out."""
        kinds = {kind: n for kind, n in values.kinds.items() if n and kind != "absent"}
        return self.shapes.fresh(values, rng, max(kinds, key=lambda kind: kinds[kind], default="null"))

    # ----- lists and details agree

    async def _agreed(self, session: Session, tool: str, content: str, decided: Derivation) -> tuple[str, Invented]:
        """Return the answer with the records in its lists as they are when they are read one by one, or as they were
        before the last write if the lists lag."""
        layout = session.engine.layout
        behind = session.store.seen_by(tool)
        body = layout.opened(tool, content) if decided.outcome == OK else None
        if not isinstance(body, dict | list):
            return content, []
        made: Invented = []
        changed = False
        for type_, key, item in listed(layout, tool, body):
            if self.inventor.invents(type_) and not session.store.known(type_, key):
                made.append(await self._put(session, type_, key))
            for name, value in {**session.store.fields(type_, key), **behind.fields(type_, key)}.items():
                if name in item and value is not ABSENT and not isinstance(item[name], dict):
                    changed = changed or item[name] != value
                    item[name] = value
        return (changed and layout.written(tool, body) or content), made


def _asked(expressions: str, link: str) -> set[str]:
    """The fields of a link's record that expressions, as text, look at."""
    return set(re.findall(rf"rec/{re.escape(link)}/([^'\"|)]+)", expressions))


def _told(decided: Derivation) -> dict[str, Any]:
    """What the rules know of the fields of an answer that is written; nothing of a text."""
    return {} if decided.templated else {k: v for k, v in decided.known.items() if v is not UNKNOWN and k}


def _with_known(layout: Layout, tool: str, content: str, known: Mapping[str, Any]) -> str:
    body = layout.opened(tool, content) if known else None
    if not isinstance(body, dict):
        return content
    return layout.written(tool, unflatten({**dict(flatten(body)), **known})) or content


def listed(layout: Layout, tool: str, body: Any) -> list[tuple[str, Key, dict[str, Any]]]:
    """Yield the (type, key, item) of the records in lists of an answer that another tool reads one by one."""
    out = []
    for path, site in layout.sites.get(tool, {}).items():
        if not path.endswith("[]") or not layout.alone(site.type):
            continue
        if not all(part.source.startswith("field/") for part in site.keys):
            continue
        for item in _items(body, [p for p in path.split(".") if p]):
            parts = [
                part.read(item.get(part.source[6:])) if key_of(item.get(part.source[6:])) else None
                for part in site.keys
            ]
            if all(part is not None for part in parts):
                out.append((site.type, tuple(p for p in parts if p is not None), item))
    return out


def _items(value: Any, path: Sequence[str]) -> list[dict[str, Any]]:
    if not path:
        return [value] if isinstance(value, dict) else []
    opens = path[0].count("[]")
    name = path[0].replace("[]", "")
    inner = [value] if not name else [value[name]] if isinstance(value, dict) and name in value else []
    for _ in range(opens):
        inner = [one for part in inner if isinstance(part, list) for one in part]
    return [found for one in inner for found in _items(one, path[1:])]
