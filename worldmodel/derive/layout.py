"""A schema as the store uses it: where the records of an answer stand, and how answers are read and written."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from worldmodel.derive.schema import EPISODE, Schema, Site, objects
from worldmodel.derive.templates import SAYS, read
from worldmodel.derive.values import day_of, dumps, flatten, is_scalar, parse
from worldmodel.steps import OK, outcome_of

MOST_PLAIN = 12


class Layout:
    """A schema as the store uses it: sites by tool and path, and which list items are records elsewhere."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.sites = schema.by_tool()
        self.maps = {tool: frozenset(paths) for tool, paths in schema.maps.items()}
        self._bodied = frozenset(schema.bodied)
        self._alone = alone = {s.type for s in schema.sites if s.keys and "[]" not in s.path and "{}" not in s.path}
        self.synonyms: dict[str, dict[str, str]] = {}
        """By type, other names that tools have for fields of its records."""
        for site in schema.sites:
            if site.alias and site.type != EPISODE:
                self.synonyms.setdefault(site.type, {}).update(site.alias)
        self.listed = sorted(s.type for s in {s.type: s for s in schema.sites if s.keys}.values())
        """Types with keys: all records of one of them are a list that answers may be selected from."""
        self.hidden = {(s.type, at, k.source[4:]) for s in schema.sites for at, k in enumerate(s.keys)
                       if k.source.startswith("now/")}  # fmt: skip
        """(type, part of its key, session field) of the records that hang on a field of the session."""
        self.items: dict[tuple[str, str], Site] = {}
        """(type, list field) to the site of its items, where these are records that are also shown alone."""
        for places in self.sites.values():
            for path, site in places.items():
                inner = places.get(path + "[]" if path else "[]")
                if inner is not None and inner.type in alone and all(k.source.startswith("field/") for k in inner.keys):
                    self.items[(site.type, field_name(site, ""))] = inner
                for other in places.values():
                    if other.path.endswith("[]") and other.path.count("[]") == path.count("[]") + 1:
                        name = other.path[len(path) : -2].lstrip(".")
                        good = other.type in alone and all(k.source.startswith("field/") for k in other.keys)
                        if good and other.path.startswith(path) and name:
                            self.items[(site.type, name)] = other

    def read(self, tool: str, content: str) -> Any:
        """The JSON value of an answer; a sentence that the tool is known to say, and a text that holds several values,
        is an object."""
        return self.read_body(tool, parse(content))

    def read_body(self, tool: str, body: Any) -> Any:
        """The same, for the JSON value of an answer."""
        body = self.open(tool, body)
        found = read(self.schema.texts.get(tool, ()), body) if isinstance(body, str) else None
        return body if found is None else found

    def opened(self, tool: str, content: str) -> Any:
        """The JSON value of an answer, with objects in place of the texts that hold several values."""
        return self.open(tool, parse(content))

    def open(self, tool: str, body: Any) -> Any:
        """The same, for the JSON value of an answer."""
        packing = self.schema.packed.get(tool)
        return body if packing is None else packing.unpack(body)

    def unpacked(self, tool: str, content: str) -> str:
        """An answer as rules see it: the same as text, for a tool whose answers have such texts."""
        body = self.opened(tool, content) if tool in self.schema.packed else content
        return content if isinstance(body, str) else dumps(body)

    def written(self, tool: str, body: Any, text: bool = False) -> str | None:
        """An answer as production writes it; None where a text that holds several values lacks one. `text`: a body that
        is a text is written without quotes."""
        packing = self.schema.packed.get(tool)
        packed = body if packing is None else packing.pack(body)
        if isinstance(packed, str) and (text or packed is not body):
            return packed
        return dumps(packed) if packed is not None or body is None else None

    def refuses(self, tool: str, body: Any) -> bool:
        """Whether a success is a refusal that no flag calls one: a sentence of a tool whose others are objects."""
        return tool in self._bodied and isinstance(body, str) and outcome_of(body, True, "") != OK

    def acts(self, tool: str, body: Any) -> bool:
        """Whether a success may have changed something: not if its sentence is one of those that change nothing, or if
        it is one where others are objects."""
        if self.refuses(tool, body):
            return False
        inert = self.schema.inert.get(tool)
        return not (inert and isinstance(body, dict) and body.get(SAYS) in inert)

    def day(self, tool: str, arguments: Mapping[str, Any], body: Any) -> str | None:
        """The day that a successful answer says it is; not one that the call has said."""
        names = self.schema.clock.get(tool, ())
        days = (day_of(value) for name, value in (plain_fields(body) if names else ()) if name in names)
        said = {None, *(day_of(value) for _, value in (flatten(arguments) if names else ()))}
        return next((day for day in days if day not in said), None)

    def alone(self, type_: str) -> bool:
        """Whether records of this type are looked up one by one."""
        return type_ in self._alone

    def placed(self, tool: str, body: Any) -> list[tuple[Site, Any]]:
        sites = self.sites.get(tool)
        if not sites:
            return []
        maps = self.maps.get(tool, frozenset())
        found = objects(body, lambda p: p in maps, lambda p: p in sites)
        return [(sites[one.path], one) for one in found if one.path in sites]


def field_name(site: Site, name: str) -> str:
    """What a tool says without a field name is a field of its own in the session's record."""
    return f"={site.tool}" if site.type == EPISODE and name == "" else site.alias.get(name, name)


def plain_fields(body: Any) -> list[tuple[str, Any]]:
    """The scalar fields of an answer that stand beside no list; not of a large one."""
    if not isinstance(body, dict) or len(body) > MOST_PLAIN:
        return []
    return [(k, v) for k, v in islice(flatten(body), MOST_PLAIN) if is_scalar(v)]
