"""Procedural tool worlds: a random API over random entities, with the failures of production systems.

A world draws nouns, fields, id formats, tool names, response styles and error texts at random, keeps state, and has
quirks: transient timeouts, rate limits that end after a wait, preconditions, stale reads after a write, ids with or
without their prefix, amounts in cents, case-sensitive search, paging, lists of items that differ in one word.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from training.models.edits import dumps
from training.tiny.pretraining import lexicon as lx

Record = dict[str, Any]


class Cents(int):
    """An amount that is stored in cents and written in dollars."""


@dataclass(frozen=True)
class Answer:
    """A tool's answer: the text, and its outcome class (`ok` or an error's name)."""

    content: str
    outcome: str = "ok"


@dataclass
class Kind:
    """One type of entity: its noun, id field and id format, and the distribution of each field."""

    noun: str
    id_key: str
    draw_id: Callable[[], str]
    prefix: str
    fields: dict[str, Callable[[], Any]]
    statuses: list[str]
    title: str = ""
    """The field in which similar records differ by one word, if there is one."""
    records: dict[str, Record] = field(default_factory=dict)


@dataclass
class Tool:
    """One tool: `sort` is get, browse, search, set, act or wait; `needs`/`gives` are statuses of an act."""

    name: str
    sort: str
    kind: Kind | None
    parameters: list[str]
    field: str = ""
    needs: frozenset[str] = frozenset()
    gives: str = ""
    bare_id: bool = False
    cents: bool = False
    timeout_rate: float = 0.0
    echo: str = "record"

    def definition(self) -> dict[str, Any]:
        properties = {p.rstrip("?"): {"type": "string"} for p in self.parameters}
        required = [p for p in self.parameters if not p.endswith("?")]
        schema = {"type": "object", "properties": properties, "required": required}
        return {"name": self.name, "parameters": schema}


class World:
    """One API and its state. All randomness comes from `rng`, so a seed identifies a world."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.snake = rng.random() < 0.8
        self.capital = rng.random() < 0.7
        self.page_size = rng.choice((2, 2, 3, 5))
        self.list_style = rng.choice(("{t}: {i}", "{t}: {i}", "{t} ({i})", "{t} {i}", "object"))
        self.error_style = rng.choice(("code", "code", "text", "nested", "flag"))
        self.kinds = [self._kind(noun) for noun in rng.sample(lx.NOUNS, rng.randint(1, 3))]
        self.stale_reads = rng.random() < 0.3
        self.burst = rng.choice((0, 0, 3, 4))
        self.tools = self._tools()
        self._fresh: dict[str, Record] = {}  # the old state that a stale read shows, by id
        self._searches = 0

    # ----- creating the API

    def key(self, *words: str) -> str:
        if self.snake:
            return "_".join(words)
        return words[0] + "".join(w.capitalize() for w in words[1:])

    def person(self) -> str:
        return f"{self.rng.choice(lx.FIRST_NAMES)} {self.rng.choice(lx.LAST_NAMES)}"

    def _kind(self, noun: str) -> Kind:
        rng = self.rng
        digits = rng.randint(3, 6)
        prefix = rng.choice(("", "", noun[0].upper() + "-", noun[0].upper(), noun[:2].upper() + "-", noun + "_", "#"))

        def draw_id() -> str:
            number = "".join(rng.choice("0123456789") for _ in range(digits))
            return prefix + number if prefix else str(rng.randint(1, 9)) + number

        statuses = rng.sample(lx.STATUSES, 4)
        fields: dict[str, Callable[[], Any]] = {"status": lambda: rng.choice(statuses)}
        for name in rng.sample([f for f in lx.FIELDS if f != "status"], rng.randint(1, 4)):
            fields[name] = self._drawer(name)
        id_key = rng.choice((self.key(noun, "id"), self.key(noun, "id"), "id", self.key(noun, "number")))
        titles = self._titles()
        title = rng.choice(("name", "title", "item", "label")) if titles else ""
        kind = Kind(noun, id_key, draw_id, prefix, {k: v for k, v in fields.items() if k != title}, statuses, title)
        for number in range(len(titles) or rng.randint(3, 6)):
            identity = draw_id()
            named = {title: titles[number]} if titles else {}
            drawn = {f: draw() for f, draw in kind.fields.items()}
            kind.records[identity] = {id_key: identity, **named, **drawn}
        return kind

    def _titles(self) -> list[str]:
        """Groups of two to six titles that differ in one word, or none."""
        rng = self.rng
        if rng.random() < 0.4:
            return []
        titles, last = [], rng.random() < 0.6
        for thing in rng.sample(lx.NOUNS, rng.randint(1, 2)):
            line = f"{rng.choice(lx.ADJECTIVES)} {thing}" if rng.random() < 0.5 else thing
            for word in rng.sample([w for w in lx.ADJECTIVES if w not in line.split()], rng.randint(2, 6)):
                title = f"{line} {word}" if last else f"{word} {line}"
                titles.append(title.capitalize() if self.capital else title)
        rng.shuffle(titles)
        return titles

    def _drawer(self, name: str) -> Callable[[], Any]:
        rng = self.rng
        if name in ("owner", "manager", "contact", "name"):
            return self.person
        if name == "email":
            return lambda: f"{rng.choice(lx.FIRST_NAMES).lower()}.{rng.choice(lx.LAST_NAMES).lower()}@mail.com"
        if name in ("address", "location"):
            return lambda: f"{rng.randint(1, 99)} {rng.choice(lx.STREETS)} St, {rng.choice(lx.CITIES)}"
        if name in ("city", "region", "country", "zone"):
            return lambda: rng.choice(lx.CITIES)
        if name in ("date", "deadline", "start", "end", "created", "updated", "due"):
            return lambda: f"2026-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
        if name in ("price", "cost", "amount", "balance", "total", "rate", "limit"):
            form = rng.choice(("whole", "dollars", "cents", "cents"))
            if form == "cents":
                return lambda: Cents(100 * rng.randint(1, 999) + rng.choice((0, 0, 5, 25, 50, 90, rng.randint(0, 99))))
            return lambda: rng.randint(5, 9999) if form == "whole" else round(rng.uniform(1, 400), 2)
        if name in ("title", "label", "summary", "note", "comment", "model", "brand", "reason", "notes", "items"):
            return lambda: f"{rng.choice(lx.ADJECTIVES)} {rng.choice(lx.NOUNS)}"
        if rng.random() < 0.3:
            return lambda: rng.choice((True, False))
        if rng.random() < 0.4:
            return lambda: rng.choice(lx.ADJECTIVES)
        return lambda: rng.randint(0, 999)

    def _tools(self) -> list[Tool]:
        rng, tools = self.rng, []
        for kind in self.kinds:
            echo = rng.choice(("record", "record", "change", "ok", "wrapped"))
            flaky = rng.choice((0.0, 0.05, 0.15, 0.25))
            get = self.key(rng.choice(("get", "get", "read", "show", "fetch", "lookup")), kind.noun)
            tools.append(Tool(get, "get", kind, [kind.id_key], timeout_rate=flaky))
            if kind.title or rng.random() < 0.6:
                name = self.key(rng.choice(("list", "search", "find")), kind.noun + "s")
                sort = "browse" if kind.title else "search"
                tools.append(Tool(name, sort, kind, ["query", "page?"], timeout_rate=flaky / 2))
            changeable = [f for f in kind.fields if f != "status"]
            for name in rng.sample(changeable, min(len(changeable), rng.randint(1, 2))):
                verb = self.key(rng.choice(("set", "update", "change", "edit")), kind.noun, name)
                example = next(iter(kind.records.values()))[name]
                tool = Tool(verb, "set", kind, [kind.id_key, name], name, echo=echo, timeout_rate=flaky / 2)
                tool.cents = isinstance(example, Cents) or (isinstance(example, float) and rng.random() < 0.6)
                tool.bare_id = bool(kind.prefix) and rng.random() < 0.3
                tools.append(tool)
            for verb in rng.sample(lx.VERBS, rng.randint(1, 2)):
                needs = frozenset(rng.sample(kind.statuses, rng.randint(1, 3)))
                gives = rng.choice([s for s in kind.statuses if s not in needs])
                tool = Tool(self.key(verb, kind.noun), "act", kind, [kind.id_key], "", needs, gives, echo=echo)
                tool.timeout_rate = flaky / 2
                tool.bare_id = bool(kind.prefix) and rng.random() < 0.25
                tools.append(tool)
        if self.burst:
            tools.append(Tool(rng.choice(("wait", "sleep", "pause")), "wait", None, ["seconds"]))
        rng.shuffle(tools)
        return tools

    # ----- answers

    def call(self, name: str, arguments: dict[str, Any]) -> Answer:
        """Answer a call and change the state. Errors are returned as answers."""
        tool = next((t for t in self.tools if t.name == name), None)
        if tool is None:
            return self.error("unknown_tool", f"no tool {name}")
        if tool.sort == "wait":
            self._searches = 0
            return Answer(dumps({"ok": True}))
        searching = tool.sort in ("search", "browse")
        self._searches = self._searches + 1 if searching else max(0, self._searches - 1)
        if self.burst and self._searches > self.burst:
            return self.error("rate_limited", "too many requests, wait 2 seconds")
        if self.rng.random() < tool.timeout_rate:
            return self.error("timeout", "upstream timed out, try again")
        assert tool.kind is not None
        if searching:
            return self._search(tool, tool.kind, arguments)
        return self._on_record(tool, tool.kind, arguments)

    def _on_record(self, tool: Tool, kind: Kind, arguments: dict[str, Any]) -> Answer:
        identity = str(arguments.get(kind.id_key, ""))
        if tool.bare_id:
            if identity.startswith(kind.prefix):
                return self.error("invalid_argument", f"{kind.id_key} must not have the prefix {kind.prefix}")
            identity = kind.prefix + identity
        record = kind.records.get(identity)
        if record is None:
            return self.error("not_found", f"{kind.noun} {arguments.get(kind.id_key)} not found")
        if tool.sort == "get":
            return Answer(dumps(self._fresh.pop(identity, record)))
        before = dict(record)
        problem = self._apply(tool, kind, record, arguments)
        if problem is not None:
            return problem
        if self.stale_reads:
            self._fresh[identity] = before
        return Answer(self._echo(tool, kind, before, record))

    def _apply(self, tool: Tool, kind: Kind, record: Record, arguments: dict[str, Any]) -> Answer | None:
        if tool.sort == "act":
            if record["status"] not in tool.needs:
                return self.error("conflict", f"{kind.noun} is {record['status']}")
            record["status"] = tool.gives
            return None
        value = arguments.get(tool.field)
        if tool.cents:
            if not isinstance(value, int) or isinstance(value, bool):
                return self.error("invalid_argument", f"{tool.field} must be an integer number of cents")
            value = Cents(value) if isinstance(record[tool.field], Cents) else value / 100
        record[tool.field] = value
        return None

    def _echo(self, tool: Tool, kind: Kind, before: Record, after: Record) -> str:
        if tool.echo == "ok":
            return dumps({"ok": True})
        if tool.echo == "change":
            changed = {k: v for k, v in after.items() if before.get(k) != v}
            return dumps({kind.id_key: after[kind.id_key], **changed})
        return dumps({"ok": True, kind.noun: after} if tool.echo == "wrapped" else after)

    def _search(self, tool: Tool, kind: Kind, arguments: dict[str, Any]) -> Answer:
        query = str(arguments.get("query", ""))
        fields = [kind.title] if kind.title else list(kind.fields)
        hits = [r for r in kind.records.values() if any(query in str(r[f]) for f in fields)]
        page = arguments.get("page", 1)
        start = (page - 1) * self.page_size if isinstance(page, int) and page > 0 else 0
        end = start + self.page_size
        return Answer(dumps({"results": [self._listed(kind, r) for r in hits[start:end]], "more": len(hits) > end}))

    def _listed(self, kind: Kind, record: Record) -> Record | str:
        """A record as an entry of a list."""
        if not kind.title:
            return {k: record[k] for k in list(record)[:3]}
        if self.list_style == "object":
            return {kind.title: record[kind.title], kind.id_key: record[kind.id_key]}
        return self.list_style.format(t=record[kind.title], i=record[kind.id_key])

    def error(self, code: str, message: str) -> Answer:
        body = {
            "code": dumps({"error": code, "message": message}),
            "text": f"Error: {message}",
            "nested": dumps({"error": {"code": code, "message": message}}),
            "flag": dumps({"ok": False, "reason": message}),
        }[self.error_style]
        return Answer(body, code)
