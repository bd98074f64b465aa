"""Laws: numbers that follow from list arguments joined with records, in a small depot with prices by size."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from training.models.edits import canonical
from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.expressions import Linear, evaluate
from worldmodel.derive.rules import Law, Rules, decode, encode, with_laws
from worldmodel.derive.situation import Row
from worldmodel.learn.induce import induce
from worldmodel.learn.search.formulas import combination, novel
from worldmodel.sentences import describe_rules
from worldmodel.steps import OK, Step

BOOST, WRAP = 12, 5
"""What the depot takes for a box that is over, and for wrapping the boxes of one person."""


class Depot:
    """One conversation: slots are looked up, then people rent boxes in them and pay for them in parts."""

    def __init__(self, seed: str) -> None:
        self.rng = random.Random(seed)
        self.prices = {
            (f"R{n}", day): {"small": self.rng.randrange(20, 90), "large": self.rng.randrange(90, 300)}
            for n in self.rng.sample(range(10, 99), 3)
            for day in ("2031-05-02", "2031-05-09")
        }
        self.steps: list[Step] = []

    def look(self, row: str, day: str) -> None:
        body = {"row": row, "day": day, "fee": self.prices[(row, day)]}
        self.steps.append(Step("look", {"row": row, "day": day}, json.dumps(body), OK))

    def arguments(self) -> dict[str, Any]:
        rng = self.rng
        slots = rng.sample(sorted(self.prices), rng.randrange(1, 4))
        return {
            "slots": [{"row": row, "day": day} for row, day in slots],
            "size": rng.choice(["small", "large"]),
            "people": [{"name": f"P{rng.randrange(99)}"} for _ in range(rng.randrange(1, 4))],
            "over": rng.randrange(3),
            "wrap": rng.choice(["yes", "no"]),
        }

    def total(self, a: dict[str, Any]) -> int:
        per_person = sum(self.prices[(s["row"], s["day"])][a["size"]] for s in a["slots"])
        return len(a["people"]) * (per_person + WRAP * (a["wrap"] == "yes")) + BOOST * a["over"]

    def rent(self, wrong: bool) -> Step:
        arguments = self.arguments()
        for slot in arguments["slots"]:
            self.look(slot["row"], slot["day"])
        total = self.total(arguments)
        paid = total + self.rng.choice([-7, 3, 20]) if wrong else total
        first = self.rng.randrange(1, paid)
        arguments["payments"] = [{"by": "C1", "amount": first}, {"by": "C2", "amount": paid - first}]
        if wrong:
            text = f"Error: the total is {total}, but {paid} was paid"
            step = Step("rent", arguments, text, "wrong_total")
        else:
            lines = [{**s, "fee": self.prices[(s["row"], s["day"])][arguments["size"]]} for s in arguments["slots"]]
            body = {"lines": lines, "size": arguments["size"], "history": [{"by": "C1", "due": total}]}
            step = Step("rent", arguments, json.dumps(body), OK)
        self.steps.append(step)
        return step


@pytest.fixture(scope="module")
def rules() -> tuple[Rules, Any]:
    recorded = {}
    for k in range(120):
        depot = Depot(f"c{k}")
        for _ in range(2):
            depot.rent(wrong=depot.rng.random() < 0.4)
        recorded[f"c{k}"] = depot.steps
    return induce(recorded)


@pytest.mark.parametrize("wrong", [False, True])
def test_payments_must_add_up_to_a_law_over_joined_prices(rules: tuple[Rules, Any], wrong: bool) -> None:
    """Successes keep to the law; what breaks it is refused with the number that the law foretells."""
    for k in range(20):
        depot = Depot(f"test {wrong} {k}")
        truth = depot.rent(wrong)
        session = Session(Engine(*rules))
        for step in depot.steps[:-1]:
            session.told(step.tool, step.arguments, step.content, step.outcome)
        said = session.derive("rent", truth.arguments)
        assert said is not None
        assert said.content is not None and canonical(said.content) == canonical(truth.content)


def test_laws_are_part_of_the_rules_and_of_what_they_say(rules: tuple[Rules, Any]) -> None:
    again = decode(encode(rules[0]))
    assert again == rules[0] and again.tools["rent"].laws
    said = "\n".join(describe_rules(again, "rent"))
    assert "what the sum of argument payments.amount must be" in said and "12 x argument over" in said
    assert "5 x the length of argument people times 1 where argument wrap is 'yes', else 0" in said


def test_a_combination_is_found_among_many_columns() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 50, (200, 120)).astype(float)
    goal = 3 * matrix[7] - 2 * matrix[90] + 0.5 * matrix[150] + 11
    found = combination(goal, [f"arg/{k}" for k in range(200)], matrix)
    assert found is not None
    assert (dict((n, f) for f, n in found.terms), found.constant) == ({"arg/7": 3, "arg/90": -2, "arg/150": 0.5}, 11)
    assert combination(rng.normal(size=120), [f"arg/{k}" for k in range(200)], matrix) is None


def test_a_law_that_is_learned_again_has_another_name() -> None:
    """A slot that is learned again may follow from its own first law: under one name the later would replace it."""
    rows: list[Row] = [{"arg/a": k, "arg/b": 7 * k % 5} for k in range(20)]
    first = Law("law/ok/total", Linear(((2.0, "arg/a"), (1.0, "arg/b"))), "total")
    again = Law("law/ok/total", Linear(((1.0, "law/ok/total"), (1.0, "arg/b"))), "total")
    kept = novel([again], [with_laws(row, [first]) for row in rows], [first])
    for row in rows:
        known = with_laws(row, [first, *kept])
        assert known["law/ok/total"] == 2 * row["arg/a"] + row["arg/b"]
        assert evaluate(again.expression, known) == 2 * row["arg/a"] + 2 * row["arg/b"]
    assert len(kept) == 1
