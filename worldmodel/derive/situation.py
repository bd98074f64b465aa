"""What the rules may look at when a call is made: its arguments, the records that it names, and this episode.

`Situation.row` gives each of these a name: `arg/a`, `rec/<link>/<field>`, `known/<link>`, `did/<tool>`, ... A rule
names what it uses, so rules are data. The recording's own future is in none of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worldmodel.derive.schema import AT_START, CLOCK, FOLLOWED, Expected, Link, Schema, given, kind_of
from worldmodel.derive.store import Key, Store
from worldmodel.derive.trees import value_of
from worldmodel.derive.values import (
    ABSENT,
    UNKNOWN,
    amount_in,
    flatten,
    freeze,
    is_date,
    is_number,
    is_scalar,
    key_of,
    loose_shape,
    parse,
    prefix,
    shape,
    shown,
    tokens,
)
from worldmodel.steps import OK, call_key, is_identifier

Row = dict[str, Any]
FACT = "fact/"
"""How the sources start that say that a record is one of the facts which all conversations share."""
LONG_TEXT = 4000
MOST_NOW = 24
MOST_OF_TYPE = 60
NUMBERS = ("integer", "number")


class History:
    """What one episode did so far; nothing of what only the recording did."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.tools: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.done_on: Counter[tuple[str, str]] = Counter()
        self.refused_on: Counter[tuple[str, str, str]] = Counter()
        """How often a tool refused, and how, what a value was named in, since it last did not."""
        self.same: dict[str, str] = {}
        self.streak: Counter[str] = Counter()
        self.since: dict[tuple[str, str], int] = {}
        self.last: dict[str, str] = {}
        self.told: dict[str, Mapping[str, Any]] = {}
        self.answers: dict[str, Mapping[str, Any]] = {}
        self.first: dict[tuple[str, str, str], Mapping[str, Any]] = {}
        """What a tool answered to the first success with a value of an argument."""
        self.at: dict[str, int] = {}
        """When each tool last succeeded: what was done and not undone."""
        self.words: set[str] = set()
        self.previous = ""
        self.written = 0
        self.same_since_write: Counter[str] = Counter()

    def fork(self) -> History:
        copy = History.__new__(History)
        for name, value in self.__dict__.items():
            copy.__dict__[name] = value.copy() if isinstance(value, dict | set | Counter) else value
        return copy

    def add(self, tool: str, arguments: Mapping[str, Any], content: str, outcome: str, is_write: bool) -> None:
        key = call_key(tool, arguments)
        self.calls[key] += 1
        self.tools[tool] += 1
        self.same[key] = outcome
        self.last[tool] = outcome
        self.same_since_write[key] += 1
        self.previous = f"{tool}:{outcome}"
        if outcome == OK:
            self.done[tool] += 1
            self.told[tool] = {k: v for k, v in arguments.items() if is_scalar(v)}
            body = parse(content) if len(content) < LONG_TEXT else None
            flat = dict(flatten(body)) if isinstance(body, dict) else {}
            self.answers[tool] = {k: v for k, v in list(flat.items())[:12] if is_scalar(v)}
            for name, value in self.told[tool].items():
                if isinstance(value, str):
                    self.first.setdefault((tool, name, value), flat)
            self.at[tool] = sum(self.tools.values())
            named = _named(arguments)
            for text in named:
                self.done_on[(tool, text)] += 1
            for mark in [m for m in self.refused_on if m[0] == tool and m[2] in named]:
                del self.refused_on[mark]
            for other in self.tools:
                self.since[(other, tool)] = self.tools[other]
            if is_write:
                self.written += 1
                self.same_since_write.clear()
        else:
            for text in _named(arguments):
                self.refused_on[(tool, outcome, text)] += 1
        for value in arguments.values():
            if isinstance(value, str) and len(value) < LONG_TEXT:
                self.words.update(tokens(value))
        self.words.update(tokens(content[:LONG_TEXT]))

    def mention(self, text: str) -> None:
        """Words that the user or the prompt said."""
        self.words.update(tokens(text[:LONG_TEXT]))


def _named(arguments: Mapping[str, Any]) -> set[str]:
    return {text for v in arguments.values() if is_scalar(v) and (text := key_of(v)) and len(text) > 1}


class Situation:
    """One call, before it is answered."""

    def __init__(self, schema: Schema, store: Store, history: History, tool: str, arguments: Mapping[str, Any]) -> None:
        self.store, self.history, self.tool, self.arguments = store, history, tool, arguments
        self.links: tuple[Link, ...] = schema.links.get(tool, ())
        self.repeats = schema.repeats.get(tool, ())
        self.expected = schema.expected.get(tool, ())
        self.views = schema.views.get(tool, ())
        self.keys: dict[str, Key] = {}
        self.listed = store.seen_by(tool)
        self.row = self._row()

    def _row(self) -> Row:
        now = self.store.now
        row: Row = {f"now/{name}": now[name] for name in list(now)[-MOST_NOW:]}
        kept = (name for name in now if name == CLOCK or name.startswith(FOLLOWED))
        row.update((f"now/{name}", now[name]) for name in kept)
        for name, value in flat_arguments(self.arguments):
            row[f"arg/{name}"] = value
            self._describe(row, f"arg/{name}", value)
        row.update(oddities(self.arguments, self.expected))
        for link in self.links:
            if not link.over:
                self._follow(row, link)
        self._join(row)
        for type_ in self.store.layout.listed:
            row[f"all/{type_}"] = self.store.all_of(type_, MOST_OF_TYPE)
        for view in self.views:
            found = self.listed.viewed(self.tool, view, self.arguments)
            among = found or (self.listed.selected(self.tool, view, self.arguments) if view.closed else None)
            for name, held in ((f"view/{view.path}", found), (f"among/{view.path}", among if view.closed else None)):
                if held is not None:
                    row[name], row[f"len({name})"], row[f"matches({name})"] = held[0], len(held[0]), held[1]
                    row.update(sums(name, held[0]))
        self._remember(row)
        return row

    def _describe(self, row: Row, name: str, value: Any) -> None:
        if isinstance(value, list):
            row[f"len({name})"] = len(value)
            row.update(sums(name, value))
            self._extremes(row, name, value)
        elif isinstance(value, str):
            row[f"shape({name})"] = shape(value)
            row[f"form({name})"] = loose_shape(value)
            row[f"prefix({name})"] = prefix(value)
            row[f"len({name})"] = len(value)
            row[f"said({name})"] = value in self.history.words
        row[f"type({name})"] = type(value).__name__

    @staticmethod
    def _extremes(row: Row, name: str, value: list[Any]) -> None:
        for field, inner in _common(value).items():
            row[f"each({name}.{field})"] = inner
        if len(value) < 2:
            return
        for field in value[0] if isinstance(value[0], dict) else ():
            column: list[Any] = [v.get(field) for v in value if isinstance(v, dict)]
            if len(column) == len(value) and (all(map(is_number, column)) or all(map(is_date, column))):
                row[f"min({name}.{field})"], row[f"max({name}.{field})"] = min(column), max(column)

    def _join(self, row: Row) -> None:
        """Lists whose items name records, with the fields of these beside their own."""
        joined: dict[str, list[dict[str, Any]]] = {}
        words = {n[4:]: v for n, v in row.items() if n.startswith("arg/") and isinstance(v, str) and len(v) <= 40}
        for link in self.links:
            items = row.get(link.over) if link.over else None
            if not isinstance(items, list) or not items or not all(isinstance(v, dict) for v in items):
                continue
            out = joined.setdefault(link.over, [dict(item) for item in items])
            known = 0
            for item, into in zip(items, out, strict=True):
                parts = [part.read(item.get(part.source[5:])) for part in link.keys]
                key = tuple(p for p in parts if p is not None)
                if len(key) < len(parts) or not self.store.known(link.type, key):
                    into[f"{link.type}?"] = False
                    continue
                known += 1
                into[f"{link.type}?"] = True
                fields = self.store.fields(link.type, key)
                into.update((f"{link.type}.{n}", v) for n, v in fields.items() if is_scalar(v))
                for name, word in words.items():
                    for field, value in fields.items():
                        if field.rpartition(".")[2] == word and is_scalar(value):
                            into[f"{link.type}.{field.rpartition('.')[0]}[{name}]"] = value
            row[f"all({link.name})"] = known == len(items)
        self._match(row, joined)
        for over, out in joined.items():
            name = f"items({over})"
            row[name] = out
            row.update(sums(name, out))
            self._extremes(row, name, out)

    @staticmethod
    def _match(row: Row, joined: dict[str, list[dict[str, Any]]]) -> None:
        """The items of list arguments that a list of a linked record has too: equal in all fields that both have."""
        over = [(n, v) for n, v in row.items() if n.startswith("arg/") and _objects(v)]
        held = [(n, v) for n, v in row.items() if n.startswith("rec/") and _objects(v)] if over else []
        for name, items in over:
            for place, others in held:
                common = [n for n in items[0] if n in others[0] and is_scalar(items[0][n]) and n in others[-1]]
                if not common:
                    continue
                known = {tuple(freeze(other.get(n)) for n in common): other for other in others}
                for item, into in zip(items, joined.setdefault(name, [dict(item) for item in items]), strict=True):
                    other = known.get(tuple(freeze(item.get(n)) for n in common))
                    into[f"{place}?"] = other is not None
                    for field, value in (other or {}).items():
                        if field not in common and is_scalar(value):
                            into[f"{place}.{field}"] = value

    def _follow(self, row: Row, link: Link) -> None:
        parts = []
        for part in link.keys:
            if part.source.startswith("now/"):
                value = self.store.now.get(part.source[4:], UNKNOWN if link.chosen else AT_START)
            elif part.source.startswith("page/"):
                value = given(self.arguments, part.source.partition("/")[2])
            else:
                value = value_of(row, part.source)
                if part.source.startswith("into("):
                    row[part.source] = value
            text = None if value is UNKNOWN or value is ABSENT else part.read(value)
            if text is None:
                found = self.store.found_by(link.type, link.found_by, self.arguments)
                if found is None:
                    return
                parts = [*found]
                break
            parts.append(text)
        key = tuple(parts)
        self.keys[link.name] = key
        row[f"known/{link.name}"] = self.store.known(link.type, key)
        if self.store.is_fact(link.type, key) and any(map(is_identifier, key)):
            row[FACT + link.name] = True
        missing = self.store.missing.get((link.type, key))
        if missing is not None:
            row[f"missing/{link.name}"] = missing
        stale = self.store.late.get((self.tool, (link.type, key)), {})
        for field, value in {**self.store.fields(link.type, key), **stale}.items():
            name = f"rec/{link.name}/{field}"
            row[name] = value
            if isinstance(value, list | dict):
                row[f"len({name})"] = len(value)
                row.update(sums(name, value))
        self._pick(row, link)

    def _pick(self, row: Row, link: Link) -> None:
        """Fields of a record that an argument names: `prices.<class>`, or an item of a map."""
        fields = self.store.fields(link.type, self.keys[link.name])
        groups: dict[str, dict[str, Any]] = {}
        for field, value in fields.items():
            head, dot, last = field.rpartition(".")
            groups.setdefault(head, {})[last] = value
            if isinstance(value, dict):
                groups[field] = dict(value)
        for name, value in list(row.items()):
            if not (name.startswith("arg/") and isinstance(value, str)):
                continue
            for head, group in groups.items():
                found = group.get(value, UNKNOWN)
                at = f"pick/{link.name}/{head}/{name[4:]}"
                if head in fields or len(group) > 1:
                    row[f"has({at})"] = found is not UNKNOWN and found is not ABSENT
                if isinstance(found, dict):
                    for inner, scalar in found.items():
                        if is_scalar(scalar):
                            row[f"{at}.{inner}"] = scalar
                elif found is not UNKNOWN:
                    row[at] = found
        self._pick_deep(row, link, fields)

    def _pick_deep(self, row: Row, link: Link, fields: Row) -> None:
        """Fields of the part of a record that an argument names, `environments.<env>.version`, and a field that two
        arguments name one after the other: `settings.<group>.<name>`."""
        named: dict[str, list[str]] = {}
        for name, said in row.items():
            if name.startswith("arg/") and isinstance(said, str) and 0 < len(said) <= 40:
                named.setdefault(said, []).append(name[4:])
        for field, value in fields.items() if named else ():
            parts = field.split(".")
            for at, part in enumerate(parts[:-1]):
                for outer in named.get(part, ()):
                    place = f"pick/{link.name}/{'.'.join(parts[:at])}/{outer}"
                    row[f"{place}.{'.'.join(parts[at + 1:])}"] = value
                    for inner in named.get(parts[-1], ()) if at == len(parts) - 2 and is_scalar(value) else ():
                        if inner != outer:
                            row[f"{place}/{inner}"] = value

    def _remember(self, row: Row) -> None:
        history, tool = self.history, self.tool
        key = call_key(tool, self.arguments)
        row["n/same"] = history.calls[key]
        row["n/same_since_write"] = history.same_since_write[key]
        row["n/tool"] = history.tools[tool]
        row["n/written"] = history.written
        if key in history.same:
            row["prev/same"] = history.same[key]
        if tool in history.last:
            row["prev/tool"] = history.last[tool]
        if history.previous:
            row["prev/any"] = history.previous
        for other, time in history.at.items():
            row[f"at/{other}"] = time
        named = _named(self.arguments)
        for name in self.repeats:
            first = history.first.get((tool, name, str(self.arguments.get(name))))
            row[f"used/{name}"] = first is not None
            row.update({f"first/{name}/{field}": value for field, value in (first or {}).items()})
        for (other, outcome, text), count in history.refused_on.items():
            if other == tool and text in named:
                row[f"refused/{outcome}"] = max(count, row.get(f"refused/{outcome}", 0))
        for other, count in history.done.items():
            row[f"did/{other}"] = count
            row[f"since/{other}"] = history.tools[tool] - history.since.get((tool, other), 0)
            on = max((history.done_on[(other, text)] for text in named), default=0)
            if on:
                row[f"did_on/{other}"] = on
            for name, value in history.told[other].items():
                row[f"told/{other}/{name}"] = value
            for name, value in history.answers[other].items():
                row[f"last/{other}/{name}"] = value


def oddities(arguments: Mapping[str, Any], expected: Sequence[Expected]) -> dict[str, Any]:
    """The first argument of each sort, as sources: `odd/missing`, `odd/type` (with `odd/wanted`, the type expected) and
    `odd/option`."""
    found: dict[str, Any] = {}
    for one in expected:
        value = arguments.get(one.name)
        if value is None:
            if one.needed:
                found.setdefault("odd/missing", one.name)
            continue
        kind = kind_of(value)
        if one.kind and kind != one.kind and not (kind in NUMBERS and one.kind in NUMBERS):
            if "odd/type" not in found:
                found["odd/type"], found["odd/wanted"] = one.name, one.kind
        elif one.options and isinstance(value, str) and value not in one.options:
            found.setdefault("odd/option", one.name)
    return found


def flat_arguments(arguments: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in arguments.items():
        path = f"{at}.{name}" if at else name
        yield path, value
        if isinstance(value, dict):
            yield from flat_arguments(value, path)


def _objects(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= 50 and all(isinstance(item, dict) for item in value)


def sums(name: str, value: Any) -> Row:
    """The sums of the numeric fields of a list, as sources."""
    return {f"sum({name}.{field})": _sum(column) for field, column in _columns(value).items()}


def _sum(column: list[float]) -> float:
    """A sum without the noise of floats."""
    total = sum(column)
    return round(total, 9) if isinstance(total, float) else total


def _columns(value: Any) -> dict[str, list[float]]:
    """The numeric fields that all items of a list have; "" for a list of numbers."""
    if not isinstance(value, list) or not value or len(value) > 200:
        return {}
    if all(is_number(v) for v in value):
        return {"": list(value)}
    if not all(isinstance(v, dict) for v in value):
        return {}
    found = {name: [v[name] for v in value] for name in value[0] if all(is_number(v.get(name)) for v in value)}
    for name in [name for name in value[0] if name not in found]:
        amounts = [amount for v in value if (amount := amount_in(v.get(name))) is not None]
        if len(amounts) == len(value):
            found[name] = amounts
    return found


def _common(value: list[Any]) -> dict[str, Any]:
    if not value or len(value) > 200 or not all(isinstance(v, dict) for v in value):
        return {}
    first = value[0]
    return {
        n: first[n] for n in first if is_scalar(first[n]) and all(freeze(v.get(n)) == freeze(first[n]) for v in value)
    }


def as_text(value: Any) -> str | None:
    """A value as a text shows it; None where it is not a scalar that is known."""
    if value is UNKNOWN or value is ABSENT or not is_scalar(value):
        return None
    return shown(value)
