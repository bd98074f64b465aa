"""Lists that show all records which a call asks for, fields that another form leaves out, and values only some have."""

from __future__ import annotations

import json
import random
from typing import Any

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.schema import View
from worldmodel.learn.induce import induce
from worldmodel.sentences import describe_tool
from worldmodel.steps import Step, outcome_of

SIDES, STATES = ("north", "south"), ("free", "let", "shut")


def said(tool: str, arguments: dict[str, Any], body: Any) -> Step:
    text = json.dumps(body)
    return Step(tool, arguments, text, outcome_of(text, None, ""))


class Moorings:
    """A harbour, anew for each conversation. A list has the berths of a side, or of a side in a state, by number; a
    ship may be said with an article; `recent` shows four at the most, the latest first."""

    def __init__(self, seed: str) -> None:
        self.rng = random.Random(seed)
        self.berths: dict[int, dict[str, Any]] = {}
        for _ in range(self.rng.randrange(5, 9)):
            self.add(self.rng.randrange(100, 900), self.rng.choice(SIDES), self.rng.choice(STATES))

    def add(self, number: int, side: str, state: str) -> None:
        ship = self.rng.choice(["Argo", "Bounty", "Calypso"])
        self.berths[number] = {"number": number, "side": side, "state": state, "ship": ship}

    def list(self, **asked: str) -> Step:
        found = [one for one in self.berths.values() if all(one[n] == v.removeprefix("the ") for n, v in asked.items())]
        return said("list_berths", asked, {"berths": sorted(found, key=lambda one: one["number"])})

    def let(self, number: int) -> Step:
        if self.berths[number]["state"] != "free":
            return said("let_berth", {"number": number}, {"error": "It is not free"})
        self.berths[number]["state"] = "let"
        return said("let_berth", {"number": number}, {"number": number, "state": "let"})

    def build(self, side: str) -> Step:
        number = self.rng.randrange(100, 900)
        self.add(number, side, "free")
        return said("build_berth", {"side": side}, dict(self.berths[number]))


def day(k: int) -> list[Step]:
    port = Moorings(f"views {k}")
    rng, steps = port.rng, list[Step]()
    for _ in range(3):
        asked = rng.choice([{"side": rng.choice(SIDES)}, {"side": rng.choice(SIDES), "state": rng.choice(STATES)},
                            {"ship": rng.choice(["the Argo", "Argo", "Bounty", "Bounty", "Calypso"])}])  # fmt: skip
        steps.append(port.list(**asked))
        steps.append(port.let(rng.choice(list(port.berths))) if rng.random() < 0.6 else port.build(rng.choice(SIDES)))
        steps.append(port.list(**asked))
    return steps


ENGINE = Engine(*induce({f"c{k}": day(k) for k in range(70)}))


def asked(session: Session, **arguments: str) -> Any:
    found = session.derive("list_berths", arguments, 0, accidents=False)
    return None if found is None or found.content is None else json.loads(found.content)["berths"]


def told(steps: list[Step]) -> Session:
    session = Session(ENGINE)
    for step in steps:
        session.told(step.tool, step.arguments, step.content, step.outcome)
    return session


def test_a_list_that_was_shown_is_known_with_what_was_made_and_changed_since() -> None:
    port = Moorings("another port")
    free = int(json.loads(port.build("north").content)["number"])
    first = port.list(side="north")
    session = told([first, port.build("north"), port.build("south"), port.let(free)])
    whole = json.loads(port.list(side="north").content)["berths"]
    assert len(whole) == len(json.loads(first.content)["berths"]) + 1
    assert asked(session, side="north") == whole
    assert [one["number"] for one in whole] == sorted(one["number"] for one in whole)
    let = json.loads(port.list(side="north", state="let").content)["berths"]
    assert free in [one["number"] for one in let] and asked(session, side="north", state="let") == let


def test_a_part_of_a_list_does_not_say_what_the_rest_has() -> None:
    port = Moorings("third port")
    session = told([port.list(side="north", state="free")])
    assert asked(session, side="north") is None and asked(session, side="south") is None


def test_a_spelling_that_no_record_has_may_mean_another() -> None:
    (view,) = ENGINE.rules.schema.views["list_berths"]
    assert view.filters == {"side": "side", "state": "state", "ship": "ship"}
    assert view.loose == ("ship",) and view.order[0] == "number" and view.most == 0
    session = told([Moorings("fourth port").list()])
    assert asked(session, ship="the Argo") is None


def test_the_rules_say_where_a_list_comes_from() -> None:
    lines = list(describe_tool(ENGINE.rules.tools["list_berths"]))
    assert any("the list berths as an earlier call showed it" in line for line in lines)


def test_a_list_that_may_have_been_cut_is_not_known_to_be_whole() -> None:
    view = View("", next(s for s in ENGINE.rules.schema.sites if s.tool == "list_berths"), {}, (), most=4)
    assert view.is_cut([1, 2, 3, 4], {}) and view.is_cut([1, 2], {"limit": 2})
    assert not view.is_cut([1, 2, 3], {}) and not view.is_cut([], {"offset": 0})


def club(k: int) -> list[Step]:
    """The short form leaves out what the long form shows; only members who pay by card have a card's last digits."""
    rng = random.Random(f"forms {k}")
    steps = []
    for _ in range(4):
        name, by_card = f"m{rng.randrange(100, 999)}", rng.random() < 0.5
        pays = {"method": "card" if by_card else rng.choice(["cash", "post"]), **({"digits": rng.randrange(1000, 9999)}
                if by_card else {})}  # fmt: skip
        full = {"name": name, "town": rng.choice(["Ur", "Kish"]), "phone": rng.randrange(10**6), **pays}
        short = {n: full[n] for n in ("name", "town")}
        steps += [said("member", {"name": name}, full), said("glance", {"name": name}, short)] * rng.choice([1, 1, 2])
    return steps


def test_a_form_that_leaves_a_field_out_does_not_erase_it() -> None:
    session = Session(Engine(*induce({f"c{k}": club(k) for k in range(60)})))
    full = {"name": "m7", "town": "Kish", "phone": 5551, "method": "card", "digits": 4242}
    for step in (said("member", {"name": "m7"}, full), said("glance", {"name": "m7"}, {"name": "m7", "town": "Kish"})):
        session.told(step.tool, step.arguments, step.content, step.outcome)
    found = session.derive("member", {"name": "m7"}, 0, accidents=False)
    assert found is not None and json.loads(found.content or "null") == full


def payments(k: int) -> list[Step]:
    """Only a card has a code, and nobody can know it."""
    rng = random.Random(f"codes {k}")
    steps = []
    for _ in range(3):
        method = rng.choice(["card", "cash", "post"])
        made = {"method": method, **({"code": rng.randrange(10**6)} if method == "card" else {})}
        steps.append(said("pay", {"method": method}, made))
    return steps


def test_whether_there_is_a_value_is_learned_where_the_value_is_not() -> None:
    rules, facts = induce({f"c{k}": payments(k) for k in range(60)})
    session = Session(Engine(rules, facts))
    cash, card = (session.derive("pay", {"method": method}, 0, accidents=False) for method in ("cash", "card"))
    assert cash is not None and json.loads(cash.content or "null") == {"method": "cash"}
    assert card is not None and card.content is None and card.known == {"method": "card"}
