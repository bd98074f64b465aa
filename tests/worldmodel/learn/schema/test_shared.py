"""What all conversations share, what tools write in other ways, and what a write changes that only its answer names."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from worldmodel.derive.engine import Engine, Session
from worldmodel.learn.induce import induce, learn_rules
from worldmodel.steps import Step, outcome_of

Rows = dict[str, dict[str, Any]]


def said(tool: str, arguments: dict[str, Any], body: Any) -> Step:
    text = json.dumps(body)
    return Step(tool, arguments, text, outcome_of(text, None, ""))


WINGS = {"N": "North", "S": "South", "E": "East"}


def start() -> tuple[Rows, Rows]:
    """Guests and their cases: the same at the start of every conversation."""
    rng = random.Random("hotel")
    guests = {f"G{n}": {"guest": f"G{n}", "phone": f"+49 {rng.randrange(100, 999)} {rng.randrange(10**6, 10**7)}",
                        "floor": rng.randrange(9), "held": 0, "wing": "NSE"[n % 3]} for n in range(10, 40)}  # fmt: skip
    cases = {}
    for n in range(100, 160):
        owner = rng.choice(list(guests))
        cases[f"K{n}"] = {"case": f"K{n}", "guest": owner, "kilos": rng.randrange(5, 30), "out": False}
        guests[owner]["held"] += 1
    return guests, cases


def day(k: int) -> list[Step]:
    """A list shows the end of a phone number only, and the names of wings for their letters. Who hands out a case names
    the case; the answer says whose it was, and that guest holds one less."""
    rng, (guests, cases), steps = random.Random(f"shared {k}"), start(), list[Step]()
    for _ in range(3):
        floor = rng.randrange(9)
        there = [guest for guest in guests.values() if guest["floor"] == floor]
        short = [{"guest": guest["guest"], "phone": f"***{guest['phone'][-4:]}", "wing": WINGS[guest["wing"]]}
                 for guest in there]  # fmt: skip
        case = cases[rng.choice(list(cases))]
        guest = guests[case["guest"]]
        steps += [said("on_floor", {"floor": floor}, {"guests": short})] * rng.choice([0, 1])
        steps += [said("guest", {"guest": one["guest"]}, guests[one["guest"]]) for one in short[:2]]
        steps.append(said("guest", {"guest": guest["guest"]}, guest))
        if rng.random() < 0.7:
            if case["out"]:
                steps.append(said("hand_out", {"case": case["case"]}, {"error": f"{case['case']} is out already"}))
            else:
                case["out"] = True
                guest["held"] -= 1
                steps.append(said("hand_out", {"case": case["case"]}, {"case": case["case"], "guest": guest["guest"]}))
            steps += [said("guest", {"guest": guest["guest"]}, dict(guest))] * rng.choice([1, 1, 2])
    return steps


DAYS = {f"c{k}": day(k) for k in range(60)}
RULES, FACTS = induce(DAYS)


def answered(session: Session, tool: str, arguments: dict[str, Any]) -> Any:
    found = session.derive(tool, arguments, 0, accidents=False)
    return None if found is None or found.content is None else json.loads(found.content)


def test_reads_that_show_a_record_otherwise_change_nothing() -> None:
    assert RULES.writes == ("hand_out",)
    listed = next(site for site in RULES.schema.sites if site.tool == "on_floor" and site.path == "guests[]")
    alone = next(site for site in RULES.schema.sites if site.tool == "guest")
    assert listed.type == alone.type
    for name in ("phone", "wing"):
        assert {listed.alias.get(name, name), alone.alias.get(name, name)} in (
            {name, f"{name}@on_floor"}, {name, f"{name}@guest"})  # fmt: skip


def test_a_new_conversation_knows_what_all_share() -> None:
    guests, _ = start()
    session = Session(Engine(RULES, FACTS))
    known = [name for name, guest in guests.items() if answered(session, "guest", {"guest": name}) == guest]
    seen = {step.arguments["guest"] for steps in DAYS.values() for step in steps if step.tool == "guest"}
    assert len(known) >= 0.9 * len(seen)


def test_a_write_changes_the_record_that_only_its_answer_names() -> None:
    guests, cases = start()
    session = Session(Engine(RULES, FACTS))
    case = next(c for c in cases.values() if answered(session, "guest", {"guest": c["guest"]}) is not None)
    out = said("hand_out", {"case": case["case"]}, {"case": case["case"], "guest": case["guest"]})
    session.told(out.tool, out.arguments, out.content, out.outcome)
    guest = guests[case["guest"]]
    assert answered(session, "guest", {"guest": case["guest"]}) == {**guest, "held": guest["held"] - 1}


def test_a_conversation_does_not_learn_from_what_it_alone_has_shown() -> None:
    _, shared = learn_rules({**DAYS, "other": [said("guest", {"guest": "G77"}, {"guest": "G77", "phone": "+49 7 7",
                             "floor": 3, "held": 1})]})  # fmt: skip
    mark = next(mark for mark in shared.facts if mark[1] == ("G77",))
    assert "phone" in "".join(shared.facts[mark]) and "floor" in shared.facts[mark]
    assert mark in shared.but_of("c1") and mark not in shared.but_of("other")
    with pytest.raises(KeyError):
        shared.but_of("other")[mark]
    gone = {mark for mark in shared.facts if "G77" in repr(mark)}
    assert dict(shared.but_of("other")).keys() == shared.facts.keys() - gone and len(gone) == 2


def test_reads_are_answered_as_to_all_until_something_is_written() -> None:
    guests, cases = start()
    session = Session(Engine(RULES, FACTS))
    asked = {"floor": next(guest["floor"] for guest in guests.values())}
    found = session.derive("on_floor", asked, 0, accidents=False)
    assert found is not None and found.rule == "on_floor: as in all conversations"
    there = [guest for guest in guests.values() if guest["floor"] == asked["floor"]]
    assert [one["guest"] for one in json.loads(found.content or "")["guests"]] == [one["guest"] for one in there]
    case = next(iter(cases.values()))
    out = said("hand_out", {"case": case["case"]}, {"case": case["case"], "guest": case["guest"]})
    session.told(out.tool, out.arguments, out.content, out.outcome)
    later = session.derive("on_floor", asked, 0, accidents=False)
    assert later is None or later.rule != "on_floor: as in all conversations"
