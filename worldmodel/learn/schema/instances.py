"""The objects that answers show, one by one, and the part of their keys that no call names."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import Any

import msgspec

from worldmodel.derive.layout import plain_fields
from worldmodel.derive.schema import AT_START, Placed, given
from worldmodel.derive.values import ABSENT, amount_in, freeze, is_scalar, key_of, parse
from worldmodel.learn.schema.places import Places
from worldmodel.steps import OK, Step

NEARLY = 0.12
"""Of two session fields that explain nearly the same, the one that is known more often is taken."""
WEAK = 0.5
"""A key of which so many values were met in earlier conversations is no id, if the answers differ."""
DIFFERS = 0.3
"""The share of fields that answers about different things say differently, at least."""
SURELY = 3.0
"""How many deviations better than by chance a session field must foretell an answer."""


MOST_INSTANCES = 400
"""A site is learned from so many instances at most."""
Conversations = Mapping[str, Sequence[Step]]
States = Mapping[str, Sequence[Mapping[str, Any]]]
"""By conversation: the fields of the session before each call."""


class Instance(msgspec.Struct):
    """One object at a site: in which conversation, after how many calls, for which arguments."""

    conversation: str
    at: int
    arguments: Mapping[str, Any]
    placed: Placed
    recurring: frozenset[str]
    frozen: dict[str, Any]
    echoed: frozenset[str]
    bare: bool
    """Whether the call had no arguments at all."""
    asked: frozenset[str]
    """The values in the arguments of all calls of the conversation."""
    now: Mapping[str, Any]
    """What the session's answers had shown before the call, beside lists."""
    minted: frozenset[str]
    """The values that nobody had said before this answer, and that later calls name."""
    new: frozenset[str]
    """The values that nobody had said before this answer."""
    written: int
    """How many calls of tools that may write had succeeded before."""


def scalars(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in arguments.items() if is_scalar(v)}


def gather(
    conversations: Conversations, places: Places, states: States | None = None, writes: Set[str] = frozenset()
) -> dict[tuple[str, str], list[Instance]]:
    """The instances of every site, by (tool, path)."""
    found: dict[tuple[str, str], list[Instance]] = defaultdict(list)
    for cid, steps in conversations.items():
        shown: Counter[str] = Counter()
        named = [{text for v in scalars(s.arguments).values() if (text := key_of(v))} for s in steps]
        asked = frozenset(text for mine in named for text in mine)
        last_named = {text: number for number, mine in enumerate(named) for text in mine}
        first_said: dict[str, int] = {}
        per_step = []
        now: Mapping[str, Any] = {}
        written = 0
        for number, step in enumerate(steps):
            now = now if states is None else states[cid][number]
            mine = set(named[number])
            for text in mine:
                first_said.setdefault(text, -1)
            body = parse(step.content) if step.outcome == OK else None
            placed = places.objects(step.tool, body) if step.outcome == OK else []
            for one in placed:
                mine.update(text for v in one.fields.values() if is_scalar(v) and (text := key_of(v)))
            shown.update(mine)
            for text in mine:
                first_said.setdefault(text, number)
            per_step.append((step, placed, now, written))
            written += step.tool in writes and step.outcome == OK
            now = {**now, **dict(plain_fields(body))}
        recurring = frozenset(text for text, n in shown.items() if n > 1)
        new: dict[int, set[str]] = defaultdict(set)
        for text, number in first_said.items():
            new[number].add(text)
        for at, (step, placed, now, written) in enumerate(per_step):
            fresh = frozenset(new[at])
            minted = frozenset(text for text in fresh if last_named.get(text, at) > at)
            for one in placed:
                into = found[(step.tool, one.path)]
                if len(into) < MOST_INSTANCES:
                    into.append(_instance(cid, at, step.arguments, one, recurring, asked, now, minted, fresh, written))
    return found


def _instance(
    cid: str, at: int, told: Mapping[str, Any], placed: Placed, recurring: frozenset[str], asked: frozenset[str],
    now: Mapping[str, Any], minted: frozenset[str], new: frozenset[str], written: int,
) -> Instance:  # fmt: skip
    arguments = scalars(told)
    named = {key_of(v) for v in arguments.values()}
    echoed = {text for v in placed.fields.values() if is_scalar(v) and (text := key_of(v)) and text in named}
    frozen = {name: freeze(v) for name, v in placed.fields.items()}
    return Instance(cid, at, arguments, placed, recurring, frozen, frozenset(echoed), not told, asked, now, minted, new,
                    written)  # fmt: skip


def value_at(instance: Instance, source: str) -> str | None:
    kind, _, name = source.partition("/")
    if kind == "field":
        return key_of(instance.placed.fields.get(name))
    if kind == "arg":
        return key_of(instance.arguments.get(name))
    if kind == "page":
        return key_of(given(instance.arguments, name))
    if kind == "parent":
        return key_of(instance.placed.parent.get(name))
    if kind == "now":
        return key_of(instance.now.get(name, AT_START)) or AT_START
    return instance.placed.map_key


def difference(left: Mapping[str, Any], right: Mapping[str, Any], own: set[str]) -> float:
    """The share of the fields, without a key's `own`, that two objects say differently."""
    names = (left.keys() | right.keys()) - own
    if not names:
        return 0.0
    return sum(left.get(n, ABSENT) != right.get(n, ABSENT) for n in names) / len(names)


def second_part(first: str, names: Sequence[str], instances: Sequence[Instance]) -> list[str]:
    """What calls name beside the first part of a key, if answers differ with it and stay the same without: texts, since
    a number may be the size of a page."""
    found: list[tuple[float, str]] = []
    for other in names:
        texts = [v for i in instances if (v := _told(i, other)) is not None]
        if other == first or len(texts) < 0.95 * len(instances):
            continue
        own = {s.partition("/")[2] for s in (first, other)}
        named = {key_of(v) for i in instances[:200] for n, v in i.frozen.items() if n in own} - {None}
        own |= {n for n in instances[0].frozen if all(key_of(i.frozen.get(n)) in named for i in instances[:50])}
        last: dict[Any, tuple[Any, dict[str, Any]]] = {}
        shares: dict[bool, list[float]] = {True: [], False: []}
        for instance in instances:
            whole = (instance.conversation, value_at(instance, first), value_at(instance, other))
            for mark in (whole[:2], whole):
                before = last.get(mark)
                if before is not None and (mark == whole or before[0] != whole):
                    shares[mark == whole].append(difference(before[1], instance.frozen, own))
                last[mark] = (whole, instance.frozen)
        same, differ = (sum(some) / max(1, len(some)) for some in (shares[True], shares[False]))
        if len(shares[False]) >= 8 and len(shares[True]) >= 5 and differ >= 0.4 and same <= 0.5 * differ:
            found.append((same - differ, other))
    return [other for _, other in sorted(found)]


def other_parts(first: str, names: Sequence[str], instances: Sequence[Instance], most: int = 2) -> list[str]:
    """What calls name beside the first part of a key that is no id, since other conversations mean something else by
    its values (a date, a kind): the answer depends on it, unless answers were the same without it."""
    usual: dict[str | None, Instance] = {}
    abroad = []
    for instance in instances:
        one = usual.setdefault(value_at(instance, first), instance)
        if one.conversation != instance.conversation:
            abroad.append(difference(one.frozen, instance.frozen, {first.partition("/")[2]}))
    if len(abroad) < max(10, WEAK * len(instances)) or sum(abroad) < DIFFERS * len(abroad):
        return []
    places = {i.conversation for i in instances}
    found = []
    for other in names:
        told = sum(_told(i, other) is not None for i in instances) if other.startswith("arg/") else 0
        if other == first or told < 0.95 * len(instances):
            continue
        latest: dict[Any, tuple[Any, dict[str, Any]]] = {}
        apart = []
        own = {s.partition("/")[2] for s in (first, other)}
        for instance in instances:
            mark, value = (instance.conversation, value_at(instance, first)), value_at(instance, other)
            before = latest.get(mark)
            if before is not None and before[0] != value:
                apart.append(difference(before[1], instance.frozen, own))
            latest[mark] = value, instance.frozen
        values = Counter(value_at(i, other) for i in instances)
        kinds = len(values) <= WEAK * len(places)  # without evidence only what recurs as dates and kinds do
        if sum(apart) >= DIFFERS * len(apart) if len(apart) >= 3 else kinds:
            found.append(other)
    return found[:most]


def looked_up_by(key: Sequence[str], instances: Sequence[Instance]) -> list[str]:
    """Arguments of a look-up beside its key. Calls that are equal get equal answers, in any conversation, and the
    answer repeats no argument: then it hangs on every argument that recurs as kinds and places do, unless calls that
    differ in one of them were answered alike.
    """
    if not key or not all(source.startswith("arg/") for source in key):
        return []
    some = instances[:200]
    if any(sum(value_at(i, s) in i.echoed for i in some) > WEAK * len(some) for s in key):
        return []
    told = Counter(n for i in instances for n in i.arguments)
    others = sorted(n for n, c in told.items() if c >= 0.95 * len(instances) and f"arg/{n}" not in key)
    if not others or alike_but_for(None, instances) < 0.9:
        return []
    conversations = len({i.conversation for i in instances})
    found = []
    for name in others:
        values = {key_of(i.arguments.get(name)) for i in instances}
        echoed = sum(key_of(i.arguments.get(name)) in i.echoed for i in some) > WEAK * len(some)
        if 1 < len(values) <= WEAK * conversations and not echoed:
            if alike_but_for(name, instances) < 0.8:
                found.append(f"arg/{name}")
    return found


def alike_but_for(name: str | None, instances: Sequence[Instance], fewest: int = 5) -> float:
    """The share of calls whose answer equals that of another call with the same arguments, but for one that differs;
    0 where there are too few."""
    latest: dict[Any, tuple[str | None, dict[str, Any]]] = {}
    alike = total = 0
    for instance in instances:
        rest = tuple(sorted((n, repr(v)) for n, v in instance.arguments.items() if n != name))
        value = None if name is None else key_of(instance.arguments.get(name))
        before = latest.get(rest)
        if before is not None and (name is None or before[0] != value):
            total, alike = total + 1, alike + (before[1] == instance.frozen)
        latest[rest] = value, instance.frozen
    return alike / total if total >= fewest else 0.0


def page_parts(instances: Sequence[Instance], most: int = 2) -> list[str]:
    """Arguments that choose among pages of a list: the same call with another value of one of them, or without it,
    shows other items. What only narrows or shortens a list does not."""
    named = Counter(n for i in instances for n in i.arguments if i.arguments[n] is not None)
    found: list[str] = []
    for name in sorted(n for n, times in named.items() if 3 <= times <= 0.95 * len(instances)):
        latest: dict[Any, dict[str | None, dict[str, Any]]] = defaultdict(dict)
        apart = total = 0
        for instance in instances:
            rest = tuple(sorted((n, repr(v)) for n, v in instance.arguments.items() if n != name))
            known = latest[(instance.conversation, rest)]
            value = value_at(instance, f"page/{name}")
            for other, frozen in known.items():
                common = _common_items(frozen, instance.frozen) if other != value else None
                if common is not None:
                    total, apart = total + 1, apart + (common == 0)
            known[value] = instance.frozen
        if total >= 5 and apart >= 0.9 * total:
            found.append(f"page/{name}")
    return found[:most]


def _told(instance: Instance, source: str) -> str | None:
    """The text that a call names in a part of a key; None for a number, and for what only the answer says."""
    kind, _, name = source.partition("/")
    value = (instance.placed.fields if kind == "field" else instance.arguments).get(name)
    return value if isinstance(value, str) and (kind == "arg" or value in instance.echoed) else None


def hidden_part(site: tuple[str, str], key: tuple[str, ...], instances: Sequence[Instance]) -> tuple[str, ...]:
    """A field of the session that an answer hangs on beside its key, such as the place where the agent is: what was
    shown there is shown again when the agent comes back, and not while it is elsewhere."""
    if "[]" in site[1] or "{}" in site[1]:
        return ()
    own = {n for i in instances[:50] for n in i.frozen}
    own |= {f"{site[1]}.{n}" for n in own if site[1]}
    names = Counter(n for i in instances for n, v in i.now.items()
                    if isinstance(v, str) and n not in own and amount_in(v) is None)  # fmt: skip
    found = {name: gain for name in sorted(names) if (gain := _gain(name, key, instances)) > 0}
    best = [name for name, gain in found.items() if gain >= max(found.values()) - NEARLY]
    return (f"now/{max(best, key=lambda name: names[name])}",) if best else ()


def named_there(
    keys: Mapping[tuple[str, str], tuple[str, ...] | None], found: Mapping[tuple[str, str], Sequence[Instance]]
) -> dict[tuple[str, str], tuple[str, ...] | None]:
    """Keys, where what a call names by an item of a list that hangs on a session field hangs on that field too: a name
    is looked up in the place where the agent is."""
    out = dict(keys)
    for site, key in keys.items():
        if key is None or len(key) != 1 or not key[0].startswith("now/"):
            continue
        listed: dict[str, set[Any]] = defaultdict(set)
        for instance in found[site]:
            listed[instance.conversation].update(v for frozen in instance.frozen.values() for v in _items(frozen))
        for other, own in keys.items():
            if own and all(source.startswith("arg/") for source in own):
                some = [i for i in found[other] if i.conversation in listed]
                names = [[i.arguments.get(s[4:]) in listed[i.conversation] for s in own] for i in some]
                share = max((sum(column) / len(some) for column in zip(*names, strict=True)), default=0.0)
                if len(some) >= 8 and share >= 0.5 and not _stays(key[0][4:], own, found[other]):
                    out[other] = (*own, key[0])
    return out


def _stays(name: str, key: tuple[str, ...], instances: Sequence[Instance]) -> bool:
    """Whether an answer mostly stays the same where a session field has changed."""
    before: dict[Any, tuple[str, dict[str, Any]]] = {}
    same: list[bool] = []
    for instance in instances:
        mark = (instance.conversation, tuple(value_at(instance, s) for s in key))
        value = value_at(instance, f"now/{name}") or AT_START
        if mark in before and before[mark][0] != value:
            same.append(before[mark][1] == instance.frozen)
        before[mark] = (value, instance.frozen)
    return len(same) >= 5 and sum(same) >= 0.8 * len(same)


def _gain(name: str, key: tuple[str, ...], instances: Sequence[Instance]) -> float:
    """How much better the last answer under the same value of a session field foretells the next one; 0 for nothing."""
    back: list[bool] = []
    away: list[bool] = []
    held: dict[bool, list[float]] = {True: [], False: []}
    before: dict[Any, tuple[str, dict[str, Any]]] = {}
    seen: dict[Any, dict[str, Any]] = {}
    for instance in instances:
        mark = (instance.conversation, tuple(value_at(instance, s) for s in key))
        value = value_at(instance, f"now/{name}") or AT_START
        last = before.get(mark)
        if last is not None:
            common = _common_items(last[1], instance.frozen)
            if common is not None and last[0] != AT_START:
                held[last[0] == value].append(common)
            if last[0] != value:
                away.append(last[1] == instance.frozen)
                if (mark, value) in seen:
                    back.append(seen[(mark, value)] == instance.frozen)
        before[mark] = (value, instance.frozen)
        seen[(mark, value)] = instance.frozen
    if len(back) >= 4 and len(away) >= 8 and sum(back) >= 0.6 * len(back):
        gain = sum(back) / len(back) - sum(away) / len(away)
        same = (sum(back) + sum(away)) / (len(back) + len(away))
        chance = math.sqrt(same * (1 - same) * (1 / len(back) + 1 / len(away)))
        if gain >= max(0.3, SURELY * chance):
            return gain
    if min(map(len, held.values())) >= 8:
        stays, leaves = (sum(shares) / len(shares) for shares in (held[True], held[False]))
        if stays >= 0.8 and leaves <= 0.5:
            return stays - leaves
    return 0.0


def _common_items(left: Mapping[str, Any], right: Mapping[str, Any]) -> float | None:
    """How much of the shorter of two lists is in the other: a list that grows keeps its items, one of another place
    shows others. None where no field is a list with items both times."""
    shares = [
        len(one & other) / min(len(one), len(other))
        for name in left.keys() & right.keys()
        if (one := _items(left[name])) and (other := _items(right[name]))
    ]
    return sum(shares) / len(shares) if shares else None


def _items(frozen: Any) -> set[Any]:
    return set(frozen[1]) if isinstance(frozen, tuple) and frozen[0] == "l" else set()


def synonyms(
    sites: Mapping[tuple[str, str], Sequence[str]], found: Mapping[tuple[str, str], Sequence[Instance]], fewest: int = 6
) -> dict[tuple[tuple[str, str], str], str]:
    """By (site, field): the name that another site of the same type (`sites` has their keys) has for the field. Two
    fields are one where they say the same of the same records, and no site shows both."""
    shown = {site: {n for i in found[site] for n in i.frozen} for site in sites}
    most = sorted(sites, key=lambda site: -len(found[site]))
    seen = sorted(((i.conversation, i.at, site, i) for site in most for i in found[site]), key=lambda one: one[:2])
    latest: dict[Any, dict[str, Any]] = defaultdict(dict)
    total: Counter[tuple[str, str]] = Counter()
    agree: dict[tuple[str, str], Counter[Any]] = defaultdict(Counter)
    for cid, _, site, instance in seen:
        known = latest[(cid, *(value_at(instance, s) for s in sites[site]))]
        for name, value in instance.frozen.items():
            for other, before in known.items():
                if other not in shown[site] and isinstance(value, str | int) and isinstance(before, str | int):
                    total[(name, other)] += 1
                    agree[(name, other)][value] += value == before
        known.update(instance.frozen)
    pairs: Counter[tuple[str, str]] = Counter()
    for (one, other), n in total.items():
        pairs[(min(one, other), max(one, other))] += n
    out: dict[tuple[tuple[str, str], str], str] = {}
    for one, other in sorted(pairs, key=lambda pair: -pairs[pair]):
        both = [site for site in sites if {one, other} <= shown[site]]
        hits = agree[(one, other)] + agree[(other, one)]
        if both or pairs[(one, other)] < fewest or hits.total() < 0.95 * pairs[(one, other)] or len(+hits) < 3:
            continue
        first = next(name for site in most for name in (one, other) if name in shown[site])
        if any(name in (one, other) for (_, old), new in out.items() for name in (old, new)):
            continue
        second = other if first == one else one
        out.update({(site, second): first for site in sites if second in shown[site]})
    return out
