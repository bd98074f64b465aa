"""Small random systems with known rules, for measuring how much of a system the world's rules recover.

A system is drawn from a seed: record types with keys of different styles, fields, links between records, reads (one,
list, count), writes (set, add, append, transfer, create), guards with error texts, answers with or without an envelope,
terse or whole, a verification that writes need, session state, and transient faults. Every answer knows whether what
the conversation showed before determines it.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from worldmodel.steps import OK, Step

WORDS = "amber basil cedar delta ember fjord grove haven inlet jetty knoll larch maple north ocean pearl quartz".split()
NOUNS = "ticket account parcel booking device invoice claim course permit vehicle project sample".split()


@dataclass
class Kind:
    """One record type: how its ids look, and its fields."""

    name: str
    key: tuple[str, ...]
    style: str
    states: list[str]
    amount: str
    label: str
    extra: list[str]
    parent: Kind | None = None
    tags: str | None = None


@dataclass
class Tool:
    name: str
    run: Callable[[Session, dict[str, Any]], Any]
    draw: Callable[[Session, random.Random], dict[str, Any]]
    write: bool = False
    error_codes: bool = False


class Refusal(Exception):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


@dataclass
class Session:
    """One conversation: its records, and what of them it has been shown."""

    system: System
    rng: random.Random
    records: dict[tuple[str, tuple[Any, ...]], dict[str, Any]] = field(default_factory=dict)
    known: set[tuple[Any, ...]] = field(default_factory=set)
    verified: set[Any] = field(default_factory=set)
    counter: int = 0
    faulted: bool = False
    determined: bool = True

    def need(self, *cell: Any) -> None:
        """The answer depends on this: without having been shown it, nobody can know the answer."""
        if cell not in self.known:
            self.determined = False

    def show(self, *cell: Any) -> None:
        self.known.add(cell)


class System:
    """A random system; `conversation` records one run of a random agent in it."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(f"system {seed}")
        self.envelope = rng.choice([None, None, "data", "result"])
        self.json_errors = rng.random() < 0.5
        self.fault_rate = rng.choice([0.0, 0.0, 0.05, 0.12])
        self.terse = rng.random() < 0.5
        self.needs_check = rng.random() < 0.5
        self.fee = rng.choice([0, 5, 25])
        self.factor = rng.choice([1, 2, 0.5])
        names = rng.sample(NOUNS, 3)
        styles = rng.sample(["prefixed", "slug", "small", "composite", "mail"], 3)
        self.kinds = [self._kind(n, s, rng) for n, s in zip(names, styles, strict=True)]
        self.kinds[1].parent = self.kinds[0]
        self.tools = self._make_tools(rng)

    def _kind(self, name: str, style: str, rng: random.Random) -> Kind:
        key = (f"{name}_id",) if style != "composite" else (rng.choice(["owner", "region"]), f"{name}_no")
        states = rng.sample(["open", "active", "held", "closed", "frozen", "done", "new", "sent"], 4)
        amount = rng.choice(["amount", "balance", "quota", "credits"])
        extra = rng.sample(["city", "tier", "colour", "created_on"], 2)
        tags = rng.choice([None, "tags", "notes"])
        return Kind(name, key, style, states, amount, rng.choice(["label", "title"]), extra, tags=tags)

    # ----- records

    def new_id(self, kind: Kind, rng: random.Random) -> tuple[Any, ...]:
        if kind.style == "prefixed":
            return (f"{kind.name[:2].upper()}-{rng.randrange(1000, 99999)}",)
        if kind.style == "slug":
            return ("-".join(rng.choice(WORDS) for _ in range(3)),)
        if kind.style == "small":
            return (rng.randrange(1, 400),)
        if kind.style == "mail":
            return (f"{rng.choice(WORDS)}.{rng.choice(WORDS)}{rng.choice(string.ascii_lowercase)}@example.org",)
        return (rng.choice(WORDS), rng.randrange(1, 300))

    def new_record(self, kind: Kind, rng: random.Random) -> dict[str, Any]:
        record: dict[str, Any] = {"status": rng.choice(kind.states), kind.amount: rng.randrange(10, 400)}
        record[kind.label] = f"{rng.choice(WORDS)} {rng.choice(WORDS)}"
        for name in kind.extra:
            record[name] = (
                f"2026-0{rng.randrange(1, 9)}-1{rng.randrange(10)}" if name == "created_on" else rng.choice(WORDS)
            )
        if kind.tags:
            record[kind.tags] = rng.sample(WORDS, rng.randrange(0, 3))
        return record

    def session(self, rng: random.Random) -> Session:
        session = Session(self, rng)
        first, second, third = self.kinds
        for kind, count in ((first, 2), (third, 2)):
            for _ in range(count):
                session.records[(kind.name, self.new_id(kind, rng))] = self.new_record(kind, rng)
        for (name, key), _ in list(session.records.items()):
            if name == first.name:
                for _ in range(rng.randrange(1, 4)):
                    child = self.new_record(second, rng)
                    child[f"{first.name}_ref"] = key[0]
                    session.records[(second.name, self.new_id(second, rng))] = child
        return session

    # ----- tools

    def _make_tools(self, rng: random.Random) -> dict[str, Tool]:
        tools = []
        for kind in self.kinds:
            tools.append(self._get(kind))
            tools.append(self._set_status(kind, rng))
            tools.append(self._add_amount(kind, rng))
            if kind.tags:
                tools.append(self._append(kind))
        tools.append(self._list(self.kinds[1]))
        tools.append(self._count(self.kinds[1]))
        tools.append(self._transfer(self.kinds[0]))
        tools.append(self._create(self.kinds[1], rng))
        tools.append(self._quote(rng))
        tools += self._session_tools(rng)
        if self.needs_check:
            tools.append(self._verify(self.kinds[0]))
        return {tool.name: tool for tool in tools}

    def _arguments(self, kind: Kind, key: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(kind.key, key, strict=True))

    def _pick(self, session: Session, kind: Kind, rng: random.Random) -> tuple[Any, ...]:
        keys = [k for n, k in session.records if n == kind.name]
        if not keys or rng.random() < 0.08:
            return self._bad_id(kind, rng)
        return rng.choice(keys)

    def _bad_id(self, kind: Kind, rng: random.Random) -> tuple[Any, ...]:
        """An id that production refuses by its form."""
        if kind.style == "prefixed":
            return (f"{kind.name[:2].upper()}{rng.randrange(1000, 99999)}",)
        if kind.style == "slug":
            return (rng.choice(WORDS),)
        if kind.style == "small":
            return (rng.randrange(5000, 9999),)
        if kind.style == "mail":
            return (f"{rng.choice(WORDS)}.{rng.choice(WORDS)}",)
        return (rng.choice(WORDS), rng.randrange(5000, 9999))

    def _find(self, session: Session, kind: Kind, arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        key = tuple(arguments[name] for name in kind.key)
        record = session.records.get((kind.name, key))
        if record is None:
            raise Refusal("not_found", f"{kind.name} {' / '.join(map(str, key))} does not exist")
        return key, record

    def _view(
        self, session: Session, kind: Kind, key: tuple[Any, ...], fields: list[str] | None = None
    ) -> dict[str, Any]:
        record = session.records[(kind.name, key)]
        view = self._arguments(kind, key)
        for name, value in record.items():
            if fields is None or name in fields:
                session.need(kind.name, key, name)
                session.show(kind.name, key, name)
                view[name] = value
        return view

    def _get(self, kind: Kind) -> Tool:
        def run(session: Session, arguments: dict[str, Any]) -> Any:
            key, _ = self._find(session, kind, arguments)
            return self._view(session, kind, key)

        return Tool(f"get_{kind.name}", run, lambda s, r: self._arguments(kind, self._pick(s, kind, r)))

    def _check(self, session: Session, kind: Kind, key: tuple[Any, ...]) -> None:
        if self.needs_check and kind is self.kinds[0] and key[0] not in session.verified:
            raise Refusal("not_verified", f"verify {key[0]} first")

    def _done(self, session: Session, kind: Kind, key: tuple[Any, ...]) -> Any:
        return {"ok": True} if self.terse else self._view(session, kind, key)

    def _set_status(self, kind: Kind, rng: random.Random) -> Tool:
        start, target = rng.sample(kind.states, 2)

        def run(session: Session, arguments: dict[str, Any]) -> Any:
            key, record = self._find(session, kind, arguments)
            self._check(session, kind, key)
            session.need(kind.name, key, "status")
            if record["status"] != start:
                raise Refusal("conflict", f"{kind.name} is {record['status']}")
            record["status"] = target
            session.show(kind.name, key, "status")
            return self._done(session, kind, key)

        verb = rng.choice(["finish", "release", "settle"])
        return Tool(f"{verb}_{kind.name}", run, lambda s, r: self._arguments(kind, self._pick(s, kind, r)), True)

    def _add_amount(self, kind: Kind, rng: random.Random) -> Tool:
        sign, limit = rng.choice([1, -1]), rng.choice([100, 250])
        verb = "charge" if sign < 0 else "credit"

        def run(session: Session, arguments: dict[str, Any]) -> Any:
            key, record = self._find(session, kind, arguments)
            self._check(session, kind, key)
            if arguments["sum"] > limit:
                raise Refusal("invalid_argument", f"sum must be at most {limit}")
            session.need(kind.name, key, kind.amount)
            if sign < 0 and record[kind.amount] < arguments["sum"]:
                raise Refusal("insufficient", f"only {record[kind.amount]} left")
            record[kind.amount] += sign * arguments["sum"]
            session.show(kind.name, key, kind.amount)
            return self._done(session, kind, key)

        def draw(session: Session, r: random.Random) -> dict[str, Any]:
            return {**self._arguments(kind, self._pick(session, kind, r)), "sum": r.randrange(1, int(1.2 * limit))}

        return Tool(f"{verb}_{kind.name}", run, draw, True)

    def _append(self, kind: Kind) -> Tool:
        def run(session: Session, arguments: dict[str, Any]) -> Any:
            key, record = self._find(session, kind, arguments)
            assert kind.tags
            session.need(kind.name, key, kind.tags)
            if arguments["item"] in record[kind.tags]:
                raise Refusal("duplicate", f"{arguments['item']} is already there")
            record[kind.tags] = [*record[kind.tags], arguments["item"]]
            session.show(kind.name, key, kind.tags)
            return self._done(session, kind, key)

        def draw(session: Session, r: random.Random) -> dict[str, Any]:
            return {**self._arguments(kind, self._pick(session, kind, r)), "item": r.choice(WORDS)}

        return Tool(f"annotate_{kind.name}", run, draw, True)

    def _list(self, kind: Kind) -> Tool:
        parent = kind.parent
        assert parent

        def run(session: Session, arguments: dict[str, Any]) -> Any:
            key, _ = self._find(session, parent, arguments)
            found = [k for (n, k), v in session.records.items() if n == kind.name and v[f"{parent.name}_ref"] == key[0]]
            session.need("members", key)
            session.show("members", key)
            return {"items": [self._view(session, kind, k, ["status", kind.label]) for k in found], "total": len(found)}

        return Tool(f"list_{kind.name}s", run, lambda s, r: self._arguments(parent, self._pick(s, parent, r)))

    def _count(self, kind: Kind) -> Tool:
        parent = kind.parent
        assert parent

        def run(session: Session, arguments: dict[str, Any]) -> Any:
            key, _ = self._find(session, parent, arguments)
            session.need("members", key)
            n = sum(1 for (x, _), v in session.records.items() if x == kind.name and v[f"{parent.name}_ref"] == key[0])
            return {"count": n}

        return Tool(f"count_{kind.name}s", run, lambda s, r: self._arguments(parent, self._pick(s, parent, r)))

    def _transfer(self, kind: Kind) -> Tool:
        fee = self.fee

        def run(session: Session, arguments: dict[str, Any]) -> Any:
            ends = []
            for side in ("source", "target"):
                key = tuple(arguments[f"{side}_{name}"] for name in kind.key)
                if (kind.name, key) not in session.records:
                    raise Refusal("not_found", f"{side} {' / '.join(map(str, key))} does not exist")
                ends.append(key)
            self._check(session, kind, ends[0])
            source, target = (session.records[(kind.name, k)] for k in ends)
            session.need(kind.name, ends[0], kind.amount)
            if source[kind.amount] < arguments["sum"] + fee:
                raise Refusal("insufficient", f"needs {arguments['sum'] + fee}, has {source[kind.amount]}")
            if (kind.name, ends[1], kind.amount) not in session.known:
                session.known.discard((kind.name, ends[1], kind.amount))
            source[kind.amount] -= arguments["sum"] + fee
            target[kind.amount] += arguments["sum"]
            return {"moved": arguments["sum"], "charged": arguments["sum"] + fee}

        def draw(session: Session, r: random.Random) -> dict[str, Any]:
            keys = [k for n, k in session.records if n == kind.name]
            a, b = r.sample(keys, 2) if len(keys) > 1 else (keys[0], keys[0])
            named = {f"source_{n}": v for n, v in zip(kind.key, a, strict=True)}
            return {**named, **{f"target_{n}": v for n, v in zip(kind.key, b, strict=True)}, "sum": r.randrange(1, 200)}

        return Tool(f"transfer_{kind.amount}", run, draw, True)

    def _create(self, kind: Kind, rng: random.Random) -> Tool:
        parent = kind.parent
        assert parent
        state = rng.choice(kind.states)

        def run(session: Session, arguments: dict[str, Any]) -> Any:
            key, _ = self._find(session, parent, arguments)
            made = self.new_id(kind, session.rng)
            record = self.new_record(kind, session.rng)
            record.update(
                {"status": state, kind.label: arguments["named"], kind.amount: 0, f"{parent.name}_ref": key[0]}
            )
            session.records[(kind.name, made)] = record
            session.determined = False  # a minted id
            return self._view(session, kind, made)

        def draw(session: Session, r: random.Random) -> dict[str, Any]:
            return {
                **self._arguments(parent, self._pick(session, parent, r)),
                "named": f"{r.choice(WORDS)} {r.choice(WORDS)}",
            }

        return Tool(f"create_{kind.name}", run, draw, True)

    def _quote(self, rng: random.Random) -> Tool:
        fee, factor = self.fee, self.factor

        def run(session: Session, arguments: dict[str, Any]) -> Any:
            if arguments["units"] < 1:
                raise Refusal("invalid_argument", "units must be positive")
            return {"total": arguments["units"] * arguments["price"] * factor + fee, "units": arguments["units"]}

        return Tool("quote", run, lambda s, r: {"units": r.randrange(0, 9), "price": r.randrange(2, 60)})

    def _session_tools(self, rng: random.Random) -> list[Tool]:
        """A mode and a level that belong to the session, not to a record; one locks the other."""

        def set_level(session: Session, arguments: dict[str, Any]) -> Any:
            session.need("locked")
            if session.records[("session", ())]["locked"]:
                raise Refusal("locked", "panel is locked")
            session.need("level")
            state = session.records[("session", ())]
            state["level"] = state["level"] + arguments["by"]
            session.show("level")
            return {"level": state["level"]}

        def lock(session: Session, arguments: dict[str, Any]) -> Any:
            session.records[("session", ())]["locked"] = arguments["on"]
            session.show("locked")
            return {"ok": True} if self.terse else {"locked": arguments["on"]}

        def panel(session: Session, arguments: dict[str, Any]) -> Any:
            state = session.records[("session", ())]
            for name in ("level", "locked"):
                session.need(name)
                session.show(name)
            return dict(state)

        return [
            Tool("raise_level", set_level, lambda s, r: {"by": r.randrange(1, 6)}, True),
            Tool("lock_panel", lock, lambda s, r: {"on": r.random() < 0.5}, True),
            Tool("show_panel", panel, lambda s, r: {}),
        ]

    def _verify(self, kind: Kind) -> Tool:
        def run(session: Session, arguments: dict[str, Any]) -> Any:
            key, _ = self._find(session, kind, arguments)
            session.verified.add(key[0])
            return {"verified": True}

        return Tool(f"verify_{kind.name}", run, lambda s, r: self._arguments(kind, self._pick(s, kind, r)), True)

    # ----- runs

    def conversation(self, seed: object, length: int = 14) -> list[tuple[Step, bool]]:
        """The calls of one random agent, each with whether the conversation before it determines its answer."""
        rng = random.Random(f"run {seed}")
        session = self.session(rng)
        session.records[("session", ())] = {"level": rng.randrange(0, 50), "locked": False}
        session.known.add(("locked",))
        out: list[tuple[Step, bool]] = []
        names = list(self.tools)
        queue: list[tuple[str, dict[str, Any]]] = []
        while len(out) < length:
            if queue:
                name, arguments = queue.pop(0)
            else:
                name = rng.choice(names)
                arguments = self.tools[name].draw(session, rng)
                queue += self._around(name, arguments, rng)
                if self.tools[name].write and rng.random() < 0.75 and queue:
                    queue = [*queue, (name, arguments), *queue]
                    name, arguments = queue.pop(0)
            out.append(self._call(session, name, arguments, rng))
        return out

    def _around(self, name: str, arguments: dict[str, Any], rng: random.Random) -> list[tuple[str, dict[str, Any]]]:
        """The reads that an agent makes before and after a write: of the records that it names."""
        if not self.tools[name].write:
            return []
        reads = []
        for kind in self.kinds:
            for side in ("", "source_", "target_"):
                if all(f"{side}{part}" in arguments for part in kind.key):
                    reads.append((f"get_{kind.name}", {part: arguments[f"{side}{part}"] for part in kind.key}))
        if name in ("raise_level", "lock_panel"):
            reads.append(("show_panel", {}))
        return [r for r in reads if rng.random() < 0.85]

    def _call(self, session: Session, name: str, arguments: dict[str, Any], rng: random.Random) -> tuple[Step, bool]:
        session.determined = True
        if self.fault_rate and not session.faulted and rng.random() < self.fault_rate:
            session.faulted = True
            return Step(name, arguments, self._error("timeout", "no answer in 5 s"), "timeout", 5000.0), False
        session.faulted = False
        known = set(session.known)
        try:
            body = self.tools[name].run(session, arguments)
        except Refusal as refusal:
            fine = session.determined or refusal.code == "not_found"
            session.known = known
            return Step(name, arguments, self._error(refusal.code, refusal.text), refusal.code), fine
        if self.envelope:
            body = {"success": True, self.envelope: body}
        return Step(name, arguments, json.dumps(body), OK), session.determined

    def _error(self, code: str, text: str) -> str:
        return json.dumps({"error": code, "message": text}) if self.json_errors else f"Error: {text}"
