"""Counts that look where a small judge does not: what nothing supports, what nobody took up, and their worth."""

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
    assert known.counts(sale("black", "black")) == (0, 0)
    garbled = sale("black", "black")
    garbled[3] = {"role": "assistant", "content": "Unfortunately the price of the kettle wlack is $99.50"}
    assert known.counts(garbled) == (2, 1)  # the word and the number; nobody took up "black"


def test_amounts_are_compared_by_digits(known: Grounding) -> None:
    for cents, said in ((8500, "$85"), (7990, "$79.90"), (7990, "79.9"), (120, "$1.20")):
        assert known.counts(sale("black", "black", cents, said)) == (0, 0)
    assert known.counts(sale("black", "black", 7990, "$97.90")) == (1, 0)


def test_values_named_by_the_user_are_counted(known: Grounding) -> None:
    assert known.counts(sale("black", "white")) == (0, 1)
    assert known.counts([{"role": "user", "content": "order 41817 please"}]) == (0, 1)
    assert known.counts([{"role": "user", "content": "please hurry"}]) == (0, 0)  # nobody ever takes that up


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
