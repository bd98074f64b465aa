"""Invent an unseen record once, completely, for (seed, type, key): by the model under the schema of the tool that reads
its type, or else from the values that its fields have in production.

The record is a function of the world's seed. It does not depend on which episode or process asks first.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from worldmodel.derive.engine import Engine
from worldmodel.derive.schema import EPISODE, Link, Site
from worldmodel.derive.store import Key, Store
from worldmodel.derive.values import ABSENT, dumps, is_finite
from worldmodel.generate.agreement import DRAWS, Recorded
from worldmodel.generate.context import ALONE, Around
from worldmodel.generate.pins import Pins
from worldmodel.generate.resolver import Resolver, uniform
from worldmodel.generate.shapes import Shapes, Skeleton
from worldmodel.generate.values import Values, json_schema, object_schema
from worldmodel.steps import OK, leaves

MOST_FITTED = 200
"""Draws of a record that is to agree with what a user said."""
LEFT_OUT = "\x00left out"
"""How a pin, which is JSON, says that a field is absent."""


class Inventor:
    """Invents the records of one world. `around` is what its conversation adds to prompts, `recorded` what it says of
    records that it did not read."""

    def __init__(
        self, engine: Engine, shapes: Shapes, resolver: Resolver, seed: int, pins: Pins, recorded: Recorded,
        around: Around = ALONE,
    ) -> None:  # fmt: skip
        self.engine, self.shapes, self.resolver, self.seed, self.pins = engine, shapes, resolver, seed, pins
        self.recorded, self.around = recorded, around
        self.readers = readers(engine)
        self._options: dict[str, Sequence[Skeleton]] = {}

    def _alike(self, type_: str) -> Sequence[Skeleton]:
        if type_ not in self._options:
            self._options[type_] = self.shapes.alike(type_, self.around.user)
        return self._options[type_]

    def invents(self, type_: str) -> bool:
        """Whether a tool reads records of this type one by one, so that an unseen one can be invented."""
        return type_ in self.readers and type_ in self.shapes.fields

    async def record(self, type_: str, key: Key) -> dict[str, Any]:
        """Return the fields of the record; `ABSENT` for a field that it does not have."""
        made = await self.pins.settle(_question(type_, key), lambda: self._record(type_, key))
        return {name: ABSENT if value == LEFT_OUT else value for name, value in made.items()}

    async def settle(self, type_: str, key: Key, fit: Callable[[Mapping[str, Any]], int], rng: random.Random) -> None:
        """Invent a record that nobody has asked for yet: of many drawn ones, that with the largest `fit`."""

        async def make() -> dict[str, Any]:
            alike = self._alike(type_)
            drawn = (self.shapes.record(type_, rng, alike) for _ in range(MOST_FITTED))
            present = [{n: v for n, v in record.items() if v is not ABSENT} for record in drawn]
            fitted = max(present, key=fit)
            left_out = dict.fromkeys(self.shapes.fields[type_], LEFT_OUT)
            return {**left_out, **fitted, **self.keyed(self.readers[type_][0], key)}

        await self.pins.settle(_question(type_, key), make)

    async def _record(self, type_: str, key: Key) -> dict[str, Any]:
        rng = random.Random(int(2**53 * uniform(self.seed, "record", type_, *key)))
        alike = self._alike(type_)
        first = self.shapes.record(type_, rng, alike)
        site, link = self.readers[type_]
        arguments = self.typed(self.shapes.arguments.get(site.tool, {}), arguments_of(link, key))
        written = await self._by_model(site, arguments, key, rng)
        keyed = self.keyed(site, key)
        drawn = [{**first, **written, **keyed}]

        def draw() -> Iterator[dict[str, Any]]:
            yield drawn[0]
            for _ in range(DRAWS):
                drawn.append({**self.shapes.record(type_, rng, alike), **keyed})
                yield drawn[-1]

        unchanged = (record for record in draw() if self.shapes.unchanged(type_, record))
        chosen = self.recorded.choose(type_, key, unchanged) or self.recorded.choose(type_, key, drawn) or {}
        return {name: LEFT_OUT if value is ABSENT else value for name, value in chosen.items()}

    async def _by_model(self, site: Site, arguments: dict[str, Any], key: Key, rng: random.Random) -> dict[str, Any]:
        """Return the model's fields for the record; none if the model may not be asked or its answer is not usable."""
        values = self.shapes.bodies.get(site.tool, {}).get(OK)
        if values is None or not self.resolver.writes or site.tool in self.resolver.blocked:
            return {}
        shown = {f"{site.path}.{name}".lstrip("."): value for name, value in self.keyed(site, key).items()}
        body = await self.resolver.written(
            site.tool, arguments, OK, schema_with(values, shown), int(2**31 * rng.random()), self.around
        )
        if body is None:
            return {}
        body = self.cleaned(body, [arguments, shown], rng)
        store = Store(self.engine.layout)
        seen = self.engine.layout.read_body(site.tool, body)
        return {
            name: value
            for type_, found, name, value in store.shown(site.tool, arguments, seen)
            if type_ == site.type and found == key
        }

    def cleaned(self, body: Any, known: Sequence[Any], rng: random.Random) -> Any:
        """Replace private texts in an invented value, except those that the call itself contains."""
        said = {text for value in known for _, text in leaves(value)}
        if not any(self.shapes.is_private(text) and text not in said for _, text in leaves(body)):
            return body
        return self._cleaned(body, said, rng)

    def _cleaned(self, value: Any, said: set[str], rng: random.Random) -> Any:
        if isinstance(value, dict):
            return {name: self._cleaned(inner, said, rng) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._cleaned(inner, said, rng) for inner in value]
        return value if isinstance(value, str) and value in said else self.shapes.cleaned(value, rng)

    def keyed(self, site: Site, key: Key) -> dict[str, Any]:
        """Return the fields that repeat the key, as numbers where production has numbers."""
        return self.typed(self.shapes.fields[site.type], key_fields(site, key))

    @staticmethod
    def typed(values: Mapping[str, Values], texts: Mapping[str, Any]) -> dict[str, Any]:
        out = {}
        for name, text in texts.items():
            kinds = values[name].kinds if name in values else {}
            out[name] = int(text) if kinds.get("int", 0) > kinds.get("text", 0) and text.isdigit() else text
        return out

    def related(self, type_: str, key: Key, store: Store) -> dict[str, Any]:
        """Return the fields that name a record which is known to name this one, so that a list and its detail name the
        same owner."""
        out = {}
        for field, other in self.owners().get(type_, ()):
            for known in store.keys.get(other, {}):
                shown = {text for name, v in store.fields(other, known).items() if v is not ABSENT
                         for _, text in leaves(v, name)}  # fmt: skip
                if len(known) == 1 and all(part in shown for part in key):
                    out[field] = known[0]
                    break
        return out

    def owners(self) -> Mapping[str, list[tuple[str, str]]]:
        """By record type, the fields that name another record, and the type of that record."""
        found: dict[str, list[tuple[str, str]]] = {}
        for links in self.engine.rules.schema.links.values():
            types = {link.name: link.type for link in links}
            for link in links:
                source = link.keys[0].source if len(link.keys) == 1 else ""
                if source.startswith("rec/"):
                    outer, _, field = source[4:].rpartition("/")
                    if (field, link.type) not in found.setdefault(types.get(outer, ""), []):
                        found[types.get(outer, "")].append((field, link.type))
        return found


def _question(type_: str, key: Key) -> str:
    """The name under which a record is pinned."""
    return f"record {type_} {json.dumps(key)}"


def readers(engine: Engine) -> dict[str, tuple[Site, Link]]:
    """Per record type, the place in a tool's answers that shows most of the record, and how a call names it."""
    found: dict[str, tuple[Site, Link]] = {}
    for site in engine.rules.schema.sites:
        if site.tool in engine.writes or "[]" in site.path or "{}" in site.path or site.type == EPISODE:
            continue
        for link in engine.rules.schema.links.get(site.tool, ()):
            named = [part.source for part in link.keys]
            direct = bool(named) and all(source.startswith("arg/") for source in named) and not link.over
            if link.type == site.type and direct:
                best = found.get(site.type)
                if best is None or len(site.fields) > len(best[0].fields):
                    found[site.type] = (site, link)
    return found


def arguments_of(link: Link, key: Key) -> dict[str, Any]:
    """Return the arguments of the call that reads the record with this key."""
    out = {}
    for part, text in zip(link.keys, key, strict=True):
        bare = text[len(part.add) :] if part.add and text.startswith(part.add) else text
        out[part.source[4:]] = part.strip + bare
    return out


def key_fields(site: Site, key: Key) -> dict[str, Any]:
    """Return the fields that repeat the key."""
    out = {}
    for part, text in zip(site.keys, key, strict=True):
        if part.source.startswith("field/"):
            out[part.source[6:]] = text[len(part.add) :] if part.add and text.startswith(part.add) else text
    return out


def schema_with(values: Values, known: Mapping[str, Any], at: str = "") -> str:
    """Return the JSON schema of an answer, with the known values (by dotted field) as constants. NaN and infinity,
    which JSON does not have, are no constants; the caller sets known values in the answer."""
    return dumps(_schema_with(values, {name: value for name, value in known.items() if is_finite(value)}, at))


def _schema_with(values: Values, known: Mapping[str, Any], at: str) -> dict[str, Any]:
    if at in known and at:
        return {"const": known[at]}
    if not values.fields or not any(name.startswith(f"{at}." if at else "") for name in known):
        return json_schema(values)
    schema = object_schema(values.fields)
    for name, inner in values.fields.items():
        place = f"{at}.{name}" if at else name
        if known.get(place) is ABSENT:
            schema["properties"].pop(name)
            schema["required"] = [n for n in schema["required"] if n != name]
        elif place in known or any(other.startswith(f"{place}.") for other in known):
            schema["properties"][name] = _schema_with(inner, known, place)
            schema["required"] = list(dict.fromkeys([*schema["required"], name]))
    return schema
