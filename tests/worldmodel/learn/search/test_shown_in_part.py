"""What is shown in part (`+49******7090`), and calls that must say a part of what is known (the last four digits)."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.expressions import evaluate
from worldmodel.derive.functions import apply
from worldmodel.derive.values import UNKNOWN
from worldmodel.learn.induce import induce
from worldmodel.learn.rows import Rows
from worldmodel.learn.search.functions import masks
from worldmodel.steps import OK, Step, outcome_of


def hotline(k: int) -> list[Step]:
    """Accounts: a code is sent to a part of an address; a caller is let in by the last digits of the phone."""
    rng = random.Random(f"hotline {k}")
    name = rng.choice(["ann", "bob", "cleo", "dirk", "eva"]) + str(rng.randrange(10, 99))
    phone = f"+49{rng.randrange(10**9, 10**10)}"
    account = {"account": f"A-{rng.randrange(1000, 9999)}", "mail": f"{name}@mail.example", "phone": phone,
               "card": str(rng.randrange(10**15, 10**16))}  # fmt: skip
    steps = [Step("get_account", {"account": account["account"]}, json.dumps(account), OK)]
    for _ in range(4):
        if rng.random() < 0.5:
            sent: dict[str, Any] = {"mail": f"{account['mail'][0]}***@mail.example", "sms": phone[:3] + "*" * 6
                                    + phone[-4:], "card": f"**** **** **** {account['card'][-4:]}"}  # fmt: skip
            steps.append(Step("send_code", {"account": account["account"]}, json.dumps(sent), OK))
        else:
            digits = phone[-4:] if rng.random() < 0.5 else str(rng.randrange(1000, 9999))
            fine = phone.endswith(digits)
            content = json.dumps({"open": True} if fine else {"error": "Those are not the digits."})
            steps.append(Step("let_in", {"account": account["account"], "digits": digits}, content,
                              OK if fine else outcome_of(content, True, "")))  # fmt: skip
    return steps


RULES, FACTS = induce({f"c{k}": hotline(k) for k in range(80)})
ANN = {"account": "A-1", "mail": "ann11@mail.example", "phone": "+490123456789", "card": "4000300020001000"}


def asked() -> Session:
    session = Session(Engine(RULES, FACTS))
    session.told("get_account", {"account": "A-1"}, json.dumps(ANN), OK)
    return session


def test_a_text_may_be_shown_in_part() -> None:
    answer = asked().derive("send_code", {"account": "A-1"})
    assert answer is not None and json.loads(answer.content or "{}") == {
        "mail": "a***@mail.example", "sms": "+49******6789", "card": "**** **** **** 1000"}  # fmt: skip


@pytest.mark.parametrize(("digits", "fine"), [("6789", True), ("0000", False), ("9876", False)])
def test_a_call_may_have_to_say_a_part_of_what_is_known(digits: str, fine: bool) -> None:
    answer = asked().derive("let_in", {"account": "A-1", "digits": digits})
    assert answer is not None and (answer.outcome == OK) is fine


def test_nothing_is_hidden_where_nothing_is_left() -> None:
    assert apply("masked", ("abcdef", "2*2")) == "ab**ef"
    assert apply("masked", ("ab", "2*2")) is UNKNOWN and apply("masked", ("abc", "1***@")) is UNKNOWN
    assert apply("masked", ("abcdef", "@")) is UNKNOWN


@pytest.mark.parametrize(("value", "text"), [
    ("rob@x.example", "r**@x.example"), ("carla@z.example", "c****@z.example"), ("order-1234", "****1234"),
])  # fmt: skip
def test_ways_to_hide_a_part(value: str, text: str) -> None:
    rows = Rows([{"arg/a": value[:1] + str(k) + value[1:]} for k in range(8)])
    hidden = [text[:1] + "*" + text[1:] if "@" in text else text for _ in range(8)]
    found = masks(rows, hidden, range(8))
    assert any(evaluate(way, row) == goal for way in found for row, goal in zip(rows.rows, hidden, strict=True))


def test_no_text_is_hidden_by_words() -> None:
    assert apply("masked", ("abc", "hello")) is UNKNOWN


def test_a_long_text_is_not_looked_through() -> None:
    assert masks(Rows([{"arg/a": "x"}]), ["xx " * 5000 + "1#q#"], [0]) == []
