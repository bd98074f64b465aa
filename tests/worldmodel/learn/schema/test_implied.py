"""Lists that leave out what their call says, and lists with which all conversations start."""

from __future__ import annotations

import json
import random
from typing import Any

from worldmodel.derive.engine import Engine, Session
from worldmodel.learn.induce import learn_rules
from worldmodel.steps import Step, outcome_of

GUESTS, DAYS, STATES = [f"G{n}" for n in range(10, 22)], [f"2027-05-{d:02d}" for d in range(1, 29)], ("open", "kept")


def said(tool: str, arguments: dict[str, Any], body: Any) -> Step:
    text = body if isinstance(body, str) else json.dumps(body)
    return Step(tool, arguments, text, outcome_of(text, None, ""))


class Surgery:
    """Visits, the same at the start of each conversation. A guest's list does not name the guest again. The next visit
    is always V900; `owed` groups the thousands."""

    def __init__(self) -> None:
        rng = random.Random("surgery")
        self.visits = [{"visit": f"V{100 + n}", "guest": rng.choice(GUESTS), "day": rng.choice(DAYS),
                        "state": rng.choice(STATES)} for n in range(30)]  # fmt: skip
        self.owed = {guest: rng.randrange(80_000, 400_000) / 100 for guest in GUESTS}

    def list(self, **asked: str) -> Step:
        found = [v for v in self.visits if all(v[n] == value for n, value in asked.items())]
        shown = [{n: v for n, v in visit.items() if n != "guest" or "guest" not in asked} for visit in found]
        return said("list_visits", asked, {"visits": sorted(shown, key=lambda v: v["visit"]), "count": len(shown)})

    def book(self, guest: str, day: str) -> Step:
        made = {"visit": f"V{900 + len(self.visits) - 30}", "guest": guest, "day": day, "state": "open"}
        self.visits.append(made)
        return said("book", {"guest": guest, "day": day}, {"visit": made["visit"], "state": "open"})

    def bill(self, guest: str) -> Step:
        return said("bill", {"guest": guest}, f"{guest} owes {self.owed[guest]:,.2f} in all.")

    def pay(self, guest: str, amount: float) -> Step:
        self.owed[guest] = round(self.owed[guest] - amount, 2)
        return said("pay", {"guest": guest, "amount": amount}, {"guest": guest, "paid": amount})


def day(k: int) -> list[Step]:
    rng, surgery, steps = random.Random(f"implied {k}"), Surgery(), list[Step]()
    for _ in range(3):
        guest = rng.choice(GUESTS)
        steps += [surgery.list(guest=guest), surgery.list(state=rng.choice(STATES), day=rng.choice(DAYS))]
        if rng.random() < 0.7:
            steps += [surgery.book(guest, rng.choice(DAYS)), surgery.list(guest=guest)]
        steps += [surgery.bill(guest), surgery.pay(guest, float(rng.randrange(5, 90))), surgery.bill(guest)]
    return steps


RULES, SHARED = learn_rules({f"c{k}": day(k) for k in range(60)})
ENGINE = Engine(RULES, SHARED.facts)


def asked(session: Session, tool: str, **arguments: Any) -> Any:
    found = session.derive(tool, arguments, 0, accidents=False)
    return None if found is None or found.content is None else json.loads(found.content)


def told(*steps: Step) -> Session:
    session = Session(ENGINE)
    for step in steps:
        session.told(step.tool, step.arguments, step.content, step.outcome)
    return session


def test_a_list_may_leave_out_what_its_call_says() -> None:
    assert RULES.schema.implied == {"list_visits": ("guest",)}
    assert RULES.schema.views["list_visits"][0].filters["guest"] == "guest"
    surgery = Surgery()
    session = told(surgery.list(guest="G12"), surgery.book("G12", "2027-05-07"))
    assert asked(session, "list_visits", guest="G12") == json.loads(surgery.list(guest="G12").content)


def test_a_list_that_all_conversations_start_with_is_known_after_a_write() -> None:
    """Though this conversation has not asked for it before; and what is booked has one id in all of them."""
    surgery = Surgery()
    session = told(surgery.book("G15", "2027-05-09"))
    assert asked(session, "list_visits", guest="G15") == json.loads(surgery.list(guest="G15").content)
    assert {"day", "state", "guest"} <= set(RULES.schema.shared["list_visits.visits[]"])


def test_amounts_with_commas_between_thousands_are_calculated_with() -> None:
    surgery = Surgery()
    session = told(surgery.bill("G17"), surgery.pay("G17", 25.0))
    found = session.derive("bill", {"guest": "G17"}, 0, accidents=False)
    assert found is not None and found.content == surgery.bill("G17").content and "," in found.content
