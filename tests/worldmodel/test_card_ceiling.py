"""What the draws of errors that pass by themselves cost on the card, and what they do not."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from worldmodel.card.ask import ask_rules, questions
from worldmodel.card.ceiling import ceiling, lasting
from worldmodel.derive.engine import Engine
from worldmodel.derive.expressions import Const
from worldmodel.derive.rules import Law
from worldmodel.derive.trees import Leaf, Split, Test
from worldmodel.effects import learn_effects
from worldmodel.generate.resolver import Resolver
from worldmodel.learn.induce import induce
from worldmodel.steps import Step

TIMEOUT = '{"error":"timeout"}'


def recording(first: int, n: int, fault: float, seed: int = 0) -> dict[str, list[Step]]:
    """A record is read, set to a state and read again; each call times out at the rate `fault` and is made anew."""
    rng = random.Random(seed)
    found = {}
    for number in range(first, first + n):
        order, state = f"W-{number}", rng.choice(("sent", "held", "open"))
        wanted = rng.choice(("closed", "frozen"))
        steps: list[Step] = []

        def call(tool: str, arguments: dict[str, Any], body: Any, steps: list[Step] = steps) -> None:
            while rng.random() < fault:
                steps.append(Step(tool, arguments, TIMEOUT, "timeout"))
            steps.append(Step(tool, arguments, json.dumps(body)))

        call("get_order", {"order": order}, {"order": order, "state": state})
        call("set_state", {"order": order, "state": wanted}, {"ok": True, "order": order, "state": wanted})
        call("get_order", {"order": order}, {"order": order, "state": wanted})
        found[f"c{number}"] = steps
    return found


def asked_and_judged(fault: float) -> tuple[Engine, Any, Any]:
    trained, held_out = recording(0, 400, fault), recording(1000, 200, fault, seed=1)
    rules, facts = induce(trained)
    engine = Engine(rules, facts)
    frame = SimpleNamespace(effects=learn_effects(list(trained.values())))
    asked = questions(held_out, trained, cast(Resolver, SimpleNamespace(frame=frame)), rules=engine)
    return engine, asked, ask_rules(engine, asked)


def test_a_world_that_knows_every_rule_is_at_the_ceiling() -> None:
    engine, asked, judged = asked_and_judged(fault=0.2)
    best, kept = ceiling(engine, asked), lasting(engine, judged)
    derivable = [j for j in judged if j.derivable]
    reached = sum(j.exact for j in derivable) / len(derivable)
    assert best["derivable"]["n"] == len(derivable) > 300
    assert best["derivable"]["exact_match"] == pytest.approx(0.8, abs=0.05)
    assert reached == pytest.approx(best["derivable"]["exact_match"], abs=0.06)
    assert kept["derivable"]["exact_match"] == 1.0
    assert 0.7 * len(derivable) < kept["derivable"]["n"] < 0.9 * len(derivable)
    assert best["outcome_f1"] < 0.75 < kept["outcome_f1"]


def test_without_such_errors_nothing_is_out_of_reach() -> None:
    engine, asked, judged = asked_and_judged(fault=0.0)
    best, kept = ceiling(engine, asked), lasting(engine, judged)
    assert best["exact_match"] == best["outcome_f1"] == 1.0
    assert kept["n"] == len(judged)


def test_an_answer_that_the_rules_get_wrong_is_below_the_ceiling() -> None:
    engine, asked, judged = asked_and_judged(fault=0.0)
    wrong = [q.judged(Step(q.truth.tool, q.truth.arguments, "{}")) for q in asked]
    assert lasting(engine, wrong)["derivable"]["exact_match"] == 0.0
    assert ceiling(engine, asked)["derivable"]["exact_match"] == 1.0


def test_the_odds_of_errors_may_hang_on_a_law() -> None:
    engine, asked, _ = asked_and_judged(fault=0.2)
    tools = dict(engine.rules.tools)
    for name, of in tools.items():
        assert of.accidents is not None
        tree = Split(Test("law/one", "=", 1), of.accidents, Leaf({"none": 1}))
        tools[name] = msgspec.structs.replace(of, accidents=tree, laws=(Law("law/one", Const(1)), *of.laws))
    changed = Engine(msgspec.structs.replace(engine.rules, tools=tools), engine.facts)
    assert ceiling(changed, asked) == ceiling(engine, asked)
