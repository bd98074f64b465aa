"""Systems that say what day it is: another one in each conversation."""

from __future__ import annotations

import json
import random
from typing import Any

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.schema import CLOCK
from worldmodel.learn.induce import induce
from worldmodel.steps import OK, Step


def registry(k: int) -> list[Step]:
    """Files that are opened and closed today, and people with a birthday of their own."""
    rng = random.Random(f"registry {k}")
    today = f"2025-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
    born = {f"P-{rng.randrange(1000, 9999)}": f"19{rng.randrange(50, 99)}-0{rng.randrange(1, 9)}-11" for _ in range(2)}
    files = {f"F-{rng.randrange(10000, 99999)}": f"2024-0{rng.randrange(1, 9)}-1{k}" for k in range(2)}
    steps = []

    def said(tool: str, arguments: dict[str, Any], body: dict[str, Any]) -> None:
        steps.append(Step(tool, arguments, json.dumps(body), OK))

    for _ in range(6):
        person = rng.choice(list(born))
        number = rng.choice(list(files))
        tool = rng.choice(["get_person", "open_file", "close_file", "get_file"])
        if tool == "get_person":
            said(tool, {"person": person}, {"person": person, "born": born[person]})
        elif tool == "open_file":
            number = f"F-{rng.randrange(10000, 99999)}"
            files[number] = today
            said("open_file", {"person": person}, {"file": number, "opened_on": today, "born": born[person]})
        elif tool == "close_file":
            said(tool, {"file": number}, {"file": number, "closed_on": today})
        else:
            said(tool, {"file": number}, {"file": number, "opened_on": files[number]})
    return steps


DAYS = {f"c{k}": registry(k) for k in range(80)}
RULES, FACTS = induce(DAYS)


def test_fields_that_say_the_day_are_found_and_birthdays_are_not() -> None:
    assert RULES.schema.clock == {"close_file": ("closed_on",), "open_file": ("opened_on",)}


def test_what_is_done_is_done_on_the_day_that_was_said() -> None:
    session = Session(Engine(RULES, FACTS))
    opened_file = {"file": "F-11111", "opened_on": "2031-05-06", "born": "1970-01-11"}
    session.told("open_file", {"person": "P-1"}, json.dumps(opened_file), OK)
    answer = session.derive("close_file", {"file": "F-22222"})
    assert answer is not None and answer.known.get("closed_on") == "2031-05-06"


def test_a_day_that_the_call_says_is_not_today() -> None:
    session = Session(Engine(RULES, FACTS))
    said: list[tuple[dict[str, Any], str]] = [
        ({}, "2031-05-06"),
        ({"date": "2032-01-01"}, "2032-01-01"),
        ({"at": {"day": "2033-02-03T10:00"}}, "2033-02-03"),
    ]
    for arguments, day in said:
        body = {"file": "F-11111", "closed_on": day}
        session.told("close_file", {"file": "F-11111", **arguments}, json.dumps(body), OK)
        assert session.store.now[CLOCK] == "2031-05-06"


def shop(k: int) -> list[Step]:
    """One order a conversation, whose date its returns show."""
    rng = random.Random(f"shop {k}")
    order, day = f"O-{rng.randrange(1000, 9999)}", f"2025-0{rng.randrange(1, 9)}-{rng.randrange(10, 29)}"
    items = [f"I-{rng.randrange(100, 999)}" for _ in range(3)]
    return [Step("return_item", {"order": order, "item": item}, json.dumps({"item": item, "ordered_on": day}), OK)
            for item in items]  # fmt: skip


def test_the_date_of_the_one_record_of_a_conversation_is_not_the_day() -> None:
    assert induce({f"c{k}": shop(k) for k in range(60)})[0].schema.clock == {}
