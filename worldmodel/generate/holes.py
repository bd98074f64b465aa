"""Fill what the rules leave open: invent records that were never seen, and write the rest of an answer.

hole ──▶ invent the records that its call names ──▶ the rules again ──▶ still open? ──▶ the model ──▶ drawn values
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from training.models.edits import dumps
from worldmodel.derive.engine import Derivation, Session
from worldmodel.derive.store import Key, Layout
from worldmodel.derive.values import ABSENT, UNKNOWN, flatten, key_of, unflatten
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
        """Invent the unseen records that the call itself names, and put them into the session."""
        made: Invented = []
        for type_, key in named_alone(session.engine, session.situation(tool, arguments)):
            if self.inventor.invents(type_) and not session.store.known(type_, key):
                made.append(await self._put(session, type_, key))
        return made

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
        """Return the unseen records whose fields fill open slots of the answer, through one link or several."""
        form = session.engine.rules.tools[tool].forms[decided.label]
        made: Invented = []
        for _ in range(3):
            known = session.again(tool, arguments, decided).known
            open_ = " ".join(repr(slot.expression) for slot in form.slots if slot.path not in known)
            situation = session.situation(tool, arguments)
            wanted = [
                (link.type, situation.keys[link.name])
                for link in situation.links
                if f"rec/{link.name}/" in open_ and link.name in situation.keys and self.inventor.invents(link.type)
                and not session.store.known(link.type, situation.keys[link.name])
            ]  # fmt: skip
            if not wanted:
                break
            for type_, key in dict.fromkeys(wanted):
                made.append(await self._put(session, type_, key))
        return made

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
        """Return a body for what is still open. Equal calls in equal states get equal bodies."""
        state = f"{session.history.written}" if tool not in session.engine.writes else f"{len(before)}"
        question = f"body {call_key(tool, arguments)} {decided.label} {state}"
        made = await self.pins.settle(question, lambda: self._write(session, tool, arguments, decided, question))
        return made or None

    async def _write(
        self, session: Session, tool: str, arguments: Mapping[str, Any], decided: Derivation, question: str
    ) -> str:
        rng = random.Random(int(2**53 * uniform(self.seed, question)))
        values = self.shapes.bodies.get(tool, {}).get(decided.outcome)
        if values is None:
            return ""
        known = {} if decided.templated else {k: v for k, v in decided.known.items() if v is not UNKNOWN and k}
        body: Any = None
        if self.resolver.writes and tool not in self.resolver.blocked and not values.kinds.get("text"):
            schema = schema_with(values, known)
            seed, around = int(2**31 * rng.random()), self.inventor.around
            body = await self.resolver.written(tool, arguments, decided.outcome, schema, seed, around)
        if body is None or isinstance(body, str) and not values.kinds.get("text"):
            body = self._drawn(values, known, rng)
        else:
            told = {name: value for name, value in known.items() if value is not ABSENT}
            body = self.inventor.cleaned(body, [dict(arguments), told], rng)
        if known and isinstance(body, dict):
            body = unflatten({**dict(flatten(body)), **known})
        if body is ABSENT:
            return ""
        return body if isinstance(body, str) else dumps(body)

    def _drawn(self, values: Values, known: Mapping[str, Any], rng: random.Random) -> Any:
        """Draw values for the open fields from the values that these fields have in production."""
        if known and values.fields:
            return {n: v for n, inner in values.fields.items() if (v := self.shapes.fresh(inner, rng)) is not ABSENT}
        return self.shapes.fresh(values, rng)

    # ----- lists and details agree

    async def _agreed(self, session: Session, tool: str, content: str, decided: Derivation) -> tuple[str, Invented]:
        """Return the answer with the records in its lists as they are when they are read one by one."""
        if decided.outcome != OK or not content.startswith(("{", "[")):
            return content, []
        try:
            body = json.loads(content)
        except ValueError:
            return content, []
        made: Invented = []
        changed = False
        layout = session.engine.layout
        for type_, key, item in listed(layout, tool, body):
            if self.inventor.invents(type_) and not session.store.known(type_, key):
                made.append(await self._put(session, type_, key))
            for name, value in session.store.fields(type_, key).items():
                if name in item and value is not ABSENT and not isinstance(item[name], dict):
                    changed = changed or item[name] != value
                    item[name] = value
        return (dumps(body) if changed else content), made


def put(session: Session, type_: str, key: Key, record: Mapping[str, Any]) -> None:
    """Add an invented record to a session's store. Known fields of the record are kept."""
    known = session.store.records.get((type_, key), {})
    for name, value in record.items():
        if name not in known:
            session.store.set(type_, key, name, value, "generated")


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
