"""Ids of what calls create, look-ups by several arguments, refusals that tools share, and limits of sums."""

from __future__ import annotations

import json
import random
from typing import Any

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.expressions import Select, Source, select
from worldmodel.derive.trees import Test
from worldmodel.derive.values import UNKNOWN
from worldmodel.learn.columns import Table
from worldmodel.learn.guards import grow
from worldmodel.learn.induce import induce
from worldmodel.steps import Step, outcome_of

TOWNS = ["Ur", "Eridu", "Kish", "Nippur", "Lagash"]


def said(tool: str, arguments: dict[str, Any], body: Any) -> Step:
    text = body if isinstance(body, str) else json.dumps(body)
    return Step(tool, arguments, text, outcome_of(text, None, ""))


def answered(session: Session, tool: str, arguments: dict[str, Any]) -> Any:
    found = session.derive(tool, arguments, 0, accidents=False)
    return None if found is None or found.content is None else json.loads(found.content)


def told(session: Session, steps: list[Step]) -> Session:
    for step in steps:
        session.told(step.tool, step.arguments, step.content, step.outcome)
    return session


def ferry(k: int) -> list[Step]:
    """Bookings whose numbers are the same in every conversation, since each starts the counter anew."""
    rng = random.Random(f"ferry {k}")
    steps, booked = [], dict[int, dict[str, Any]]()
    for _ in range(5):
        asked = {"card": rng.choice(["c1", "c2"]), "day": f"2026-0{rng.randrange(1, 9)}-1{rng.randrange(9)}",
                 "berth": rng.choice(["deck", "cabin"])}  # fmt: skip
        if rng.random() < 0.2:
            steps.append(said("book", asked, {"done": False, "error": "Card declined"}))
            continue
        number = 7001 + len(booked)
        booked[number] = {"day": asked["day"], "berth": asked["berth"]}
        steps.append(said("book", asked, {"done": True, "number": number}))
        if rng.random() < 0.7:
            which = rng.choice(list(booked))
            steps.append(said("ticket", {"number": which}, {"ticket": {"number": which, **booked[which]}}))
    return steps


def test_what_a_call_creates_is_found_by_the_number_that_its_answer_shows() -> None:
    rules, facts = induce({f"c{k}": ferry(k) for k in range(80)})
    assert {site.keys[0].source for site in rules.schema.sites if site.tool == "book"} == {"field/number"}
    session = Session(Engine(rules, facts))
    asked = [{"card": "c2", "day": f"2027-05-0{n}", "berth": berth} for n, berth in ((3, "deck"), (4, "cabin"))]
    told(session, [said("book", one, {"done": True, "number": 7001 + n}) for n, one in enumerate(asked)])
    for number, one in ((7001, asked[0]), (7002, asked[1])):
        ticket = {"number": number, "day": one["day"], "berth": one["berth"]}
        assert answered(session, "ticket", {"number": number}) == {"ticket": ticket}


def fares(k: int) -> list[Step]:
    """Fares that hang on both towns and the class; an answer repeats none of them. Who asks does not matter."""
    rng = random.Random(f"fares {k}")
    steps = []
    for _ in range(4):
        way = {"start": rng.choice(TOWNS), "end": rng.choice(TOWNS), "kind": rng.choice(["day", "night"])}
        fare = random.Random(repr(sorted(way.items()))).randrange(20, 400)
        steps += [said("fare", {**way, "desk": rng.choice("abc")}, {"fares": [fare]})] * rng.choice([1, 1, 2])
    return steps


def test_a_look_up_hangs_on_all_its_arguments_but_those_that_were_seen_not_to_matter() -> None:
    rules, _ = induce({f"c{k}": fares(k) for k in range(60)})
    (site,) = (site for site in rules.schema.sites if site.tool == "fare")
    assert {part.source for part in site.keys} == {"arg/start", "arg/end", "arg/kind"}
    asked = {"start": "A", "end": "B", "kind": "day", "desk": "a"}
    session = told(Session(Engine(rules)), [said("fare", asked, {"fares": [5]})])
    assert answered(session, "fare", {**asked, "desk": "c"}) == {"fares": [5]}
    assert answered(session, "fare", {**asked, "kind": "night"}) is None


def club(k: int) -> list[Step]:
    """Three tools refuse a visit by whoever has not joined. `sauna` is nearly always asked by members."""
    rng = random.Random(f"club {k}")
    members = [f"M{rng.randrange(1000, 9999)}" for _ in range(2)]
    steps = [said("join", {"member": m}, {"member": m, "since": 2020 + rng.randrange(6)}) for m in members]
    for tool in ("pool", "court", "sauna"):
        strange = rng.random() < 0.4 if tool != "sauna" else k == 7
        who = f"M{rng.randrange(1000, 9999)}" if strange else rng.choice(members)
        steps.append(said(tool, {"member": who}, {"error": "Not a member"} if strange else {"open": "welcome"}))
    return steps


def test_a_refusal_that_was_seen_once_hangs_on_what_it_hangs_on_elsewhere() -> None:
    rules, facts = induce({f"c{k}": club(k) for k in range(60)})
    joined = said("join", {"member": "M4711"}, {"member": "M4711", "since": 2021})
    session = told(Session(Engine(rules, facts)), [joined])
    assert answered(session, "sauna", {"member": "M4711"}) == {"open": "welcome"}
    assert answered(session, "sauna", {"member": "M9090"}) == {"error": "Not a member"}


def test_more_than_a_limit_is_told_from_a_sum_that_nobody_knows() -> None:
    rng = random.Random(5)
    rows = [{"arg/litres": rng.randrange(5, 40), "law/after": rng.randrange(20, 80)} for _ in range(24)]
    rows += [{"arg/litres": rng.randrange(5, 40)} for _ in range(80)]
    labels = ["refused" if row.get("law/after", 0) > 50 else "ok" for row in rows]
    tree = grow(Table(rows), labels)
    assert tree.test == Test("law/after", ">", max(r["law/after"] for r in rows[:24] if r["law/after"] <= 50))  # type: ignore[union-attr]


def test_bare_values_have_no_fields_to_choose() -> None:
    wanted = Select("rec/all", fields=("name",))
    assert select(wanted, {"rec/all": [{"name": "a", "size": 1}]}) == [{"name": "a"}]
    assert select(wanted, {"rec/all": ["a", "b"]}) is UNKNOWN
    assert Source("rec/all") != wanted
