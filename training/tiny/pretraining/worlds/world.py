"""A procedural tool world: a random API over random records, and its state.

An `Api` draws nouns, fields, id forms, tools, answer shapes and failures. A `World` has an API and its own records, so
two conversations of one API show the same forms with other contents. Start with `World.call`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from training.models.edits import dumps
from training.tiny.pretraining.worlds import lexicon as lx
from training.tiny.pretraining.worlds.failures import DEMANDS, FORMS, IdForm, draw_failures, draw_id_form
from training.tiny.pretraining.worlds.names import Sounds
from training.tiny.pretraining.worlds.shapes import Shapes, Shown
from training.tiny.pretraining.worlds.units import UNITS, Unit

Record = dict[str, Any]
READS, LISTS = ("get",), ("list", "browse", "count")


@dataclass(frozen=True)
class Answer:
    """A tool's answer: its text, its outcome class (`ok` or the API's error code), an error's reason and message.

    `hint` is what the text says, for the caller: the record, the entries, or the correction of a refused call.
    """

    content: str
    outcome: str = "ok"
    reason: str = ""
    hint: Any = None
    message: str = ""


@dataclass(frozen=True)
class Field:
    """One field of a kind. With a unit, its values are integers of small units, and reads show `small` ones or not."""

    name: str
    draw: Callable[[], Any]
    unit: Unit | None = None
    small: bool = False

    def shown(self, value: Any) -> Any:
        return self.unit.value(value, self.small) if self.unit is not None and value is not None else value


@dataclass
class Kind:
    """One type of record. `title`: the field in which similar records differ by a word, if there is one."""

    noun: str
    plural: str
    id_key: str
    ids: IdForm
    fields: dict[str, Field]
    status: str
    statuses: list[str]
    title: str = ""
    parent: Kind | None = None
    """The kind that records are linked to, in the field `link`."""
    link: str = ""
    bound: int = 0


@dataclass
class Tool:
    """One tool: `sort` is get, list, browse, count, set, act, create, delete, link or pause."""

    name: str
    sort: str
    kind: Kind
    parameters: list[str]
    verb: str = ""
    field: Field | None = None
    argument: str = ""
    small: bool = False
    """The unit that the argument has."""
    needs: frozenset[str] = frozenset()
    gives: str = ""
    form: str = "whole"

    def definition(self) -> dict[str, Any]:
        properties = {p.rstrip("?"): {"type": "string"} for p in self.parameters}
        required = [p for p in self.parameters if not p.endswith("?")]
        schema = {"type": "object", "properties": properties, "required": required}
        return {"name": self.name, "parameters": schema}


class Api:
    """An API: kinds of records, tools, shapes and failures. All randomness comes from `rng`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.sounds = rng, Sounds(rng)
        self.snake, self.capital = rng.random() < 0.8, rng.random() < 0.6
        self.shapes, self.failures = Shapes(rng), draw_failures(rng)
        self.page_size = rng.choice((1, 3, 4, 5, 6, 8, 10, 12, 20))
        self.paging = rng.choice(("page", "page", "offset", "start", "page_number"))
        self.query = rng.choice(("query", "q", "text", "term", "filter"))
        self.kinds: list[Kind] = []
        for noun in rng.sample(lx.NOUNS, rng.choice((1, 1, 2, 2, 3))):
            self.kinds.append(self._kind(noun))
        named = {tool.name: tool for kind in self.kinds for tool in self._tools(kind)}
        self.tools = list(named.values())
        if self.failures.quota:
            name = rng.choice(("pause", "sleep", "hold", "delay", "idle", "back_off"))
            argument = rng.choice(("seconds", "duration", "delay", "s"))
            self.tools.append(Tool(name, "pause", self.kinds[0], [argument], argument=argument))
        rng.shuffle(self.tools)

    def key(self, *words: str) -> str:
        words = tuple(w for w in words if w)
        return "_".join(words) if self.snake else words[0] + "".join(w[0].upper() + w[1:] for w in words[1:])

    def _kind(self, noun: str) -> Kind:
        rng = self.rng
        plural = noun[:-1] + "ies" if noun[-1] == "y" else noun + ("es" if noun[-1] in "sxh" else "s")
        statuses = rng.sample(lx.STATUSES, 4)
        status = rng.choice(("status", "status", "state", "phase", "stage"))
        id_key = rng.choice((self.key(noun, "id"), self.key(noun, "id"), "id", self.key(noun, "number"), noun, "ref"))
        title = rng.choice(("name", "title", "item", "caption")) if rng.random() < 0.6 else ""
        drawn = {status: Field(status, lambda: rng.choice(statuses))}
        for name in rng.sample([f for f in lx.FIELDS if f != status], rng.randint(1, 5)):
            chosen = self._field(name)
            drawn[chosen.name] = chosen
        kind = Kind(noun, plural, id_key, draw_id_form(rng, noun), drawn, status, statuses, title)
        kind.bound = rng.randint(20, 900) if self.failures.bounded else 0
        if self.kinds and rng.random() < 0.6:
            kind.parent = rng.choice(self.kinds)
            kind.link = self.key(kind.parent.noun, "id") if rng.random() < 0.7 else kind.parent.noun
            if kind.link == id_key:
                kind.link = self.key("parent", kind.parent.noun)
        return kind

    def _field(self, name: str) -> Field:
        rng, sounds = self.rng, self.sounds
        if name in ("owner", "manager", "contact", "contact_name"):
            return Field(name, sounds.person)
        if name in ("location", "region", "country", "zone"):
            return Field(name, sounds.place)
        if name in ("deadline", "start", "end", "created", "updated", "due"):
            day = "{y}-{m:02d}-{d:02d}"
            form = rng.choice((day, "{d:02d}.{m:02d}.{y}", "{m:02d}/{d:02d}", day + "T{h:02d}:00"))
            return Field(name, lambda: form.format(
                y=rng.randint(2019, 2031), m=rng.randint(1, 12), d=rng.randint(1, 28), h=rng.randint(0, 23)
            ))  # fmt: skip
        if name in lx.QUANTITIES and rng.random() < 0.7:
            unit, small = rng.choice(UNITS), rng.random() < 0.5
            words = (name, unit.small.replace(" ", "_")) if small else (name, unit.large.replace(" ", "_"))
            shown = name if unit.before or rng.random() < 0.5 else self.key(*words)
            return Field(shown, lambda: unit.draw(rng), unit, small)
        if name in ("label", "summary", "notes", "comment", "model", "brand", "reason", "group", "department"):
            return Field(name, lambda: self._words(rng.randint(1, 3)))
        if rng.random() < 0.25:
            return Field(name, lambda: rng.choice((True, False)))
        if rng.random() < 0.4:
            some = rng.sample(lx.ADJECTIVES, rng.randint(2, 6))
            return Field(name, lambda: rng.choice(some))
        return Field(name, lambda: rng.randint(0, 999))

    def _words(self, count: int) -> str:
        text = " ".join([*self.rng.sample(lx.ADJECTIVES, count - 1), self.rng.choice(lx.NOUNS)])
        return text.capitalize() if self.capital else text

    def _tools(self, kind: Kind) -> list[Tool]:
        rng = self.rng
        noun, many, key = kind.noun, kind.plural, kind.id_key
        reads = ("get", "get", "read", "show", "fetch", "lookup", "describe")
        tools = [Tool(self.key(rng.choice(reads), noun), "get", kind, [key])]
        if kind.title:
            name = self.key(rng.choice(("list", "search", "find", "query")), many)
            tools.append(Tool(name, "browse", kind, [self.query, self.paging + "?"]))
        if rng.random() < 0.5:
            chosen = rng.choice(list(kind.fields.values()))
            name = self.key(rng.choice(("list", "filter", "select")), many, "by", chosen.name)
            tools.append(Tool(name, "list", kind, [chosen.name, self.paging + "?"], field=chosen, argument=chosen.name))
        if rng.random() < 0.3:
            chosen = rng.choice(list(kind.fields.values()))
            name = self.key("count", many)
            tools.append(Tool(name, "count", kind, [chosen.name], field=chosen, argument=chosen.name))
        changeable = [f for f in kind.fields.values() if f.name != kind.status]
        for chosen in rng.sample(changeable, min(len(changeable), rng.randint(1, 2))):
            tools.append(self._setter(kind, chosen))
        for verb in rng.sample(lx.VERBS, rng.randint(1, 2)):
            needs = frozenset(rng.sample(kind.statuses, rng.randint(1, 3)))
            gives = rng.choice([s for s in kind.statuses if s not in needs])
            tools.append(Tool(self.key(verb, noun), "act", kind, [key], verb, needs=needs, gives=gives))
        if rng.random() < 0.3:
            name = self.key(rng.choice(("delete", "remove", "drop")), noun)
            tools.append(Tool(name, "delete", kind, [key], "delete"))
        if rng.random() < 0.35:
            chosen = rng.choice(changeable)
            name, taken = self.key(rng.choice(("create", "add", "new", "register")), noun), chosen.name
            tools.append(Tool(name, "create", kind, [taken], "create", chosen, taken, chosen.small))
        if kind.parent is not None and rng.random() < 0.6:
            name = self.key(rng.choice(("link", "attach", "assign")), noun)
            tools.append(Tool(name, "link", kind, [key, kind.link], "link", argument=kind.link))
        for tool in tools:
            if tool.sort in ("get", "set", "act", "delete") and rng.random() < 0.3:
                tool.form = rng.choice(kind.ids.forms())
            if tool.sort in ("set", "act", "delete") and self.failures.confirm and rng.random() < 0.6:
                tool.parameters.append("confirm?")
            if tool.sort == "set" and self.failures.versions:
                tool.parameters.append(self.failures.versions)
        return tools

    def _setter(self, kind: Kind, chosen: Field) -> Tool:
        verb = self.key(self.rng.choice(("set", "update", "change", "edit")), kind.noun, chosen.name)
        argument, small = chosen.name, chosen.small
        if chosen.unit is not None and self.rng.random() < 0.6:
            small = self.rng.random() < 0.6
            name = chosen.unit.small if small else chosen.unit.large
            argument = self.rng.choice(("value", "amount", chosen.name, name.replace(" ", "_")))
        elif self.rng.random() < 0.2:
            argument = self.rng.choice(("value", "to", "new_value"))
        if argument == kind.id_key:
            argument = "value"
        return Tool(verb, "set", kind, [kind.id_key, argument], "update", chosen, argument, small)


@dataclass
class World:
    """The state of one API: its records by kind, and what its failures remember."""

    api: Api
    records: dict[str, dict[str, Record]] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    _old: dict[str, tuple[Record, int]] = field(default_factory=dict)
    _spent: int = 0
    _codes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in self.api.kinds:
            self.records[kind.noun] = {}
            titles = self._titles() if kind.title else []
            for number in range(len(titles) or self.api.rng.randint(3, 7)):
                self._add(kind, {kind.title: titles[number]} if titles else {})

    @property
    def rng(self) -> random.Random:
        return self.api.rng

    def _add(self, kind: Kind, given: Record) -> Record:
        rng, records = self.rng, self.records[kind.noun]
        identity = kind.ids.draw(rng)
        record = {kind.id_key: identity, **given}
        record |= {f.name: f.draw() for f in kind.fields.values() if f.name not in given}
        if kind.parent is not None:
            parents = list(self.records[kind.parent.noun])
            record[kind.link] = rng.choice(parents) if parents else None
        if self.api.failures.versions:
            record[self.api.failures.versions] = rng.randint(1, 40)
        records[identity] = record
        if rng.random() < self.api.failures.denied:
            self.denied.add(identity)
        return record

    def _titles(self) -> list[str]:
        """Groups of two to six titles that differ in one word."""
        rng = self.rng
        titles, last = [], rng.random() < 0.6
        for thing in rng.sample(lx.NOUNS, rng.randint(1, 2)):
            line = f"{rng.choice(lx.ADJECTIVES)} {thing}" if rng.random() < 0.5 else thing
            own = rng.sample([w for w in lx.ADJECTIVES if w not in line.split()], rng.randint(2, 6))
            if rng.random() < 0.25:
                own = [self.api.sounds.name() for _ in own]
            for word in dict.fromkeys(own):
                title = f"{line} {word}" if last else f"{word} {line}"
                titles.append(title[0].upper() + title[1:] if self.api.capital else title)
        rng.shuffle(titles)
        return titles

    def shown(self, kind: Kind, record: Record) -> Shown:
        """A record as answers write it."""
        return {k: kind.fields[k].shown(v) if k in kind.fields else v for k, v in record.items()}

    # ----- answers

    def call(self, name: str, arguments: Record) -> Answer:
        """Answer a call and change the state. Errors are returned as answers."""
        tool = next((t for t in self.api.tools if t.name == name), None)
        if tool is None:
            return self.error("unknown_tool", f"no tool {name}")
        if tool.sort == "pause":
            if arguments.get(tool.argument, 0) >= self.api.failures.pause:
                self._spent = 0
            return Answer(dumps({"ok": True}))
        failed = self._unavailable(tool)
        if failed is not None:
            return failed
        if tool.sort in LISTS:
            return self._list(tool, arguments)
        if tool.sort == "create":
            return self._create(tool, arguments)
        return self._on_record(tool, arguments)

    def _unavailable(self, tool: Tool) -> Answer | None:
        failures = self.api.failures
        sort = "read" if tool.sort in READS else "list" if tool.sort in LISTS else "write"
        if failures.quota and failures.quota_of in (sort, "any"):
            self._spent += 1
            if self._spent > failures.quota:
                text = self.rng.choice(("quota used up, pause {s} s", "limit reached, retry after {s} s"))
                return self.error("throttled", text.format(s=failures.pause), failures.pause)
        if self.rng.random() < failures.outage:
            return self.error("unavailable", "the service did not respond, retry")
        return None

    def _found(self, tool: Tool, given: Any) -> Record | Answer:
        """The record of an id in the form that the tool takes, or the error."""
        kind, text = tool.kind, str(given)
        for identity, record in self.records[kind.noun].items():
            right = FORMS[tool.form](kind.ids, identity)
            if text == right:
                return record
            if any(text == write(kind.ids, identity) for write in FORMS.values()):
                if not self.api.failures.strict_ids:
                    return record
                demand = DEMANDS[tool.form][len(kind.noun) % len(DEMANDS[tool.form])]
                example = FORMS[tool.form](kind.ids, kind.ids.draw(self.rng))
                message = demand.format(k=kind.id_key, x=example, p=kind.ids.prefix or "it")
                return self.error("invalid", message, {kind.id_key: right})
        return self.error("not_found", f"{kind.noun} {text} not found")

    def _on_record(self, tool: Tool, arguments: Record) -> Answer:
        kind = tool.kind
        found = self._found(tool, arguments.get(kind.id_key))
        if isinstance(found, Answer):
            return found
        identity = found[kind.id_key]
        if tool.sort == "get":
            old, left = self._old.get(identity, (found, 0))
            if left > 0:
                self._old[identity] = (old, left - 1)
            told = self.shown(kind, old if left > 0 else found)
            return Answer(self.api.shapes.record(kind.noun, kind.id_key, told), hint=told)
        before = dict(found)
        problem = self._objection(tool, found, arguments) or self._apply(tool, found, arguments)
        if problem is not None:
            return problem
        versions = self.api.failures.versions
        if tool.sort != "delete" and isinstance(found.get(versions), int):  # a field of this name may be a text
            found[versions] += 1
        if self.api.failures.lag:
            self._old[identity] = (before, self.api.failures.lag)
        return self._echo(tool, before, found)

    def _echo(self, tool: Tool, before: Record, after: Record) -> Answer:
        kind = tool.kind
        shown = (self.shown(kind, before), self.shown(kind, after))
        return Answer(self.api.shapes.written(kind.noun, kind.id_key, *shown, tool.verb))

    def _objection(self, tool: Tool, record: Record, arguments: Record) -> Answer | None:
        """The failure that refuses a change of a record before it is looked at in detail."""
        kind, failures = tool.kind, self.api.failures
        identity = record[kind.id_key]
        if identity in self.denied:
            return self.error("forbidden", f"you may not {tool.verb} {kind.noun} {identity}")
        if kind.parent is not None and failures.linked and tool.sort == "act":
            parent = self.records[kind.parent.noun].get(record[kind.link])
            if parent is not None and parent[kind.parent.status] == kind.parent.statuses[0]:
                return self.error("conflict", f"{kind.parent.noun} {record[kind.link]} is {kind.parent.statuses[0]}")
        if failures.versions in tool.parameters and arguments.get(failures.versions) != record[failures.versions]:
            now = record[failures.versions]
            return self.error("version", f"{failures.versions} is {now}", {failures.versions: now})
        if "confirm?" in tool.parameters:
            return self._unconfirmed(tool, identity, arguments)
        return None

    def _unconfirmed(self, tool: Tool, identity: str, arguments: Record) -> Answer | None:
        if self.api.failures.confirm == "flag":
            if arguments.get("confirm") is True:
                return None
            return self.error("confirm", f"{tool.verb} needs confirm true", {"confirm": True})
        code = self._codes.setdefault(identity, str(self.rng.randint(1000, 9999)))
        if arguments.get("confirm") == code:
            return None
        return self.error("confirm", f"repeat with confirm {code}", {"confirm": code})

    def _apply(self, tool: Tool, record: Record, arguments: Record) -> Answer | None:
        kind = tool.kind
        if tool.sort == "act":
            if record[kind.status] not in tool.needs:
                return self.error("conflict", f"{kind.noun} is {record[kind.status]}")
            record[kind.status] = tool.gives
        elif tool.sort == "delete":
            return self._delete(tool, record)
        elif tool.sort == "link":
            assert kind.parent is not None
            if arguments.get(tool.argument) not in self.records[kind.parent.noun]:
                return self.error("not_found", f"{kind.parent.noun} {arguments.get(tool.argument)} not found")
            record[kind.link] = arguments[tool.argument]
        else:
            assert tool.field is not None
            value = self._stored(tool, arguments.get(tool.argument))
            if isinstance(value, Answer):
                return value
            record[tool.field.name] = value
        return None

    def _stored(self, tool: Tool, value: Any) -> Any:
        """The value of an argument as records keep it, or the error."""
        chosen = tool.field
        assert chosen is not None
        if value is None:
            return self.error("invalid", f"{tool.argument} is required")
        if chosen.unit is None:
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or tool.small and not isinstance(value, int):
            name = chosen.unit.small if tool.small else chosen.unit.large
            return self.error("invalid", f"{tool.argument} is a number of {name}", "unit")
        stored = value if tool.small else round(value * chosen.unit.factor)
        if tool.kind.bound and stored > tool.kind.bound * chosen.unit.factor:
            most = chosen.unit.value(tool.kind.bound * chosen.unit.factor, tool.small)
            return self.error("invalid", f"{tool.argument} is at most {most}", "bound")
        return stored

    def _delete(self, tool: Tool, record: Record) -> Answer | None:
        kind, identity = tool.kind, record[tool.kind.id_key]
        for other in self.api.kinds:
            if other.parent is kind:
                users = [i for i, r in self.records[other.noun].items() if r.get(other.link) == identity]
                if users:
                    return self.error("in_use", f"{other.noun} {users[0]} uses {identity}")
        del self.records[kind.noun][identity]
        return None

    def _create(self, tool: Tool, arguments: Record) -> Answer:
        value = self._stored(tool, arguments.get(tool.argument))
        if isinstance(value, Answer):
            return value
        assert tool.field is not None
        kind = tool.kind
        twin = next((r for r in self.records[kind.noun].values() if r[tool.field.name] == value), None)
        if twin is not None and isinstance(value, str):
            return self.error("exists", f"{kind.noun} {twin[kind.id_key]} has this {tool.field.name}")
        given: Record = {kind.title: self.api._words(2)} if kind.title else {}
        record = self._add(kind, {**given, tool.field.name: value})
        shown = self.shown(kind, record)
        return Answer(self.api.shapes.record(kind.noun, kind.id_key, shown), hint=record)

    def _list(self, tool: Tool, arguments: Record) -> Answer:
        kind, shapes, size = tool.kind, self.api.shapes, self.api.page_size
        hits = self._hits(tool, arguments)
        if isinstance(hits, Answer):
            return hits
        if tool.sort == "count":
            assert tool.field is not None
            shown = {tool.field.name: arguments[tool.argument]} if self.api.capital else {}
            return Answer(dumps({**shown, "count": len(hits)}), hint=len(hits))
        place = arguments.get(self.api.paging, 1 if "page" in self.api.paging else 0)
        if not isinstance(place, int) or place < 0:
            return self.error("invalid", f"{self.api.paging} is a positive integer")
        start = max(0, place - 1) * size if "page" in self.api.paging else place
        title = kind.title or kind.status
        entries = [shapes.listed(kind.id_key, title, self.shown(kind, r)) for r in hits[start : start + size]]
        shown = {self.api.paging: place} if self.api.capital else {}
        text = shapes.listing(kind.plural, entries, shown, len(hits), start + size, size)
        return Answer(text, hint=(hits[start : start + size], start + size < len(hits)))

    def _hits(self, tool: Tool, arguments: Record) -> list[Record] | Answer:
        kind, failures = tool.kind, self.api.failures
        records = list(self.records[kind.noun].values())
        if tool.sort != "browse":
            assert tool.field is not None
            return [r for r in records if tool.field.shown(r[tool.field.name]) == arguments.get(tool.argument)]
        query = str(arguments.get(self.api.query, ""))
        if len(query) < failures.shortest:
            return self.error("invalid", f"{self.api.query} is shorter than {failures.shortest}")
        if failures.exact_search:
            return [r for r in records if query in str(r[kind.title])]
        return [r for r in records if query.lower() in str(r[kind.title]).lower()]

    def error(self, reason: str, message: str, hint: Any = None) -> Answer:
        shapes = self.api.shapes
        return Answer(shapes.error(reason, message), shapes.codes[reason], reason, hint, message)
