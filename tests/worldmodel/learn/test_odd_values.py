"""Values that production has and arithmetic has not: integers beyond floats, NaN, and texts with control characters."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worldmodel.artifact import read_rules, read_shapes, save_rules, save_shapes
from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.functions import apply
from worldmodel.derive.values import UNKNOWN, freeze, is_number
from worldmodel.generate.invent import schema_with
from worldmodel.generate.shapes import learn_shapes
from worldmodel.learn.induce import induce
from worldmodel.steps import OK, Step

Make = Callable[[random.Random], list[Step]]


def powers(rng: random.Random) -> list[Step]:
    number, exponent = rng.randrange(2, 9), rng.randrange(300, 500)
    refused = Step("power", {"of": 10**400, "to": rng.randrange(9)}, f"Error: {10**330 + number} is too much", "bad")
    return [Step("power", {"of": number, "to": exponent}, json.dumps({"value": number**exponent}), OK), refused]


def means(rng: random.Random) -> list[Step]:
    found = rng.choice([float("nan"), float("inf"), rng.random()])
    given = {"low": rng.choice([float("nan"), 0.5]), "sizes": [{"n": rng.random()}, {"n": float("nan")}]}
    return [Step("mean", given, json.dumps({"mean": found, "rows": rng.randrange(9)}), OK) for _ in range(3)]


def wide(rng: random.Random) -> list[Step]:
    given = {"a": rng.randrange(2, 400) * 1e200, "b": rng.randrange(2, 400) * 1e200}
    return [Step("wide", given, json.dumps({"value": rng.randrange(9) * 1e200}), OK) for _ in range(3)]


def binary(rng: random.Random) -> list[Step]:
    texts = ["", "one\ntwo", "\x00\x01\x00", "\x00#", f"at \x00 {rng.randrange(99)}"]
    return [Step("show", {"file": rng.choice("abc")}, rng.choice(texts), OK) for _ in range(6)]


@pytest.mark.parametrize("make", [powers, means, wide, binary])
def test_rules_are_learned_and_answer(make: Make) -> None:
    recorded = {f"c{k}": make(random.Random(k)) for k in range(24)}
    session = Session(Engine(*induce(recorded)))
    for steps in recorded.values():
        for step in steps:
            assert session.derive(step.tool, step.arguments) is not None
            session.told(step.tool, step.arguments, step.content, step.outcome)


def test_what_is_no_number_is_equal_to_itself_and_not_calculated_with() -> None:
    nan = float("nan")
    assert freeze(nan) == freeze(float("nan")) != freeze("nan") and freeze({"a": nan}) == freeze({"a": float("nan")})
    assert not any(map(is_number, (nan, float("inf"), -float("inf"), 10**400, True, "1")))
    assert all(map(is_number, (0, -1.5, 10**300, 1e308)))
    assert apply("absolute", [10**400]) is apply("sum", [[1, nan]]) is UNKNOWN


def test_a_text_that_never_varies_may_have_the_character_of_gaps() -> None:
    recorded = {f"c{k}": [Step("show", {"file": "a"}, "\x00\x01", OK)] for k in range(9)}
    found = Session(Engine(*induce(recorded))).derive("show", {"file": "a"})
    assert found is not None and found.content == "\x00\x01"


def drifts(number: int) -> list[Step]:
    """A sensor that always reports NaN and infinity, and sometimes NaN for a number."""
    steps = []
    for k in range(3):
        value = "NaN" if (number + k) % 4 == 0 else f"{number + k / 4}"
        content = f'{{"sensor":"S-{number}{k}","drift":NaN,"limit":Infinity,"value":{value}}}'
        steps.append(Step("read", {"sensor": f"S-{number}{k}"}, content, OK))
    return steps


def strictly(text: str) -> Any:
    """JSON as the standard has it."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_world_with_nan_is_stored_as_json_and_answers_as_before(tmp_path: Path) -> None:
    recorded = {f"c{k}": drifts(k) for k in range(24)}
    rules, facts = induce(recorded)
    save_rules(tmp_path, rules, facts)
    shapes = learn_shapes(Engine(rules, facts), recorded)
    save_shapes(tmp_path, shapes)
    for name in ("rules.json", "facts.json", "shapes.json"):
        strictly((tmp_path / name).read_text())
    fresh, again = Session(Engine(rules, facts)), Session(read_rules(tmp_path))
    one, other = (session.derive("read", {"sensor": "S-999"}) for session in (fresh, again))
    assert one is not None and other is not None
    assert {n: freeze(v) for n, v in one.known.items()} == {n: freeze(v) for n, v in other.known.items()}
    assert freeze(other.known["drift"]) == ("nan",) and other.known["limit"] == float("inf")
    values = read_shapes(tmp_path).bodies["read"][OK]
    strictly(schema_with(values, {"drift": float("nan"), "limit": float("inf")}))
    assert all(set(shapes.fresh(values, random.Random(k))) == {"sensor", "drift", "limit", "value"} for k in range(9))
