"""Records that calls name by another field than their key."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.values import is_alike
from worldmodel.learn.induce import induce
from worldmodel.steps import Step, outcome_of

FIRST, LAST = ["Ada", "Bo", "Cleo", "Dan", "Eve"], ["Quill", "Rook", "Sand", "Tarn", "Umber"]


@pytest.mark.parametrize(("left", "right", "alike"), [
    ("+49 175 5270160", "01755270160", True), ("491755270160", "01755270160", True),
    (491755270160, "0175-5270160", True),
    ("Ada.Quill@mail.example", "ada.quill@mail.example", True), ("+49 175 5270160", "+43 664 5270160", False),
    ("ada@mail.example", "bo@mail.example", False), ("2025-06-16", "2025-06-16", False), ("ann", "ann", False),
    ("5270160", None, False), (True, True, False),
])  # fmt: skip
def test_what_says_the_same(left: Any, right: Any, alike: bool) -> None:
    assert is_alike(left, right) == alike == is_alike(right, left)


def member(k: int) -> dict[str, Any]:
    rng = random.Random(f"member {k}")
    first, last = FIRST[k % 5], LAST[k // 5 % 5]
    return {"member_id": f"M{4000 + 7 * k}", "name": f"{first} {last}", "boat": rng.choice(["Teal", "Coot", "Smew"]),
            "email": f"{first}.{last}@club.example".lower(), "phone": f"+44 20 {rng.randrange(7000000, 7999999)}"}


MEMBERS = [member(k) for k in range(25)]


def said(tool: str, arguments: dict[str, Any], answer: Any) -> Step:
    text = json.dumps(answer)
    return Step(tool, arguments, text, outcome_of(text, None, ""))


def shown(one: dict[str, Any], how: str) -> Step:
    asked = {"id": {"member_id": one["member_id"]}, "email": {"email": one["email"].title()},
             "phone": {"phone": "0" + one["phone"].replace(" ", "")[3:]}}[how]  # fmt: skip
    return said("show_member", asked, one)


def day(k: int) -> list[Step]:
    """All conversations have the same members; each looks at some."""
    rng = random.Random(f"club {k}")
    return [shown(one, rng.choice(["id", "email", "phone"])) for one in rng.sample(MEMBERS, 3)]


ENGINE = Engine(*induce({f"c{k}": day(k) for k in range(60)}))


def answered(session: Session, step: Step) -> Any:
    found = session.derive(step.tool, step.arguments, 0, accidents=False)
    return None if found is None or found.content is None else json.loads(found.content)


def test_the_fields_are_learned() -> None:
    link = next(link for link in ENGINE.rules.schema.links["show_member"] if link.found_by)
    assert link.found_by == (("email", "email"), ("phone", "phone"))


@pytest.mark.parametrize("how", ["id", "email", "phone"])
def test_a_shared_record_is_found_by_any_of_them(how: str) -> None:
    session = Session(ENGINE)
    assert all(answered(session, shown(one, how)) == one for one in MEMBERS)


def test_what_two_records_say_finds_none() -> None:
    session, asked = Session(ENGINE), {"email": MEMBERS[0]["email"]}
    link = next(link for link in ENGINE.rules.schema.links["show_member"] if link.found_by)
    assert session.store.found_by(link.type, link.found_by, asked) == (MEMBERS[0]["member_id"],)
    double = {**member(100), **asked}
    step = said("show_member", {"member_id": double["member_id"]}, double)
    session.told(step.tool, step.arguments, step.content, step.outcome)
    assert session.store.found_by(link.type, link.found_by, asked) is None
