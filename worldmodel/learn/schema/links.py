"""How calls name records: which arguments hold the keys of which record type, and which fields hold those of others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from worldmodel.derive.layout import Layout, plain_fields
from worldmodel.derive.schema import EPISODE, FOLLOWED, KeyPart, Link, Schema
from worldmodel.derive.situation import flat_arguments
from worldmodel.derive.store import Store
from worldmodel.derive.values import is_scalar, key_of, parse
from worldmodel.steps import OK, Step

FEWEST = 3
RATE = 0.3
RATE_OF_NAMED = 0.05
"""Where an argument has the name of the key, fewer of the named records need to have been shown before."""
FEWEST_CHOSEN, SURELY_CHOSEN = 8, 0.95
"""How often, and in which share of its answers at least, a tool must show the record that was chosen before."""
LONGEST_AFFIX = 6


class _Counts:
    def __init__(self) -> None:
        self.hits: Counter[Any] = Counter()
        self.tries: Counter[Any] = Counter()
        self.created: Counter[tuple[str, str, str]] = Counter()
        """(tool, field of its answer, type): how often the field was the first to name a record that is shown later."""
        self.found: Counter[tuple[str, str, str]] = Counter()
        """The same: how often it named a record that was shown before or is shown later, and the call did not."""
        self.answered: Counter[tuple[str, str]] = Counter()
        self.minted: set[str] = set()
        """Types whose key is one id that every call must name."""
        self.chosen: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
        """(tool, field of its answer, type): the records that the field named as earlier answers did last."""
        self.shown: Counter[tuple[str, str]] = Counter()
        """(tool, field of its answer): how often it said something, also something else than earlier answers."""
        self.named: set[tuple[str, int, str]] = set()
        """(type, part of its key, name) of the fields and arguments that keys have where records are shown."""


def learn_links(conversations: Mapping[str, Sequence[Step]], schema: Schema) -> Schema:
    """The schema with the links of every tool."""
    layout = Layout(schema)
    sizes = {site.type: len(site.keys) for site in schema.sites}
    named = {(s.type, at, k.source.partition("/")[2]) for s in schema.sites for at, k in enumerate(s.keys)}
    direct, through, items = _Counts(), _Counts(), _Counts()
    direct.minted = {s.type for s in schema.sites if len(s.keys) == 1
                     and s.keys[0].source.startswith(("field/", "arg/"))}  # fmt: skip
    tools: Counter[str] = Counter()
    for steps in conversations.values():
        store = Store(layout)
        later = _shown_keys(Store(layout), steps)
        known: dict[str, list[set[str]]] = {t: [set() for _ in range(n)] for t, n in sizes.items()}
        now: dict[str, Any] = {}
        for step in steps:
            tools[step.tool] += 1
            if step.outcome != OK:
                continue
            body = parse(step.content)
            _count_created(step, body, known, later, direct)
            _count_chosen(step, body, known, now, direct)
            for type_, key, _, _ in store.absorb(step.tool, step.arguments, body, "seen"):
                for at, part in enumerate(key):
                    known[type_][at].add(part)
            _count_arguments(step, known, direct)
            _count_named(step, later, named, direct)
            _count_items(step, known, items)
        _count_fields(store, known, through)
    direct.named = named
    steps_, chosen = _steps(conversations, schema), _chosen(direct)
    links = {tool: (*_links(tool, schema, sizes, direct, through, steps_, chosen), *_item_links(tool, sizes, items),
                    *_answered(tool, direct))
             for tool in tools}  # fmt: skip
    return msgspec.structs.replace(schema, links=links)


def _steps(conversations: Mapping[str, Sequence[Step]], schema: Schema) -> dict[str, list[tuple[str, str]]]:
    """By tool: the arguments that name steps of a path (field of the session, argument), for what a call does where
    such a step leads."""
    fields = {k.source[4:] for s in schema.sites for k in s.keys if k.source.startswith(f"now/{FOLLOWED}")}
    tries: Counter[tuple[str, str, str]] = Counter()
    hits: Counter[tuple[str, str, str]] = Counter()
    for field in sorted(fields):
        mover, _, argument = field[1:].partition(":")
        for steps in conversations.values():
            taken = {text for s in steps if s.tool == mover and s.outcome == OK
                     and isinstance(text := s.arguments.get(argument), str) and text != ".."}  # fmt: skip
            for step in steps if taken else ():
                for name, value in step.arguments.items() if step.outcome == OK else ():
                    tries[(step.tool, field, name)] += 1
                    hits[(step.tool, field, name)] += isinstance(value, str) and value in taken
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for (tool, field, name), n in sorted(hits.items()):
        if n >= FEWEST and n >= RATE_OF_NAMED * tries[(tool, field, name)]:
            found[tool].append((field, name))
    return found


def _count_arguments(step: Step, known: Mapping[str, list[set[str]]], counts: _Counts) -> None:
    for name, value in flat_arguments(step.arguments):
        text = key_of(value) if is_scalar(value) else None
        if text is None:
            continue
        for type_, parts in known.items():
            for at, keys in enumerate(parts):
                if not keys:
                    continue
                mark = (step.tool, type_, at, name)
                counts.tries[mark] += 1
                if text in keys:
                    counts.hits[(*mark, "", "")] += 1
                    continue
                for other in keys if len(keys) <= 40 else ():
                    if text.endswith(other) and 0 < len(text) - len(other) <= LONGEST_AFFIX and len(other) >= 3:
                        counts.hits[(*mark, "", text[: -len(other)])] += 1
                    elif other.endswith(text) and 0 < len(other) - len(text) <= LONGEST_AFFIX and len(text) >= 3:
                        counts.hits[(*mark, other[: -len(text)], "")] += 1


def _shown_keys(store: Store, steps: Sequence[Step]) -> set[tuple[str, int, str]]:
    """(type, part of the key, text) of all records that a conversation shows."""
    found: set[tuple[str, int, str]] = set()
    for step in steps:
        if step.outcome == OK:
            for type_, key, _, _ in store.absorb(step.tool, step.arguments, parse(step.content), "seen"):
                found.update((type_, at, text) for at, text in enumerate(key))
    return found


def _count_named(
    step: Step, later: set[tuple[str, int, str]], named: set[tuple[str, int, str]], counts: _Counts
) -> None:
    """Arguments with the name of a key whose record is shown at some time: what a call creates is named before."""
    for name, value in step.arguments.items():
        text = key_of(value) if is_scalar(value) else None
        for type_, at, of in named if text else ():
            if of == name and (type_, at, text) in later:
                counts.hits[(step.tool, type_, at, name, "", "")] += 1
                counts.tries[(step.tool, type_, at, name)] += 1


def _count_created(
    step: Step, body: Any, known: Mapping[str, list[set[str]]], later: set[tuple[str, int, str]], counts: _Counts
) -> None:
    """Fields of an answer that name a record which nothing named before."""
    told = {key_of(v) for v in step.arguments.values() if is_scalar(v)}
    for name, value in plain_fields(body):
        text = key_of(value) if isinstance(value, str | int) else None
        if text is None or len(text) < 2 or text in told:
            continue
        counts.answered[(step.tool, name)] += 1
        for type_, parts in known.items():
            if type_ in counts.minted and (type_, 0, text) in later:
                counts.created[(step.tool, name, type_)] += 1 if text not in parts[0] else -1
                counts.found[(step.tool, name, type_)] += text in parts[0]


def _count_chosen(
    step: Step, body: Any, known: Mapping[str, list[set[str]]], now: dict[str, Any], counts: _Counts
) -> None:
    """Fields that name a record which the call does not name, since it was chosen before: the account that is open."""
    told = {key_of(v) for v in step.arguments.values() if is_scalar(v)}
    for name, value in plain_fields(body):
        text = key_of(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
        if text is not None and text not in told and name in now:
            counts.shown[(step.tool, name)] += 1
            for type_ in counts.minted if now[name] == value else ():
                if text in known[type_][0]:
                    counts.chosen[(step.tool, name, type_)][text] += 1
        now[name] = value


def _chosen(counts: _Counts) -> dict[str, str]:
    """By type, the session field that names the record that was chosen."""
    best: dict[str, tuple[int, str]] = {}
    for (tool, name, type_), records in sorted(counts.chosen.items()):
        n = records.total()
        if n >= max(FEWEST_CHOSEN, SURELY_CHOSEN * counts.shown[(tool, name)]) and len(records) >= FEWEST:
            best[type_] = max(best.get(type_, (0, "")), (n, name))
    return {type_: name for type_, (_, name) in best.items()}


def _answered(tool: str, counts: _Counts) -> Iterable[Link]:
    """The records that answers of a tool name: those that were created, nearly always for the first time, and others
    that the call does not name."""
    for (of, name, type_), n in sorted(counts.created.items()):
        often = max(FEWEST, RATE * counts.answered[(tool, name)])
        if of == tool and n >= often:
            yield Link(f"{type_}(new {name})", type_, (KeyPart(f"ans/{name}"),))
        elif of == tool and counts.found[(tool, name, type_)] >= often:
            yield Link(f"{type_}(its {name})", type_, (KeyPart(f"ans/{name}"),), old=True)


def _count_items(step: Step, known: Mapping[str, list[set[str]]], counts: _Counts) -> None:
    for name, value in step.arguments.items():
        if not isinstance(value, list) or not value or len(value) > 50:
            continue
        for item in value:
            for field, inner in item.items() if isinstance(item, dict) else ():
                text = key_of(inner) if isinstance(inner, str) else None
                for type_, parts in known.items() if text else ():
                    for at, keys in enumerate(parts):
                        if keys:
                            counts.tries[(step.tool, name, type_, at, field)] += 1
                            counts.hits[(step.tool, name, type_, at, field)] += text in keys


def _item_links(tool: str, sizes: Mapping[str, int], counts: _Counts) -> list[Link]:
    """The records that the items of list arguments name."""
    best: dict[tuple[str, str, int], tuple[int, str]] = {}
    for (of, name, type_, at, field), hits in counts.hits.items():
        if of == tool and hits >= FEWEST and hits >= RATE * counts.tries[(of, name, type_, at, field)]:
            best[(name, type_, at)] = max(best.get((name, type_, at), (0, "")), (hits, field))
    found = []
    for name, type_ in sorted({(name, type_) for name, type_, _ in best}):
        parts = [best.get((name, type_, at)) for at in range(sizes[type_])]
        fields = [part[1] for part in parts if part is not None]
        if len(fields) == len(parts) and len(set(fields)) == len(fields):
            keys = tuple(KeyPart(f"item/{field}") for field in fields)
            found.append(Link(f"{type_}*{name}", type_, keys, f"arg/{name}"))
    return found


def _count_fields(store: Store, known: Mapping[str, list[set[str]]], counts: _Counts) -> None:
    single = {(t, at): keys for t, parts in known.items() for at, keys in enumerate(parts) if keys}
    for (type_, key), cells in store.records.items():
        for field, cell in cells.items():
            if not isinstance(cell.value, str | int) or isinstance(cell.value, bool):
                continue
            text = key_of(cell.value)
            for (other, at), keys in single.items():
                if text not in key and (other != type_ or len(known[other]) == 1):
                    counts.tries[(type_, field, other, at)] += 1
                    counts.hits[(type_, field, other, at)] += text in keys


def _links(
    tool: str, schema: Schema, sizes: Mapping[str, int], direct: _Counts, through: _Counts,
    steps: Mapping[str, Sequence[tuple[str, str]]], chosen: Mapping[str, str],
) -> tuple[Link, ...]:  # fmt: skip
    found: dict[str, Link] = {EPISODE: Link(EPISODE, EPISODE, ())}
    hidden = {(s.type, at): [k] for s in schema.sites for at, k in enumerate(s.keys)
              if k.source.startswith(("now/", "page/"))}  # fmt: skip
    for site in schema.sites:
        if site.tool == tool and site.keys and all(k.source.startswith(("arg/", "now/", "page/")) for k in site.keys):
            names = ",".join(k.source[4:] for k in site.keys)
            link = Link(f"{site.type}({names})", site.type, site.keys)
            found.setdefault(link.name, link)
    for type_, size in sizes.items():
        parts = [hidden.get((type_, at)) or _sources(tool, type_, at, direct) for at in range(size)]
        if not parts or not all(parts) or all(options[0].source.startswith("page/") for options in parts):
            continue
        if size == 1:
            options: Iterable[tuple[KeyPart, ...]] = [(part,) for part in parts[0][:2]]
        else:
            options = [tuple(options[0] for options in parts)]
        for keys in options:
            if len({k.source for k in keys}) < len(keys):
                continue
            name = f"{type_}({','.join(k.source[4:] for k in keys)})"
            found.setdefault(name, Link(name, type_, keys))
    for type_, name in chosen.items():
        if all(link.type != type_ for link in found.values()):
            link = Link(f"{type_}({name})", type_, (KeyPart(f"now/{name}"),), chosen=True)
            found[link.name] = link
    for link in list(found.values()):
        for field, argument in steps.get(tool, ()):
            if any(k.source == f"now/{field}" for k in link.keys):
                inner = KeyPart(f"into(now/{field}|arg/{argument})")
                keys = tuple(inner if k.source == f"now/{field}" else k for k in link.keys)
                name = f"{link.name}/{argument}"
                found.setdefault(name, Link(name, link.type, keys))
    for link in list(found.values()):
        fields: dict[tuple[str, int], list[tuple[int, str]]] = defaultdict(list)
        for (type_, field, other, at), hits in through.hits.items():
            if type_ == link.type and hits >= FEWEST and hits >= RATE * through.tries[(type_, field, other, at)]:
                fields[(other, at)].append((hits, field))
        for (other, at), held in fields.items():
            if sizes[other] == 1:
                for _, field in held:
                    name = f"{link.name}>{field}>{other}"
                    found.setdefault(name, Link(name, other, (KeyPart(f"rec/{link.name}/{field}"),)))
            elif at == 0:
                best = [max(fields.get((other, part), [(0, "")]))[1] for part in range(sizes[other])]
                if all(best) and len(set(best)) == len(best):
                    name = f"{link.name}>{','.join(best)}>{other}"
                    found.setdefault(name, Link(name, other, tuple(KeyPart(f"rec/{link.name}/{f}") for f in best)))
    return tuple(found.values())


def _sources(tool: str, type_: str, at: int, counts: _Counts) -> list[KeyPart]:
    """The arguments that hold this part of the key, the one that does most often first."""
    options = []
    for (of, kind, part, name, add, strip), hits in counts.hits.items():
        if (of, kind, part) == (tool, type_, at):
            rate = RATE_OF_NAMED if (type_, at, name) in counts.named and not add and not strip else RATE
            if hits >= FEWEST and hits >= rate * counts.tries[(of, kind, part, name)]:
                options.append((hits, KeyPart(f"arg/{name}", add, strip)))
    best: dict[str, tuple[int, KeyPart]] = defaultdict(lambda: (0, KeyPart("")))
    for hits, option in options:
        if hits > best[option.source][0]:
            best[option.source] = (hits, option)
    return [part for _, part in sorted(best.values(), key=lambda pair: -pair[0])]
