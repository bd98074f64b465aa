"""Which arguments a tool expects: what a call lacks, or says in another way, is what many refusals are about."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from worldmodel.derive.layout import Layout
from worldmodel.derive.schema import Expected, Schema, Site, key_at, kind_of
from worldmodel.derive.values import flatten, freeze, is_scalar, key_of, parse
from worldmodel.learn.schema.identifiers import looks_like_id
from worldmodel.steps import OK, Step

FEWEST = 10
"""So many calls of a tool show what it expects."""
USUAL = 0.85
"""An argument that this share of the calls gives is expected, and so is the kind of value that this share has."""
MOST_VALUES = 8
"""More different texts than these are no list of options."""
SHOWN = 0.95
"""A field that this share of the answers have if they are asked for it, and the others do not have."""
OFTEN = 3
"""An option is said in so many conversations at least."""
STAYS = 0.5
"""A field is a record's own if at least this share of its answers say what the answer before said."""
SCOPED = 0.97
"""An argument is a field of listed records if at least this share of them was shown for one value of it only."""
_Record = tuple[str, tuple[str, ...]]
"""A conversation and a key: conversations need not share their records."""
LEFT_OUT = 0.05
"""The largest share of the calls that went well without an argument that is needed: some tools refuse in a sentence."""


def learn_expected(conversations: Mapping[str, Sequence[Step]]) -> dict[str, tuple[Expected, ...]]:
    """By tool, its arguments in the order in which calls say them. Refused calls count too: where agents make mistakes,
    most calls are still without one."""
    calls: dict[str, list[tuple[str, Step]]] = defaultdict(list)
    for cid, steps in conversations.items():
        for step in steps:
            calls[step.tool].append((cid, step))
    return {tool: found for tool, of_tool in calls.items() if len(of_tool) >= FEWEST and (found := _of_tool(of_tool))}


def learn_asked(conversations: Mapping[str, Sequence[Step]], schema: Schema) -> dict[str, dict[str, str]]:
    """By tool, fields that answers show where an argument is given and not false, and hardly ever otherwise."""
    layout = Layout(schema)
    found: dict[str, dict[str, str]] = {}
    calls: dict[str, list[tuple[set[str], set[str], set[str]]]] = defaultdict(list)
    for step in (step for steps in conversations.values() for step in steps if step.outcome == OK):
        places = list(layout.placed(step.tool, layout.read(step.tool, step.content)))
        fields = {name for site, _ in places for name in site.fields}
        held = {name for _, placed in places for name in placed.fields}
        calls[step.tool].append(({name for name, value in step.arguments.items() if value}, fields, held))
    for tool, of_tool in calls.items():
        for argument in sorted({name for said, _, _ in of_tool for name in said}):
            sides = [[(f, h) for said, f, h in of_tool if (argument in said) is given] for given in (True, False)]
            if min(map(len, sides)) < FEWEST // 2:
                continue
            for name in sorted({name for fields, _ in sides[0] for name in fields}):
                shown, other = (sum(name in held for _, held in side) / len(side) for side in sides)
                if shown >= SHOWN and other <= 1 - SHOWN:
                    found.setdefault(tool, {}).setdefault(name, argument)
    return found


def learn_implied(conversations: Mapping[str, Sequence[Step]], schema: Schema) -> dict[str, tuple[str, ...]]:
    """By tool, fields that the records of its lists have unless an argument of the same name says them."""
    layout = Layout(schema)
    held: dict[tuple[str, str], dict[bool, list[int]]] = defaultdict(lambda: {True: [0, 0, 0], False: [0, 0, 0]})
    for step in (step for steps in conversations.values() for step in steps if step.outcome == OK):
        lists: dict[str, list[bool]] = defaultdict(list)
        for site, placed in layout.placed(step.tool, layout.read(step.tool, step.content)):
            for name in site.fields if site.path.endswith("[]") else ():
                lists[name].append(name in placed.fields)
        for name, places in lists.items():
            counts = held[(step.tool, name)][step.arguments.get(name) is not None]
            for k, n in enumerate((1, len(places), sum(places))):
                counts[k] += n
    found: dict[str, tuple[str, ...]] = {}
    for (tool, name), sides in held.items():
        (calls, said, with_it), (others, free, without) = sides[True], sides[False]
        if min(calls, others) >= FEWEST // 2 and with_it <= (1 - SHOWN) * said and without >= SHOWN * free:
            found[tool] = (*found.get(tool, ()), name)
    return found


def with_scopes(conversations: Mapping[str, Sequence[Step]], schema: Schema) -> Schema:
    """The schema with the fields of listed records that only an argument of the call says: `list_orders(customer)`
    shows orders that do not name their customer.

    An argument is such a field if each record was only shown to calls with one value of it, and if the other answers
    that show a field of this name agree. Where its values are no ids, only conversations that asked for several of them
    count: in others a language stays the same as well. It is none where it names a record that holds the list beside
    texts of its own: then the list is a field of that record. The answers of `conversations` are objects already
    (`read_all`).
    """
    seen = _listings(conversations, schema)
    holders = {(tool, argument) for (tool, argument, _), answers in seen.holders.items() if _hold(answers)}
    sites = []
    for site in schema.sites:
        place = (site.tool, site.path)
        said = {name: shown for name, shown in sorted(seen.listed[place].items())
                if name not in seen.own[place] and (site.tool, name) not in holders}  # fmt: skip
        found = tuple(n for n, shown in said.items() if _is_scope(n, shown, seen.elsewhere[(site.type, n)]))
        sites.append(msgspec.structs.replace(site, fields=(*site.fields, *found), scoped=found))
    return msgspec.structs.replace(schema, sites=tuple(sites))


class _Holder(NamedTuple):
    """What an answer shows outside lists of a record that an argument names."""

    record: _Record
    sizes: tuple[int, ...]
    """The lengths of the answer's lists."""
    told: dict[str, Any]
    """The texts and truth values that no argument says."""


class _Listings(NamedTuple):
    """What answers show of records that have ids of their own. A place is a (tool, path)."""

    listed: dict[tuple[str, str], dict[str, dict[_Record, list[Any]]]]
    """By place in a list and argument, the values that calls gave it when they were shown a record."""
    elsewhere: dict[tuple[str, str], dict[_Record, Any]]
    """By (type, field), the value that an answer showed."""
    own: dict[tuple[str, str], set[str]]
    """By place, the fields that its objects show."""
    holders: dict[tuple[str, str, str], list[_Holder]]
    """By tool, argument, and the path of the record that it names."""


def _listings(conversations: Mapping[str, Sequence[Step]], schema: Schema) -> _Listings:
    layout = Layout(schema)
    seen = _Listings(defaultdict(lambda: defaultdict(dict)), defaultdict(dict), defaultdict(set), defaultdict(list))
    for cid, steps in conversations.items():
        for step in (one for one in steps if one.outcome == OK):
            body = parse(step.content)
            for site, placed in layout.placed(step.tool, body):
                place, key = (step.tool, site.path), key_at(site, placed, step.arguments)
                if key is None:
                    continue
                for name, value in step.arguments.items() if "[]" not in site.path else ():
                    if key_of(value) in key:
                        holder = _Holder((cid, key), _sizes(body), _told(placed.fields, step.arguments))
                        seen.holders[(step.tool, name, site.path)].append(holder)
                if not _has_own_keys(site):
                    continue
                seen.own[place].update(placed.fields)
                for name, value in placed.fields.items():
                    if is_scalar(value):
                        seen.elsewhere[(site.type, name)][(cid, key)] = freeze(value)
                for name, value in step.arguments.items() if site.path.endswith("[]") else ():
                    if isinstance(value, str) and value:
                        seen.listed[place][name].setdefault((cid, key), []).append(freeze(value))
    return seen


def _sizes(body: Any) -> tuple[int, ...]:
    return tuple(len(v) for _, v in flatten(body) if isinstance(v, list)) if isinstance(body, dict) else ()


def _told(fields: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    said = arguments.values()
    return {name: value for name, value in fields.items() if isinstance(value, str | bool) and value not in said}


def _hold(answers: Sequence[_Holder]) -> bool:
    """Whether a text or truth value is the records' own: it stays, and differs between records with lists of the same
    lengths. What an envelope says, that it is a success and has so many items, does not."""
    return any(_is_own(name, answers) for name in sorted({name for one in answers for name in one.told}))


def _is_own(name: str, answers: Sequence[_Holder]) -> bool:
    first: dict[tuple[int, ...], dict[_Record, Any]] = defaultdict(dict)
    last: dict[_Record, Any] = {}
    stays = []
    for record, sizes, told in answers:
        value = told.get(name)
        first[sizes].setdefault(record, value)
        stays += [last[record] == value] if record in last else []
        last[record] = value
    groups = [Counter(values.values()) for values in first.values() if len(values) > 1]
    total = sum(counts.total() for counts in groups)
    apart = total - sum(max(counts.values()) for counts in groups)
    return apart >= (1 - SHOWN) * total and sum(stays) >= STAYS * len(stays)


def _has_own_keys(site: Site) -> bool:
    return bool(site.keys) and all(part.source.startswith("field/") for part in site.keys)


def _is_scope(name: str, shown: Mapping[_Record, Sequence[Any]], elsewhere: Mapping[_Record, Any]) -> bool:
    """Whether calls that were shown one record gave the argument one value, which is also what other answers show."""
    said: dict[str, set[Any]] = defaultdict(set)
    for (cid, _), values in shown.items():
        said[cid].update(values)
    often = [(cid, set(values)) for (cid, _), values in shown.items() if len(values) > 1]
    varied = [len(values) == 1 for cid, values in often if len(said[cid]) > 1]
    options = set[Any]().union(*said.values())
    ids = sum(looks_like_id(name, value) for value in options) >= SCOPED * len(options)
    if len(often if ids else varied) < FEWEST or len(options) < OFTEN or sum(varied) < SCOPED * len(varied):
        return False
    known = [elsewhere[record] in values for record, values in shown.items() if record in elsewhere]
    return sum(known) >= SCOPED * len(known)


def _of_tool(calls: Sequence[tuple[str, Step]]) -> tuple[Expected, ...]:
    values: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    places: dict[str, list[int]] = defaultdict(list)
    fine = [step.arguments for _, step in calls if step.outcome == OK]
    for cid, step in calls:
        for at, (name, value) in enumerate(step.arguments.items()):
            if value is not None:
                values[name].append((cid, value))
                places[name].append(at)
    order = sorted((n for n, of in values.items() if len(of) >= FEWEST), key=lambda n: sum(places[n]) / len(places[n]))
    found = []
    for name in order:
        kind, count = Counter(kind_of(value) for _, value in values[name]).most_common(1)[0]
        lacking = sum(arguments.get(name) is None for arguments in fine)
        needed = len(values[name]) >= USUAL * len(calls) and lacking <= LEFT_OUT * len(fine)
        usual = kind if count >= USUAL * len(values[name]) else ""
        found.append(Expected(name, needed, usual, _options(values[name]) if usual == "string" else ()))
    return tuple(found)


def _options(values: Sequence[tuple[str, Any]]) -> tuple[str, ...]:
    """The texts that an argument chooses among; none for free texts. What fewer conversations say may be private."""
    counts = Counter(value for _, value in values if isinstance(value, str))
    by: dict[str, set[str]] = defaultdict(set)
    for cid, value in values:
        if isinstance(value, str):
            by[value].add(cid)
    often = tuple(sorted(v for v in counts if len(by[v]) >= OFTEN))
    told = sum(counts[v] for v in often)
    return often if 2 <= len(often) <= MOST_VALUES and told >= USUAL * counts.total() else ()
