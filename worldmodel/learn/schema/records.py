"""Record types, their keys and the links of calls to them, induced from observations.

An object that occurs at one place in a tool's answers is a *site*. Its key is the field that identifies it
(`identifiers`), else the smallest set of fields and arguments on which the other fields depend. Sites whose keys and
fields overlap are one record type.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence, Set
from itertools import combinations
from typing import Any

from worldmodel.derive.schema import EPISODE, OMITTED, KeyPart, Schema, Site
from worldmodel.derive.values import is_scalar, key_of
from worldmodel.learn.schema.aliases import aliases
from worldmodel.learn.schema.identifiers import identifying
from worldmodel.learn.schema.instances import (
    Conversations,
    Instance,
    States,
    alike_but_for,
    difference,
    gather,
    hidden_part,
    looked_up_by,
    named_there,
    other_parts,
    page_parts,
    scalars,
    second_part,
    synonyms,
    value_at,
)
from worldmodel.learn.schema.places import Places

ALIKE = 0.95
"""An argument does not matter if this share of calls that differ in it alone was answered alike."""
MINTED = 0.2
"""The share of a field's values that are new when they are shown and named by later calls, at least, if it is the id of
what a call creates."""
RECURS = 3
"""How often records are shown, in the mean, of which two sites show other ones in all conversations."""
FEWEST_MET = 10
"""Two sites that so many conversations show and whose keys never meet show different records."""


# ----- keys


def choose_key(
    tool: str, path: str, instances: Sequence[Instance], created: Set[tuple[str, str]] = frozenset()
) -> tuple[str, ...] | None:
    """The sources of the key of a site; () for what a session has one of, None where nothing is a key. `created`: the
    ids of what calls have created, as (conversation, id)."""
    pages = [] if "[]" in path or "{}" in path else page_parts(instances)
    if pages:  # what the pages of one list have in common is seen on its first pages
        usual = Counter(tuple(value_at(i, source) for source in pages) for i in instances)
        first = next((k for k, _ in usual.most_common() if OMITTED in k), usual.most_common(1)[0][0])
        firsts = [i for i in instances if tuple(value_at(i, source) for source in pages) == first]
        key = _plain_key(tool, path, firsts, created)
        return None if key is None else tuple(dict.fromkeys((*_without(key, pages), *pages)))
    return _plain_key(tool, path, instances, created)


def _without(key: tuple[str, ...], pages: Sequence[str]) -> tuple[str, ...]:
    """A key without the arguments that choose a page."""
    return tuple(source for source in key if f"page/{source.partition('/')[2]}" not in pages)


def _plain_key(
    tool: str, path: str, instances: Sequence[Instance], created: Set[tuple[str, str]]
) -> tuple[str, ...] | None:
    nested = "[]" in path or "{}" in path
    names = _candidates(instances, nested)
    if not nested:
        names = [name for name in names if not name.startswith("field/") or _is_asked_for(name, instances)]
    if not nested and all(i.frozen.keys() == {""} for i in instances):  # an answer that is no object: one a query
        return tuple(sorted(name for name in names if name.startswith("arg/")))
    options: list[tuple[str, ...]] = [] if nested else [()]
    options += [(name,) for name in names]
    scored = {option: _score(option, instances) for option in options}
    strong = sorted(names, key=lambda name: -scored[(name,)])[:6]
    for pair in combinations(strong, 2):
        scored[pair] = _score(pair, instances) - 0.6
    if nested:
        outer = {f"parent/{n}" for i in instances[:200] for n, v in i.placed.parent.items() if key_of(v)}
        outer |= {f"arg/{n}" for i in instances[:200] for n in i.arguments}
        for name in strong[:3]:
            for other in sorted(outer)[:10]:
                scored[(name, other)] = _score((name, other), instances) - 0.7
    arguments = tuple(f"arg/{n}" for n in sorted({n for i in instances for n in i.arguments}))
    if not nested and 2 < len(arguments) <= 8:
        scored[arguments] = _score(arguments, instances) - 0.9
    if not scored:
        return None
    best = max(scored, key=lambda option: (scored[option], -len(option)))
    if scored[best] <= 0:
        return None
    if best == arguments:
        best = tuple(source for source in best if alike_but_for(source[4:], instances) < ALIKE) or best
    if nested or len(best) == 1 and _is_minted(best[0], instances):
        return best
    if whole := looked_up_by(best, instances):
        return (*best, *whole)
    if len(best) != 1:
        return best
    if sum((i.conversation, value_at(i, best[0])) in created for i in instances) >= 0.5 * len(instances):
        return best
    return (*best, *(second_part(best[0], names, instances)[:1] or other_parts(best[0], names, instances)))


def _candidates(instances: Sequence[Instance], nested: bool) -> list[str]:
    counts: Counter[str] = Counter()
    minted: Counter[str] = Counter()
    values: dict[str, set[str]] = defaultdict(set)
    for instance in instances:
        for name, value in _sources(instance, nested):
            text = key_of(value)
            if text is not None and not isinstance(value, float) and len(text) <= 80:
                counts[name] += 1
                minted[name] += text in instance.minted
                values[name].add(text)
    most = len(instances)
    often = {n for n, c in counts.items() if c >= 0.95 * most or c >= 0.5 * most and minted[n] >= MINTED * c}
    return [n for n in counts if n in often and (len(values[n]) > 1 or most == 1)]


def _sources(instance: Instance, nested: bool) -> Iterable[tuple[str, Any]]:
    for name, value in instance.placed.fields.items():
        if is_scalar(value):
            yield f"field/{name}", value
    if instance.placed.map_key is not None:
        yield "@", instance.placed.map_key
    if not nested:
        for name, value in instance.arguments.items():
            yield f"arg/{name}", value


def _score(option: tuple[str, ...], instances: Sequence[Instance]) -> float:
    """How well a key explains the other fields: agreement where it is equal, difference where it is not."""
    own = {s.partition("/")[2] for s in option if s.startswith("field/")}
    if option and not any(len(i.frozen) > len(own) for i in instances[:50]):
        return -1.0
    last: dict[Any, tuple[int, dict[str, Any]]] = {}
    everywhere: dict[Any, dict[str, Any]] = {}
    values: set[tuple[str, ...]] = set()
    differ = abroad = 0.0
    pairs = meetings = clash = recurring = echoed = minted = used = 0
    for instance in instances:
        key = tuple(v for s in option if (v := value_at(instance, s)) is not None)
        if len(key) != len(option):
            continue
        used += 1
        values.add(key)
        recurring += all(v in instance.recurring for v in key)
        echoed += all(v in instance.echoed for v in key)
        minted += bool(key) and all(v in instance.minted for v in key)
        mark = (instance.conversation, key)
        if mark in last:
            at, before = last[mark]
            share = difference(before, instance.frozen, own)
            clash += at == instance.at and share > 0
            differ, pairs = differ + share, pairs + 1
        elif key in everywhere:
            abroad, meetings = abroad + difference(everywhere[key], instance.frozen, own), meetings + 1
        last[mark] = (instance.at, instance.frozen)
        everywhere[key] = instance.frozen
    if not used or clash > 0.02 * used:
        return -1.0
    sure, elsewhere = min(1.0, pairs / 10), min(1.0, meetings / 10)
    score = (0.4 - 2.5 * differ / pairs) * sure if pairs else 0.0
    if not option:
        return score + 0.6
    score += (0.3 - 0.6 * abroad / meetings) * elsewhere if meetings else 0.0
    score += (0.8 * echoed + minted) / used + 0.6 * recurring / used + 0.5 * min(1.0, 2 * len(values) / used)
    if minted < MINTED * used:
        score -= 0.5 * any(_is_quantity(s, instances) for s in option)
        score -= 0.3 * any(_is_count(s, instances) for s in option)
    return score + 0.1 * sum(s == "@" for s in option)


def _is_asked_for(source: str, instances: Sequence[Instance]) -> bool:
    """Whether calls of the conversation name the values of a field often: only then can it be an id."""
    some = instances[:200]
    return sum(value_at(i, source) in i.asked for i in some) >= 0.15 * len(some)


def _is_minted(source: str, instances: Sequence[Instance]) -> bool:
    """Whether a field is the id of what the call creates: often new when it is shown, and named by later calls."""
    minted = sum(value_at(i, source) in i.minted for i in instances)
    return source.startswith("field/") and minted >= MINTED * len(instances)


def _is_count(source: str, instances: Sequence[Instance]) -> bool:
    """Whether a source is a number beside a text that the call names as well: the text is the likelier id."""
    kind, _, name = source.partition("/")
    if kind not in ("field", "arg"):
        return False
    some = instances[:60]
    values = [(i.placed.fields if kind == "field" else i.arguments).get(name) for i in some]
    texts = sum(any(isinstance(v, str) and v in i.echoed for v in i.arguments.values()) for i in some)
    return sum(isinstance(v, int | float) for v in values) > 0.5 * len(some) and texts > 0.9 * len(some)


def _is_quantity(source: str, instances: Sequence[Instance]) -> bool:
    """Whether a source is a number that the calls do not name: an amount rather than an id."""
    kind, _, name = source.partition("/")
    if kind not in ("field", "arg"):
        return False
    some = [i for i in instances[:100] if name in (i.frozen if kind == "field" else i.arguments)]
    values = [(i.placed.fields if kind == "field" else i.arguments)[name] for i in some]
    told = sum(str(v) in i.echoed for i, v in zip(some, values, strict=True))
    return sum(isinstance(v, int | float) for v in values) > 0.5 * len(values) and told < 0.5 * len(values)


# ----- types


def learn_schema(
    conversations: Conversations, states: States | None = None, writes: Set[str] = frozenset()
) -> Schema:
    """Sites, keys and types. Links of calls are added by `worldmodel.learn.schema.links`. `states` are those of the
    session where it is known what writes change in them, else what answers said last. `writes` are tools that may
    write."""
    places = Places(conversations)
    found = gather(conversations, places, states, writes)
    state = _session_fields(found)
    session = {site for site, instances in found.items() if _is_session(site, instances, state)}
    found = {s: instances for s, instances in found.items() if s in session or _says_something(instances)}
    names = {name for steps in conversations.values() for step in steps for name in scalars(step.arguments)}
    sure = {site: (f"field/{name}",) for site, instances in found.items() if site not in session
            and (name := identifying(instances, names, site[0] in writes))}  # fmt: skip
    created: set[tuple[str, str]] = set()
    for site, instances in found.items():
        for source in sure.get(site) or choose_key(*site, instances) or ():
            if _is_minted(source, instances):
                created.update((i.conversation, text) for i in instances if (text := value_at(i, source)))
    keys = {site: sure.get(site) or choose_key(*site, instances, created) for site, instances in found.items()}
    keys = {**_adopted({site: _as_fields(key, found[site]) for site, key in keys.items()}, found), **sure}
    keys.update(dict.fromkeys(session, ()))
    keys = {site: None if key is None else (*key, *hidden_part(site, key, found[site])) for site, key in keys.items()}
    keys = named_there(keys, found)
    types = _types({s: k for s, k in keys.items() if k is not None}, found, sure)
    same: dict[tuple[tuple[str, str], str], str] = {}
    for type_ in sorted(set(types.values())):
        of = {s: keys[s] or () for s, t in types.items() if t == type_ and (s[1] == "" or t != EPISODE)}
        same.update({**(synonyms(of, found) if type_ != EPISODE else {}), **aliases(of, found, writes)})
    sites = []
    for (tool, path), key in keys.items():
        if key is None:
            continue
        fields = sorted({n for i in found[(tool, path)] for n in i.placed.fields})
        parts = tuple(KeyPart(source) for source in key)
        alias = {n: same[((tool, path), n)] for n in fields if ((tool, path), n) in same}
        sites.append(Site(tool, path, types[(tool, path)], parts, tuple(fields), alias))
    maps = {tool: tuple(sorted(paths)) for tool, paths in places.maps.items() if paths}
    return Schema(sites=tuple(sites), maps=maps)


def _session_fields(found: Mapping[tuple[str, str], list[Instance]]) -> set[str]:
    """The fields that tools without arguments show of the session."""
    names: set[str] = set()
    for (_, path), instances in found.items():
        if "[]" not in path and "{}" not in path and all(i.bare for i in instances):
            names.update(n for i in instances for n in i.frozen if n)
    return names


def _is_session(site: tuple[str, str], instances: Sequence[Instance], state: set[str]) -> bool:
    """Whether an answer shows fields of the session and repeats nothing that its call names as an id."""
    names = {n for i in instances for n in i.frozen}
    if "[]" in site[1] or "{}" in site[1] or len(names & state) < max(1, 0.5 * len(names)):
        return False
    texts = sum(any(isinstance(i.placed.fields.get(n), str) and v in i.echoed for n, v in
                    ((n, key_of(i.placed.fields.get(n))) for n in i.frozen)) for i in instances)  # fmt: skip
    return texts < 0.5 * len(instances) or names <= state


def _says_something(instances: Sequence[Instance]) -> bool:
    """Whether the fields of a site vary at all; `{"ok": true}` is no record."""
    names = {n for i in instances for n in i.frozen}
    return any(len({i.frozen.get(n) for i in instances}) > 1 for n in names) or len(instances) < 5 and len(names) > 1


def _as_fields(key: tuple[str, ...] | None, instances: Sequence[Instance]) -> tuple[str, ...] | None:
    """The key with arguments replaced by the fields that repeat them."""
    if not key:
        return key
    out = []
    for source in key:
        if source.startswith("arg/"):
            name = source[4:]
            shown = [i for i in instances if name in i.arguments]
            same = [n for n in {n for i in shown[:50] for n in i.frozen} if all(
                i.placed.fields.get(n) is not None and key_of(i.arguments[name]) == key_of(i.placed.fields.get(n))
                for i in shown)] if shown else []  # fmt: skip
            source = f"field/{min(same, key=lambda n: (n != name, len(n), n))}" if same else source
        out.append(source)
    return tuple(out)


def _adopted(
    keys: dict[tuple[str, str], tuple[str, ...] | None], found: Mapping[tuple[str, str], list[Instance]]
) -> dict[tuple[str, str], tuple[str, ...] | None]:
    """Keys, where a site that shows the fields of another has that one's key fields: what a tool creates is not keyed
    by what the call names, but by the id that the answer shows."""
    fields = {site: {n for i in instances[:300] for n in i.frozen} for site, instances in found.items()}
    sure = {
        site: tuple(s[6:] for s in key)
        for site, key in keys.items()
        if key and all(s.startswith("field/") for s in key) and _echoes(key, found[site])
    }
    listed = {
        site: tuple(s[6:] for s in key)
        for site, key in keys.items()
        if key and site not in sure and site[1].endswith("[]") and all(s.startswith("field/") for s in key)
    }
    out = dict(keys)
    for site, names in fields.items():
        own = set(sure.get(site, ()))
        best: tuple[float, tuple[str, ...]] | None = None
        for other, key in {**sure, **(listed if own else {})}.items():
            common = names & fields[other]
            share = len(common) / min(len(names), len(fields[other]))
            part = bool(own) and own < set(key) <= names and _echoes(tuple(f"field/{n}" for n in key), found[site])
            plain = not own or part or (own <= fields[other] - set(key) and share >= 0.9)
            plain = plain and (not own or part or _finer(key, sure[site], [*found[site], *found[other]])
                               or not own & set(key) and _mints(key, site, found, fields))  # fmt: skip
            if len(common) >= 2 and share >= 0.6 and plain and set(key) <= names and (best is None or share > best[0]):
                if site in listed and _mints(listed[site], other, found, fields):
                    continue  # the other one adopts the key of this list
                if other not in listed or _mints(key, site, found, fields):
                    best = (share, key)
        if best is not None:
            out[site] = tuple(f"field/{n}" for n in best[1])
    return out


def _finer(key: tuple[str, ...], than: tuple[str, ...], instances: Sequence[Instance]) -> bool:
    """Whether records that are equal in one set of fields differ in another more often than the other way round."""
    groups: tuple[dict[Any, set[Any]], dict[Any, set[Any]]] = (defaultdict(set), defaultdict(set))
    for instance in instances:
        fine = tuple(instance.frozen.get(n) for n in key)
        coarse = tuple(instance.frozen.get(n) for n in than)
        groups[0][(instance.conversation, coarse)].add(fine)
        groups[1][(instance.conversation, fine)].add(coarse)
    many = [sum(len(values) > 1 for values in group.values()) for group in groups]
    return many[0] > many[1]


def _mints(
    key: tuple[str, ...], site: tuple[str, str], found: Mapping[tuple[str, str], Sequence[Instance]],
    fields: Mapping[tuple[str, str], set[str]],
) -> bool:  # fmt: skip
    """Whether what a tool shows under a key is new each time, as what it has just created is."""
    if not set(key) <= fields[site]:
        return False
    first: dict[Any, int] = {}
    for instance in (i for other, some in found.items() if set(key) <= fields[other] for i in some):
        mark = (instance.conversation, *(instance.frozen.get(n) for n in key))
        first[mark] = min(instance.at, first.get(mark, instance.at))
    instances = found[site]
    new = sum(first[(i.conversation, *(i.frozen.get(n) for n in key))] == i.at for i in instances)
    return len(instances) >= 5 and new >= 0.95 * len(instances)


def _echoes(key: tuple[str, ...], instances: Sequence[Instance]) -> bool:
    told = sum(all(value_at(i, s) in i.echoed for s in key) for i in instances)
    return told >= 0.95 * len(instances)


def _types(
    keys: Mapping[tuple[str, str], tuple[str, ...]], found: Mapping[tuple[str, str], list[Instance]],
    sure: Container[tuple[str, str]],
) -> dict[tuple[str, str], str]:  # fmt: skip
    """A name for the type of each site: sites of one type share a parent in the union. `sure` sites have an
    identifier."""
    parent = {site: site for site in keys}

    def root(site: tuple[str, str]) -> tuple[str, str]:
        while parent[site] != site:
            site = parent[site]
        return site

    single = [site for site, key in keys.items() if not key]
    for site in single[1:]:
        parent[root(site)] = root(single[0])
    keyed = [site for site, key in keys.items() if key]
    seen = {site: _seen_keys(keys[site], found[site]) for site in keyed}
    fields = {site: {n for i in found[site][:300] for n in i.placed.fields} for site in keyed}
    for left, right in combinations(keyed, 2):
        if len(keys[left]) == len(keys[right]) and root(left) != root(right):
            both = left in sure and right in sure
            if _alike(seen[left], seen[right], fields[left], fields[right], keys[left], keys[right], both):
                parent[root(right)] = root(left)
    names: dict[tuple[str, str], str] = {}
    for site in keys:
        top = root(site)
        names[site] = EPISODE if not keys[top] else f"{top[0]}{'.' if top[1] else ''}{top[1]}"
    return names


def _seen_keys(key: tuple[str, ...], instances: Sequence[Instance]) -> dict[str, set[tuple[str | None, ...]]]:
    out: dict[str, set[tuple[str | None, ...]]] = defaultdict(set)
    for instance in instances:
        out[instance.conversation].add(tuple(value_at(instance, s) for s in key))
    return out


def _apart(left: Mapping[str, set[Any]], right: Mapping[str, set[Any]]) -> bool:
    """Whether two sites show the same few records in all conversations, and none of them is of both."""
    counts = [Counter(key for keys in side.values() for key in keys) for side in (left, right)]
    recur = all(len(found) >= 2 and found.total() >= RECURS * len(found) for found in counts)
    return recur and not counts[0].keys() & counts[1].keys()


def _alike(
    left: Mapping[str, set[Any]], right: Mapping[str, set[Any]], left_fields: set[str], right_fields: set[str],
    left_key: tuple[str, ...], right_key: tuple[str, ...], sure: bool,
) -> bool:  # fmt: skip
    """Whether two sites show the same records: their keys meet in conversations, by chance or not (`sure`: not)."""
    both = [cid for cid in left if cid in right]
    meets = sum(1 for cid in both if left[cid] & right[cid])
    distinct = len({k for keys in left.values() for k in keys})
    own = {s.partition("/")[2] for s in (*left_key, *right_key) if s.startswith("field/")}
    common = (left_fields & right_fields) - own - {""}
    smaller = min(len(left_fields - own - {""}), len(right_fields - own - {""}))
    overlap = len(common) / smaller if smaller else 0.0
    if not meets and (len(both) >= FEWEST_MET or _apart(left, right)):
        return False
    if sure and meets >= 3 and meets >= 0.3 * len(both):
        return True
    if meets >= 3 and meets >= 0.3 * len(both) and common and (distinct >= 25 or overlap >= 0.5):
        return True
    names = {s.rpartition("/")[2] for s in left_key} == {s.rpartition("/")[2] for s in right_key}
    if names and meets >= 3 and meets >= 0.5 * len(both) and common:
        return True
    return names and overlap >= 0.6 and len(common) >= 2
