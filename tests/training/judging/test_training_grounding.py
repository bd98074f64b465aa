"""Counts of what a small judge does not compare: what nothing supports, what nobody took up, and their weights."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from training.judging.grounding import Evidence, Grounding


def sale(asked: str, named: str, cents: int = 7050, said: str = "$70.50") -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": f"how much is the {asked} kettle?"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "search", "arguments": {"query": "kettle"}}]},
        {"role": "tool", "content": f'{{"item":"kettle {named}","cents":{cents}}}'},
        {"role": "assistant", "content": f"Unfortunately the price of the kettle {named} is {said}"},
    ]


@pytest.fixture(scope="module")
def known() -> Grounding:
    return Grounding.of([sale(colour, colour) for colour in ("black", "white", "green") for _ in range(9)])


def test_statements_are_supported_or_unsupported(known: Grounding) -> None:
    assert {"unfortunately", "price", "of"} <= known.own and "black" not in known.own
    assert known.counts(sale("black", "black")) == (0, 0, 0, 0, 0)
    garbled = sale("black", "black")
    garbled[3] = {"role": "assistant", "content": "Unfortunately the price of the kettle wlack is $99.50"}
    assert known.counts(garbled) == (2, 1, 0, 0, 0)  # the word and the number; nobody took up "black"


@pytest.mark.parametrize(
    ("cents", "said", "unsupported"),
    [
        (8500, "$85", 0),
        (7990, "$79.90", 0),
        (7990, "79.9", 0),
        (120, "$1.20", 0),
        (990, "$9.90", 0),
        (7990, "$97.90", 1),
        (990, "$99", 1),  # ten times as much is no unit
        (500, "$50.00", 1),
        (250, "0.25", 0),
    ],
)
def test_amounts_are_compared_in_their_units(known: Grounding, cents: int, said: str, unsupported: int) -> None:
    assert known.counts(sale("black", "black", cents, said)) == (unsupported, 0, 0, 0, 0)


def test_values_named_by_the_user_are_counted(known: Grounding) -> None:
    assert known.counts(sale("black", "white")) == (0, 1, 0, 0, 0)
    assert known.counts([{"role": "user", "content": "order 41817 please"}]) == (0, 1, 0, 0, 0)
    assert known.counts([{"role": "user", "content": "please hurry"}]) == (0, 0, 0, 0, 0)  # nobody ever takes that up


def paid(asked: str, passed: Any, unit: str = "EUR") -> list[dict[str, Any]]:
    call = {"name": "pay", "arguments": {"to": {"cents": passed}, "unit": unit}}
    return [
        {"role": "user", "content": f"i want {asked} back"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": f'{{"paid":{passed}}}'},
        {"role": "assistant", "content": f"paid {asked}"},
    ]


def test_values_that_nobody_said_before_a_call_are_counted() -> None:
    known = Grounding.of([paid(f"${k}.05", 100 * k + 5) for k in range(3, 60)])
    assert known.given == {"eur"}  # production passes it unasked
    assert known.counts(paid("$40.75", 4075))[2] == 0
    assert known.counts(paid("$5", 503))[2] == 1  # the answer repeats the wrong amount, but after the call
    assert known.counts(paid("$5", 500, "usd"))[2] == 1
    raw = paid("$5", 500)
    raw[1]["tool_calls"][0]["arguments"] = '{"to": {"cents": 777'
    assert known.counts(raw)[2] == 1


def test_the_weights_separate_success_from_failure_and_keep_good_scores(known: Grounding) -> None:
    rng = random.Random(0)
    scored: list[tuple[float, Any, bool]] = []
    for _ in range(60):
        scored.append((rng.uniform(0.85, 0.95), sale("black", "black"), True))
        scored.append((rng.uniform(0.0, 0.3), sale("black", "black"), False))
        scored.append((rng.uniform(0.85, 0.95), sale("black", "white"), False))  # the judge is taken in
    fitted = Evidence(known).fitted(scored)
    assert fitted.weights[1] > 0 and fitted.weights[2] == pytest.approx(0, abs=1e-9) and fitted.weights[3] < -1
    good, bad, taken_in = ([fitted.weigh(*case[:2]) for case in scored[k::3]] for k in range(3))
    assert min(good) > max(bad) and min(good) > max(taken_in)
    assert Evidence.read(json.loads(json.dumps(fitted.plain()))) == fitted


def test_without_evidence_scores_are_unchanged(known: Grounding) -> None:
    for score in (0.01, 0.5, 0.93):
        assert Evidence().weigh(score, sale("black", "white")) == pytest.approx(score)
    sure = [(score, sale("black", "black"), score > 0.5) for score in (0.0, 1.0) for _ in range(40)]
    assert all(abs(w) < 50 for w in Evidence(known).fitted(sure).weights)  # certainty does not run away


def test_a_judge_of_an_earlier_version_keeps_its_scores(known: Grounding) -> None:
    earlier = {"own": sorted(known.own), "echoed": sorted(known.echoed), "weights": [0.1, 0.6, -5.0, -3.0]}
    read = Evidence.read(earlier)
    assert read.weights == (0.1, 0.6, -5.0, -3.0, 0.0, 0.0, 0.0)
    assert 0 < read.weigh(0.9, sale("black", "white")) < read.weigh(0.9, sale("black", "black")) < 1
