"""The records of one world: what was seen, written or invented, and what is known not to exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from worldmodel.derive.layout import Layout, field_name, plain_fields
from worldmodel.derive.schema import (
    AT_START,
    CLOCK,
    EPISODE,
    RECORD,
    UNTIL_SHOWN,
    Asked,
    Site,
    View,
    key_at,
    order_of,
)
from worldmodel.derive.values import (
    ABSENT,
    UNKNOWN,
    freeze,
    is_alike,
    is_near,
    is_number,
    is_scalar,
    key_of,
    likeness,
    same,
    unflatten,
)
from worldmodel.steps import OK, call_key

Key = tuple[str, ...]
Shown = tuple[str, Key, str, Any]
Facts = Mapping[tuple[str, Key], Mapping[str, Any]]
ANSWERS = "="
"""How the types of facts begin that are whole answers: of a tool, by its call."""


class Cell(NamedTuple):
    """The value of one field, when it was set, whether it was `seen`, `written` or `invented`, and by which tool."""

    value: Any
    time: int
    provenance: str
    tool: str = ""


class Complete(NamedTuple):
    """A list that showed all records with some values: their keys, how many records of the type were known then, and
    when it was."""

    asked: frozenset[Asked]
    keys: tuple[Key, ...]
    size: int
    time: int


class Store:
    """Records by (type, key). `facts` are shared by all worlds and never written to."""

    def __init__(self, layout: Layout, facts: Facts | None = None) -> None:
        self.layout = layout
        self.facts: Facts = {} if facts is None else facts
        self.records: dict[tuple[str, Key], dict[str, Cell]] = {}
        self.missing: dict[tuple[str, Key], str] = {}
        self.keys: dict[str, dict[Key, None]] = {}
        self.late: dict[tuple[str, tuple[str, Key]], dict[str, Any]] = {}
        """What the next answer of a tool still shows of a record that was written to, by (tool, record)."""
        self.pending: dict[tuple[str, tuple[str, Key], str], tuple[Any, ...]] = {}
        """By (tool, record, field): the effects, with their rows, of writes to what only a late answer will show."""
        self.now: dict[str, Any] = dict(layout.schema.start)
        """The latest value of each field that an answer showed beside no list: what a system may keep of a session."""
        self.lost: dict[tuple[str, Key, str], int] = {}
        """Fields of records that a write has changed to what nobody knows yet, and when it did."""
        self.complete: dict[str, tuple[Complete, ...]] = {}
        """By tool and path of a list: the lists that it showed, the latest last."""
        self.behind: Store | None = None
        """The store before the last write, if the lists of some tools lag."""
        self.answered: frozenset[str] = frozenset()
        """The tools that have answered since the last write."""
        self.mentioned: set[Key] = set()
        """Keys that somebody has said: they are no misspellings, however near to a known one."""
        self._lists: dict[tuple[str, str], tuple[Key, ...]] = {}
        """By tool and path of a closed list, the records that it has at the start."""
        self._alike: dict[tuple[str, str], dict[str, list[Key]]] = {}
        """By (type, field) and likeness, the shared records."""
        self.time = 0

    def fork(self) -> Store:
        """A copy; neither sees what the other is told from here on."""
        copy = Store(self.layout, self.facts)
        copy.records = {mark: dict(cells) for mark, cells in self.records.items()}
        copy.missing, copy.time, copy.late = dict(self.missing), self.time, dict(self.late)
        copy.now, copy.pending = dict(self.now), dict(self.pending)
        copy.keys = {name: dict(keys) for name, keys in self.keys.items()}
        copy.mentioned, copy.lost, copy.complete = set(self.mentioned), dict(self.lost), dict(self.complete)
        copy._lists, copy._alike = self._lists, self._alike
        copy.behind, copy.answered = self.behind, self.answered
        return copy

    # ----- reading

    def known(self, type_: str, key: Key) -> bool:
        return (type_, key) in self.records or (type_, key) in self.facts

    def shared_answer(self, tool: str, call: str) -> tuple[str, str] | None:
        """(outcome, content) of what all conversations are answered to a call as long as they have written nothing."""
        found = self.facts.get((f"{ANSWERS}{tool}", (call,)))
        return None if found is None else (found["outcome"], found["content"])

    def found_by(self, type_: str, by: Sequence[tuple[str, str]], arguments: Mapping[str, Any]) -> Key | None:
        """The only record that one of the (argument, field) pairs finds."""
        for name, field in by:
            said = arguments.get(name)
            common = likeness(said)
            if common is None:
                continue
            if (type_, field) not in self._alike:
                alike = self._alike[(type_, field)] = dict[str, list[Key]]()
                for (of, key), fields in self.facts.items():
                    if of == type_ and (shared := likeness(fields.get(field))) is not None:
                        alike.setdefault(shared, []).append(key)
            keys = {*self._alike[(type_, field)].get(common, ()), *self.keys.get(type_, ())}
            found = [key for key in keys if is_alike(self.get(type_, key, field), said)]
            if found:
                return found[0] if len(found) == 1 else None
        return None

    def is_fact(self, type_: str, key: Key) -> bool:
        """Whether only the facts that all worlds share say something of a record."""
        return (type_, key) in self.facts and (type_, key) not in self.records

    def get(self, type_: str, key: Key, field: str) -> Any:
        cell = self.records.get((type_, key), {}).get(field)
        if cell is None:
            return self.facts.get((type_, key), {}).get(field, UNKNOWN)
        if isinstance(cell.value, list):
            return self._fresh(type_, field, cell)
        return cell.value

    def lacks(self, type_: str, key: Key, field: str) -> bool:
        """Whether a field, or the list that it is a column of, is not known, and no write has changed it since."""
        names = (field, field.partition(".")[0])
        return all(self.get(type_, key, n) is UNKNOWN and (type_, key, n) not in self.lost for n in names)

    def fields(self, type_: str, key: Key) -> dict[str, Any]:
        """All that is known of a record, by field."""
        found = dict(self.facts.get((type_, key), {}))
        for name, cell in self.records.get((type_, key), {}).items():
            found[name] = self._fresh(type_, name, cell) if isinstance(cell.value, list) else cell.value
        return found

    def all_of(self, type_: str, most: int) -> Any:
        """All records of a type that this world knows, in the order in which they became known; UNKNOWN if too many."""
        keys = self.keys.get(type_, {})
        if len(keys) > most:
            return UNKNOWN
        found = [{n: v for n, v in self.fields(type_, key).items() if v is not ABSENT} for key in keys]
        for other, name in self.layout.synonyms.get(type_, {}).items():
            for record in found:
                if name in record:
                    record.setdefault(other, record[name])
        return found

    def _fresh(self, type_: str, field: str, cell: Cell) -> Any:
        """A list whose items show what was written to their records since."""
        site = self.layout.items.get((type_, field))
        if site is None:
            return cell.value
        out = []
        for item in cell.value:
            key = self.item_key(site, item)
            own = self.records.get((site.type, key)) if key else None
            if own and isinstance(item, dict):
                names = {n: site.alias.get(n, n) for n in item}
                newer = {n: own[m].value for n, m in names.items() if m in own and own[m].time > cell.time}
                item = {**item, **{n: v for n, v in newer.items() if v is not ABSENT}} if newer else item
            out.append(item)
        return out

    @staticmethod
    def item_key(site: Site, item: Any) -> Key | None:
        if not isinstance(item, dict):
            return None
        parts = [part.read(item.get(part.source.partition("/")[2])) for part in site.keys]
        return tuple(p for p in parts if p is not None) if all(p is not None for p in parts) else None

    def seen_by(self, tool: str) -> Store:
        """The store that the next lists of a tool show: this one, or the one before the last write if they lag."""
        lag = self.layout.schema.lags.get(tool)
        if lag is None or self.behind is None:
            return self
        lags = tool not in self.answered if lag == UNTIL_SHOWN else self.time == self.behind.time + 1
        return self.behind if lags else self

    # ----- writing

    def remember(self) -> None:
        """Keep this store as it is before a write, for lists that lag."""
        if self.layout.schema.lags:
            self.behind, self.answered = None, frozenset()
            self.behind = self.fork()

    def set(self, type_: str, key: Key, field: str, value: Any, provenance: str, tool: str = "") -> None:
        mark = (type_, key)
        self.records.setdefault(mark, {})[field] = Cell(value, self.time, provenance, tool)
        self.lost.pop((type_, key, field), None)
        self.keys.setdefault(type_, {})[key] = None
        self.missing.pop(mark, None)
        if type_ == EPISODE and is_scalar(value):
            self.now[field] = value

    def absorb(
        self, tool: str, arguments: Mapping[str, Any], body: Any, provenance: str, reads: bool = False,
        since: Store | None = None,
    ) -> list[Shown]:  # fmt: skip
        """Take over all records that a successful answer shows; returns (type, key, field, value) of each. A call that
        only `reads` and names nothing says where the session has been all the time. `since` is the store that its
        lists show (`seen_by`); without it, they show this one."""
        since = since or self
        shown = [one for one in self.shown(tool, arguments, body) if not self._left_out(tool, *one)]
        if since is not self:  # its lists lag: they say nothing of what the last write, or an answer since, has said
            shown = [one for one in shown if not self._changed_since(since.time, *one[:3])]
        if reads and not arguments:
            for name, value in (*plain_fields(body), *((n, v) for type_, _, n, v in shown if type_ == EPISODE)):
                self._settle(name, value)
        for type_, key, name, value in shown:
            stale = self.late.get((tool, (type_, key)), {})
            if name not in stale or not (stale[name] is UNKNOWN or same(stale[name], value)):
                self.set(type_, key, name, value, provenance, tool)
        for type_, key, name, _ in shown:
            self.late.pop((tool, (type_, key)), None)
            self.pending.pop((tool, (type_, key), name), None)
        for name, value in plain_fields(body):
            self.now.pop(name, None)
            self.now[name] = value
        if (day := self.layout.day(tool, arguments, body)) is not None:
            self.now[CLOCK] = day
        for view in self.layout.schema.views.get(tool, ()):
            self._complete(tool, view, arguments, body, since)
        self.answered |= {tool}
        return shown

    def _changed_since(self, time: int, type_: str, key: Key, field: str) -> bool:
        """Whether anything has set a field after a time, or changed it to what nobody knows."""
        cell = self.records.get((type_, key), {}).get(field)
        return self.lost.get((type_, key, field), time) > time or cell is not None and cell.time > time

    def _left_out(self, tool: str, type_: str, key: Key, field: str, value: Any) -> bool:
        """Whether an answer does not say what another tool has shown of a record: it has another form, and the field is
        still there."""
        cell = self.records.get((type_, key), {}).get(field) if value is ABSENT else None
        return cell is not None and cell.value is not ABSENT and cell.provenance != "written" and cell.tool != tool

    def _complete(self, tool: str, view: View, arguments: Mapping[str, Any], body: Any, since: Store) -> None:
        keys = self._whole(view, arguments, body)
        if keys is not None:
            place, asked = f"{tool}/{view.path}", view.asked(arguments)
            before = tuple(one for one in self.complete.get(place, ()) if one.asked != asked)
            size = len(since.keys.get(view.site.type, ()))
            self.complete[place] = (*before, Complete(asked, keys, size, since.time))

    def _whole(self, view: View, arguments: Mapping[str, Any], body: Any) -> tuple[Key, ...] | None:
        """The keys of all records of a list; None if it may go on, or has items that are no records of their own."""
        items = view.items(body)
        keys = [self.item_key(view.site, item) for item in items or ()]
        if items is None or None in keys or len(set(keys)) < len(keys) or view.is_cut(items, arguments):
            return None
        return tuple(key for key in keys if key is not None)

    def viewed(self, tool: str, view: View, arguments: Mapping[str, Any]) -> tuple[list[Any], int] | None:
        """The list that a call shows, and how many records it would show if it was not cut; None unless an earlier list
        of the tool had all records that this one may have, or all conversations start with this list."""
        asked = view.asked(arguments)
        earlier = [one for one in self.complete.get(f"{tool}/{view.path}", ())
                   if one.asked == asked or view.narrows and one.asked <= asked]  # fmt: skip
        earlier = earlier or self._at_start(tool, view, arguments)
        if not earlier:
            return None
        return self._list(tool, view, arguments, max(earlier, key=lambda one: one.time))

    def selected(self, tool: str, view: View, arguments: Mapping[str, Any]) -> tuple[list[Any], int] | None:
        """The same, selected from the records that all conversations share, in the order of their keys or the list's;
        None where it is not known what an argument asks for."""
        if any(test is None for test, *_ in view.asked(arguments)):
            return None
        type_, place = view.site.type, (tool, view.path)
        if place not in self._lists:
            needed = {field_name(view.site, n) for n in view.fields}
            keys = [key for (of, key), fields in self.facts.items() if of == type_ and needed <= fields.keys()]
            self._lists[place] = tuple(sorted(keys, key=lambda key: [(len(part), part) for part in key]))
        return self._list(tool, view, arguments, Complete(frozenset(), self._lists[place], 0, -1))

    def _list(
        self, tool: str, view: View, arguments: Mapping[str, Any], whole: Complete
    ) -> tuple[list[Any], int] | None:
        found = self._chosen(view, view.asked(arguments), whole)
        if found is None:
            return None
        left_out = {n for n in self.layout.schema.implied.get(tool, ()) if arguments.get(n) is not None}
        left_out.update(view.site.scoped)
        kept = [{n: v for n, v in named.items() if v is not UNKNOWN and v is not ABSENT and n not in left_out}
                for named in found]  # fmt: skip
        items: list[Any] = [unflatten(named) for named in kept]
        return items[: view.cut(arguments)], len(items)

    def _chosen(self, view: View, asked: frozenset[Asked], whole: Complete) -> list[dict[str, Any]] | None:
        """The records that a list of the `asked` ones shows, by the names of its items' fields, in its order; None if
        some of them, or of their fields, are not known. `whole` had them all."""
        type_, site = view.site.type, view.site
        wanted = [(test, goal) for test, _, goal in asked if test is not None]
        if not all(test.knows(goal) for test, goal in wanted):
            return None
        for test, goal in wanted:
            held = (self.get(type_, key, field_name(site, n)) for key in self.keys.get(type_, ()) for n in test.fields)
            if test.op == "=" and test.fields[0] in view.loose and all(freeze(one) != goal for one in held):
                return None
        names = [n[1:] if n[0] == RECORD else field_name(site, n) for test, _ in wanted for n in test.fields]
        places = {key: place for place, key in enumerate(whole.keys)}
        found: list[tuple[int, dict[str, Any]]] = []
        for place, key in enumerate({**self.keys.get(type_, {}), **places}):
            cells, listed = self.records.get((type_, key), {}), key in places
            new = place >= whole.size or any(n in cells and cells[n].time > whole.time for n in names)
            if not listed and not new:
                continue
            values = self.fields(type_, key)
            if not listed and not any(field_name(site, n) in values for n in view.fields):
                continue  # no list shows such a record
            named = {n: values.get(field_name(site, n), UNKNOWN) for n in site.fields}
            of = {**{RECORD + n: v for n, v in values.items()}, **{n: v for n, v in named.items() if v is not UNKNOWN}}
            sure = [(test, goal) for test, goal in wanted if all(n in of for n in test.fields)]
            if not all(test.passes(of, goal) for test, goal in sure):
                continue
            if len(sure) < len(wanted):
                return None
            if not listed and len(wanted) < len(asked):
                return None
            if any(named.get(n, UNKNOWN) is UNKNOWN for n in view.fields):
                return None
            found.append((places[key] if listed else len(places) + place, named))
        found.sort(key=lambda one: one[0])
        for name in reversed(view.order):
            field, falling, compared = order_of(name)
            by: list[Any] = [named.get(field) for _, named in found]
            by_word = field != name.removeprefix("-")
            if not (all(isinstance(v, str) for v in by) or all(map(is_number, by)) and not by_word):
                return None
            order = sorted(range(len(found)), key=[compared(v) for v in by].__getitem__, reverse=falling)
            found = [found[at] for at in order]
        return [named for _, named in found]

    def _at_start(self, tool: str, view: View, arguments: Mapping[str, Any]) -> list[Complete]:
        """The list that all conversations are shown as long as they have written nothing."""
        found = self.shared_answer(tool, call_key(tool, arguments))
        if found is None or found[0] != OK:
            return []
        keys = self._whole(view, arguments, self.layout.read(tool, found[1]))
        return [] if keys is None else [Complete(view.asked(arguments), keys, 0, -1)]

    def _settle(self, field: str, value: Any) -> None:
        """Records that were seen before anything said where the session was: they are of the place that is said now."""
        text = key_of(value)
        for type_, at, name in self.layout.hidden:
            if text is None or name != field or field in self.now:
                continue
            for key in [k for k in self.keys.get(type_, ()) if k[at] == AT_START]:
                named = (*key[:at], text, *key[at + 1 :])
                self.records.setdefault((type_, named), {}).update(self.records.pop((type_, key), {}))
                self.keys[type_].pop(key)
                self.keys[type_][named] = None

    def shown(self, tool: str, arguments: Mapping[str, Any], body: Any) -> list[Shown]:
        """(type, key, field, value) of every record that an answer shows."""
        shown: list[Shown] = []
        asked = self.layout.schema.asked.get(tool, {})
        for site, placed in self.layout.placed(tool, body):
            key = key_at(site, placed, arguments, self.now)
            if key is None:
                continue
            implied = (*self.layout.schema.implied.get(tool, ()), *site.scoped)
            for name in site.fields:
                value = placed.fields.get(name, ABSENT)
                named = field_name(site, name)
                said = arguments.get(name) if value is ABSENT and name in implied else None
                if is_scalar(said) and said not in (None, ""):
                    value = said
                silent = site.type == EPISODE or name in site.scoped
                if value is ABSENT and (silent or name in asked and not arguments.get(asked[name])):
                    continue
                shown.append((site.type, key, named, value))
        return shown

    def forget(self, type_: str, key: Key, field: str) -> None:
        """A field has changed to something that no rule knows."""
        self.lost[(type_, key, field)] = self.time
        self.records.get((type_, key), {}).pop(field, None)
        if type_ == EPISODE:
            self.now.pop(field, None)

    def deny(self, type_: str, key: Key, outcome: str) -> None:
        """A record that a call named was refused as `outcome` before anything was known of it."""
        if not self.known(type_, key):
            self.missing[(type_, key)] = outcome

    def near(self, type_: str, key: Key) -> bool:
        """Whether an unknown key is a misspelling of a known one: equal but for case and signs, or an edit apart."""
        if len(key) != 1 or self.known(type_, key) or len(key[0]) < 4 or key in self.mentioned:
            return False
        return any(is_near(key[0], other[0]) for other in self.keys.get(type_, {}) if len(other) == 1)
