"""Where records stand in observations, what their keys are, and how a call names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from worldmodel.derive.packing import Packing
from worldmodel.derive.templates import Sentence
from worldmodel.derive.values import UNKNOWN, flatten, freeze, is_date, is_number, key_of

EPISODE = "episode"
"""The record type with an empty key: what a system keeps for the whole session."""
CLOCK = "="
"""The session field with today's date, as the latest answer said it (`learn.clock`). What a tool says without a field
name is the field `=<tool>`, and no tool has an empty name."""
FOLLOWED = "~"
"""How the name of a session field starts that no answer shows: where the calls of a tool have led (`learn.paths`)."""
AT_START = "?"
"""A part of a key that the session has not shown yet."""
OMITTED = "-"
"""A part of a key that the call left out: the first page of a list has no cursor."""
NO_KEY = "by/"
"""The source of a key that no argument says: the record is only found by another field."""
UNTIL_SHOWN, NEXT_CALL = "until shown", "next call"
"""How long lists may lag behind a write."""
RECORD = "@"
"""How the name of a field starts in a filter that asks for what only other answers show of a record."""
LAST_WORD = "~"
"""How the name of a field starts in an order where its last word counts first, as in lists of persons by surname."""


KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


class Expected(msgspec.Struct, frozen=True):
    """One argument of a tool: whether calls need it, the JSON type of its values ("": several), and its options."""

    name: str
    needed: bool
    kind: str
    options: tuple[str, ...] = ()


class KeyPart(msgspec.Struct, frozen=True):
    """One part of a key: where its value comes from, and the literal that it lacks (`add`) or has too much."""

    source: str
    add: str = ""
    strip: str = ""

    def read(self, value: Any) -> str | None:
        text = key_of(value)
        if text is None:
            return None
        if self.strip:
            if not text.startswith(self.strip):
                return None
            text = text[len(self.strip) :]
        return self.add + text


class Site(msgspec.Struct, frozen=True):
    """A place in a tool's answers where an object of one record type stands.

    `path` is dotted, with `[]` for the items of a list and `{}` for those of a map; `keys` are `field/...` (of the
    object), `arg/...` (of the call), `page/...` (of the call, which leaves it out for the first page), `parent/...` (of
    the object around it), `now/...` (of the session: the place where the agent is, the thing that it chose) or `@` (the
    key in its map).
    """

    tool: str
    path: str
    type: str
    keys: tuple[KeyPart, ...]
    fields: tuple[str, ...]
    alias: dict[str, str] = {}
    """Fields that have another name in the record: those of the session whose name other tools use for something else,
    and those that other tools show under that name."""
    scoped: tuple[str, ...] = ()
    """Fields that its objects never show, and that the argument of the same name says."""


class Link(msgspec.Struct, frozen=True):
    """How a call of a tool names a record: one source for each part of the type's key. With `over`, each item of that
    list names one, and the sources are `item/<field>`. With sources `ans/<field>`, the answer names what the call
    has created or, if it is `old`, found."""

    name: str
    type: str
    keys: tuple[KeyPart, ...]
    over: str = ""
    chosen: bool = False
    """Whether the session says which record it is: before one is chosen, the call names none."""
    old: bool = False
    """Whether the record that the answer names was there before: whose account was charged."""
    found_by: tuple[tuple[str, str], ...] = ()
    """Where the call says no key: arguments, and the fields of the record that say the same (`values.is_alike`)."""

    @property
    def answers(self) -> bool:
        """Whether only the answer names the record."""
        return any(part.source.startswith("ans/") for part in self.keys)

    @property
    def creates(self) -> bool:
        """Whether only the answer names the record, since the call has created it."""
        return self.answers and not self.old

    def answered(self, answer: Mapping[str, Any]) -> tuple[str, ...] | None:
        """The key of the record that an answer, as a row of `ans/...`, names."""
        texts = [part.read(answer.get(part.source, None)) for part in self.keys]
        found = tuple(text for text in texts if text is not None)
        return found if len(found) == len(texts) else None


class Filter(msgspec.Struct, frozen=True):
    """What an argument asks of the items of a list: that one of the `fields` is its value (`=`; `same`: in any case),
    has it in its text (`holds`; `words`: each of its words), is at most or at least as large or late (`<=`, `>=`), is
    what it means (`means`, by `meanings`: what is said, and what is shown); or, where the argument is true, that it is
    one of `values` (`is`) or above zero (`above`); or, where it is not given, that it is none of `values` (`not`)."""

    fields: tuple[str, ...]
    op: str = "="
    values: tuple[Any, ...] = ()
    meanings: tuple[tuple[str, str], ...] = ()

    @property
    def is_flag(self) -> bool:
        return self.op in ("is", "above")

    def knows(self, goal: Any) -> bool:
        """Whether it is known what an argument asks for."""
        return self.op != "means" or any(said == goal for said, _ in self.meanings)

    def passes(self, values: Mapping[str, Any], goal: Any) -> bool:
        """Whether an item with these values is one that a call asks for; `goal` is the argument, frozen."""
        return any(self._fits(values[n], goal) for n in self.fields if n in values)

    def _fits(self, value: Any, goal: Any) -> bool:
        if self.op == "=":
            return bool(freeze(value) == goal)
        if self.op in ("is", "not"):
            return (freeze(value) in map(freeze, self.values)) == (self.op == "is")
        if self.op == "means":
            return (goal, value) in self.meanings
        if self.op in ("same", "holds", "words"):
            text, asked = value.casefold() if isinstance(value, str) else "", str(goal).casefold().strip()
            if self.op == "words":
                return bool(text) and all(word in text for word in asked.split())
            return bool(text) and (text == asked if self.op == "same" else asked in text)
        if self.op == "above":
            return is_number(value) and bool(value > 0)
        if not (is_number(value) and is_number(goal) or is_date(value) and is_date(goal)):
            return False
        return bool(value <= goal if self.op == "<=" else value >= goal)


def order_of(name: str) -> tuple[str, bool, Callable[[Any], Any]]:
    """What an entry of a view's order says: the field, whether the largest comes first, and what is compared of it."""
    field, falling = name.removeprefix("-"), name.startswith("-")
    if field.startswith(LAST_WORD):
        return field.removeprefix(LAST_WORD), falling, lambda text: text.split()[::-1]
    return field, falling, lambda value: value


Asked = tuple[Filter | None, str, Any]
"""What a call asks of the items of a list: by which filter, in which argument, and its value, frozen. Without a filter
it is only known which other calls have asked the same."""


class View(msgspec.Struct, frozen=True):
    """A list in a tool's answers that shows all records which its call asks for: once it was shown, what such a call
    answers later is known, with what was created and changed since.

    `filters` has, by argument, the field of the items that equals it, and `tests` what other arguments ask; another
    argument is one of which only that it was the same is known. `hidden` is what items pass as long as an argument is
    not given: a list may have what was cancelled only for those who ask. `limit` is the argument that says how many
    items are shown at most. `fields` are those that every item has. A list of `most` items (0: none is) may have been
    cut. With `narrows`, a call with more filters than an earlier one shows a part of its list. `loose` are fields whose
    values calls may write otherwise: one that no record has may mean another. The items are in the `order` of these
    fields (`order_of`). A `closed` list has only records that all conversations share, and all of these are known.
    """

    path: str
    site: Site
    filters: dict[str, str]
    fields: tuple[str, ...]
    most: int = 0
    narrows: bool = True
    loose: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    tests: dict[str, Filter] = {}
    hidden: dict[str, Filter] = {}
    limit: str = ""
    closed: bool = False

    def items(self, body: Any) -> list[Any] | None:
        """The list in an answer; None where there is none."""
        for name in self.path.split(".") if self.path else ():
            body = body.get(name) if isinstance(body, dict) else None
        return body if isinstance(body, list) else None

    def asked(self, arguments: Mapping[str, Any]) -> frozenset[Asked]:
        """What a call asks of the records. An argument that says whose they are asks nothing where it is empty."""
        found: list[Asked] = [(test, name, None) for name, test in self.hidden.items() if arguments.get(name) is None]
        for name, value in arguments.items():
            test = self.tests.get(name)
            if value is None or name == self.limit or test is not None and test.is_flag and not value:
                continue
            if value == "" and name in self.site.scoped:
                continue
            if name in self.filters:
                found.append((Filter((self.filters[name],)), "", freeze(value)))
            else:
                found.append((test, name, freeze(value)))
        return frozenset(found)

    def cut(self, arguments: Mapping[str, Any]) -> int | None:
        """How many items a call is shown at most; None: all of them."""
        limit = arguments.get(self.limit) if self.limit else None
        said = [limit] if type(limit) is int and limit >= 0 else []
        return min([*said, *([self.most] if self.most else [])], default=None)

    def is_cut(self, items: Sequence[Any], arguments: Mapping[str, Any]) -> bool:
        """Whether a list may go on: it is as long as lists get, or as an argument says."""
        size = len(items)
        return bool(size) and (size == self.most or any(v == size for v in arguments.values() if type(v) is int))


class Schema(msgspec.Struct, frozen=True):
    """All that was learned of the records of one system."""

    sites: tuple[Site, ...] = ()
    links: dict[str, tuple[Link, ...]] = {}
    maps: dict[str, tuple[str, ...]] = {}
    shared: dict[str, tuple[str, ...]] = {}
    """By type, the fields that have one value in all conversations: facts of the world, not of an episode."""

    start: dict[str, Any] = {}
    """Fields of the session that records hang on, and what they are before anything was said or done."""
    texts: dict[str, tuple[Sentence, ...]] = {}
    """By tool, the sentences in which it answers: they are read as objects."""
    packed: dict[str, Packing] = {}
    """By tool, how its answers hold several values in one text."""
    repeats: dict[str, tuple[str, ...]] = {}
    """By tool, the arguments whose value, used again, gets the first answer again: idempotency keys."""

    inert: dict[str, tuple[str, ...]] = {}
    """By tool, the sentences after which nothing has changed: refusals that no flag calls an error."""
    clock: dict[str, tuple[str, ...]] = {}
    """By tool, the fields of its answers that say what day it is."""
    bodied: tuple[str, ...] = ()
    """Tools that answer with objects or lists, and now and then with a sentence, which refuses and changes nothing."""
    implied: dict[str, tuple[str, ...]] = {}
    """By tool, fields that records in lists leave out where the argument of the same name says them."""
    asked: dict[str, dict[str, str]] = {}
    """By tool, the fields that answers have only where an argument asks for them: without it, they are not absent."""
    views: dict[str, tuple[View, ...]] = {}
    lags: dict[str, str] = {}
    """The tools whose lists show for a while what was before the last write: until they have shown it once
    (`UNTIL_SHOWN`), or in the next call alone (`NEXT_CALL`)."""
    expected: dict[str, tuple[Expected, ...]] = {}
    """By tool, the arguments that its calls have."""

    def by_tool(self) -> dict[str, dict[str, Site]]:
        found: dict[str, dict[str, Site]] = {}
        for site in self.sites:
            found.setdefault(site.tool, {})[site.path] = site
        return found


class Placed(msgspec.Struct):
    """One object found in an answer."""

    path: str
    fields: dict[str, Any]
    map_key: str | None
    parent: dict[str, Any]


Opens = Callable[[str], bool]


def objects(body: Any, is_map: Opens, is_site: Opens, path: str = "", parent: dict[str, Any] | None = None,
            map_key: str | None = None) -> Iterator[Placed]:  # fmt: skip
    """Every object of an answer, outermost first: the root, the items of lists and maps, and nested objects that
    are sites of their own. A root that is no object stands as the field `""` of one."""
    if not isinstance(body, dict):
        yield Placed(path, {"": body}, map_key, parent or {})
        if isinstance(body, list):
            yield from _items(body, path, {}, is_map, is_site)
        return
    fields: dict[str, Any] = {}
    inner: list[tuple[str, Any]] = []
    for name, value in flatten(body, lambda p: is_map(_join(path, p)) or is_site(_join(path, p))):
        place = _join(path, name)
        if isinstance(value, dict) and is_site(place) and not is_map(place):
            inner.append((place, value))
        else:
            fields[name] = value
            if isinstance(value, list | dict):
                inner.append((place, value))
    yield Placed(path, fields, map_key, parent or {})
    for place, value in inner:
        if isinstance(value, list):
            yield from _items(value, place, fields, is_map, is_site)
        elif is_map(place):
            for name, item in value.items():
                if isinstance(item, dict):
                    yield from objects(item, is_map, is_site, place + "{}", fields, name)
        elif value:
            yield from objects(value, is_map, is_site, place, fields)


def _items(value: list[Any], place: str, fields: dict[str, Any], is_map: Opens, is_site: Opens) -> Iterator[Placed]:
    for item in value:
        if isinstance(item, dict):
            yield from objects(item, is_map, is_site, place + "[]", fields)
        elif isinstance(item, list):
            yield from _items(item, place + "[]", fields, is_map, is_site)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def given(arguments: Mapping[str, Any], name: str) -> Any:
    """The value of an argument that a call may leave out, or leave empty."""
    value = arguments.get(name)
    return OMITTED if value is None else value


def key_at(
    site: Site, placed: Placed, arguments: Mapping[str, Any], now: Mapping[str, Any] = MappingProxyType({})
) -> tuple[str, ...] | None:
    """The key of an object found at a site; None where a part of it is missing. `now` is the state of the session."""
    parts = []
    for part in site.keys:
        kind, _, name = part.source.partition("/")
        if kind == "field":
            value = placed.fields.get(name, UNKNOWN)
        elif kind == "arg":
            value = arguments.get(name, UNKNOWN)
        elif kind == "page":
            value = given(arguments, name)
        elif kind == "parent":
            value = placed.parent.get(name, UNKNOWN)
        elif kind == "now":
            value = now.get(name, AT_START)
        else:
            value = placed.map_key
        text = part.read(value) if value is not UNKNOWN else None
        if text is None:
            return None
        parts.append(text)
    return tuple(parts)


def kind_of(value: Any) -> str:
    """The JSON type of a value."""
    return KINDS.get(type(value), "null")
