"""Calls that name a record by another field than its key: a customer by e-mail address, a line by its number."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from worldmodel.derive.layout import Layout, field_name
from worldmodel.derive.schema import NO_KEY, KeyPart, Link, Schema, key_at
from worldmodel.derive.values import is_alike, is_scalar, key_of, parse
from worldmodel.steps import OK, Step

FEWEST = 4
SURELY = 0.9
"""The share of the answers that show what the argument says, at least."""


def learn_finds(conversations: Mapping[str, Sequence[Step]], schema: Schema) -> Schema:
    """The schema whose links have the fields that records are found by: a call that names no key finds a record by an
    argument if its answer is one record, and shows what the argument says."""
    layout = Layout(schema)
    sites = {s.tool: s for s in schema.sites if s.path == "" and len(s.keys) == 1
             and s.keys[0].source.startswith("field/")}  # fmt: skip
    tries: Counter[tuple[str, str]] = Counter()
    hits: Counter[tuple[str, str, str]] = Counter()
    for steps in conversations.values():
        for step in steps:
            site = sites.get(step.tool) if step.outcome == OK else None
            shown = None if site is None else next((one for of, one in layout.placed(step.tool, parse(step.content))
                                                    if of is site), None)  # fmt: skip
            key = None if site is None or shown is None else key_at(site, shown, step.arguments, {})
            if site is None or shown is None or key is None:
                continue
            said = {name: value for name, value in step.arguments.items() if is_scalar(value) and value is not None}
            if any(key_of(value) == key[0] for value in said.values()):
                continue
            for name, value in said.items():
                tries[(step.tool, name)] += 1
                hits.update((step.tool, name, field_name(site, field)) for field, other in shown.fields.items()
                            if is_alike(value, other))  # fmt: skip
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for (tool, name, field), n in sorted(hits.items()):
        if n >= max(FEWEST, SURELY * tries[(tool, name)]):
            plain = field.partition("@")[0]
            found[tool] += [(name, field)] if plain == field else [(name, plain), (name, field)]
    links = {tool: _with(some, sites[tool].type, found[tool]) if tool in found else some
             for tool, some in schema.links.items()}  # fmt: skip
    return msgspec.structs.replace(schema, links=links)


def _with(links: Sequence[Link], type_: str, pairs: Sequence[tuple[str, str]]) -> tuple[Link, ...]:
    by = tuple(dict.fromkeys(pairs))
    named = [k for k, link in enumerate(links) if link.type == type_ and link.keys and not link.over
             and link.keys[0].source.startswith("arg/")]  # fmt: skip
    if not named:
        name = f"{type_}(by {','.join(dict.fromkeys(argument for argument, _ in by))})"
        return (*links, Link(name, type_, (KeyPart(NO_KEY),), found_by=by))
    out: list[Any] = list(links)
    out[named[0]] = msgspec.structs.replace(links[named[0]], found_by=by)
    return tuple(out)
