"""Perturbed successes: what changes and what does not."""

from __future__ import annotations

import copy
import json
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.judging.claims import Claims
from training.judging.counterfactual import Counterfactuals

COLOURS = ("black", "white", "green", "yellow")


def sale(colour: str, number: int) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": f"how much is the {colour} lamp of order {number}?"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "get", "arguments": {"number": number}}]},
        {"role": "tool", "content": f'{{"item":"Oak lamp {colour}","cents":{number}}}'},
        {"role": "assistant", "content": f"The Oak lamp {colour} is {number} cents."},
        {"role": "user", "content": f"so the {colour} one. thanks"},
    ]


SALES = [sale(COLOURS[k % 4], 1200 + 7 * k) for k in range(12)]


@pytest.fixture(scope="module")
def known() -> Counterfactuals:
    return Counterfactuals(SALES)


@settings(deadline=None)
@given(st.integers(0, 11), st.integers(0, 10**6))
def test_one_value_is_exchanged_where_one_speaker_says_it_or_from_a_call_on(number: int, seed: int) -> None:
    told = SALES[number]
    before = copy.deepcopy(told)
    other = Counterfactuals(SALES).of(told, random.Random(seed))
    assert other is not None and told == before
    changed = [k for k, (a, b) in enumerate(zip(told, other, strict=True)) if a != b]
    speakers = {told[k]["role"] for k in changed}
    called = 1 in changed
    assert changed and (speakers == {"assistant", "tool"} if called else speakers in ({"user"}, {"assistant"}))
    swaps = set()
    for k in changed:
        old, new = (re.findall(r"\w+", json.dumps(m[k])) for m in (told, other))
        if called and k == 1:  # the arguments are text now
            old, new = (re.findall(r"\d+", " ".join(words)) for words in (old, new))
        swaps |= {(a, b) for a, b in zip(old, new, strict=True) if a != b}
    ((was, is_),) = swaps  # one word for one other word, wherever it stands
    assert len(was) == len(is_) or was in COLOURS
    assert was.isdigit() == is_.isdigit()


def test_words_are_exchanged_for_words_of_the_same_field_or_misspelt(known: Counterfactuals) -> None:
    rng = random.Random(0)
    words = set()
    for _ in range(300):
        other = known.of(sale("black", 1200), rng)
        assert other is not None
        found = re.search(r"Oak lamp (\w+) is 1200", other[3]["content"])
        if found and found[1] != "black":
            words.add(found[1])
    assert {"white", "green", "yellow"} <= words
    assert any(w not in COLOURS and len(w) == 5 for w in words)


def test_a_users_value_changes_in_all_their_messages(known: Counterfactuals) -> None:
    rng = random.Random(1)
    for _ in range(50):
        other = known.of(sale("black", 1200), rng)
        assert other is not None
        if "black lamp" not in other[0]["content"]:
            assert "black" not in other[4]["content"] and other[3] == sale("black", 1200)[3]


def test_values_without_alternatives_are_kept(known: Counterfactuals) -> None:
    new = [
        {"role": "user", "content": "the purple one?"},
        {"role": "tool", "content": '{"item":"purple"}'},
        {"role": "assistant", "content": "purple it is"},
    ]
    assert known.of(new, random.Random(0)) is None


def test_without_an_exchangeable_value_there_is_no_counterfactual() -> None:
    plain = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
    assert Counterfactuals([plain]).of(plain, random.Random(0)) is None
    assert Counterfactuals([]).of([], random.Random(0)) is None
    broken = [*plain, {"role": "tool", "content": "not json"}, {"role": "tool", "content": '{"error":"hello"}'}]
    assert Counterfactuals([broken]).of(broken, random.Random(0)) is None


def test_a_value_is_replaced_by_that_of_another_record() -> None:
    listed = json.dumps({"invoices": [{"month": "January", "total": 4711}, {"month": "March", "total": 5822}]})
    told = [
        {"role": "user", "content": "and in january?"},
        {"role": "tool", "content": listed},
        {"role": "assistant", "content": "In January it was 4711."},
    ]
    found = set()
    for seed in range(60):
        other = Counterfactuals([told]).of(told, random.Random(seed))
        assert other is not None
        found.add(other[2]["content"])
    assert "In March it was 4711." in found


def done(act: str, number: int) -> list[dict[str, Any]]:
    """A conversation in which the agent cancels or moves an order and says so."""
    past = {"cancel": "cancelled", "move": "moved"}[act]
    return [
        {"role": "user", "content": f"{act} order {number}"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": act, "arguments": {"order": number}}]},
        {"role": "tool", "content": f'{{"order":{number}}}'},
        {"role": "assistant", "content": f"I {past} order {number}."},
    ]


def test_a_claim_of_another_conversation_is_told_with_this_ones_values() -> None:
    successes = [done(act, 4000 + k) for k in range(40) for act in ("cancel", "move")]
    known = Counterfactuals(successes, Claims.of(successes))
    told, rng, claimed = done("cancel", 7777), random.Random(0), 0
    for _ in range(40):
        other = known.of(told, rng)
        assert other is not None
        if "moved" in other[3]["content"]:
            claimed += 1
            assert other[:3] == told[:3] and other[3]["content"] == "I moved order 7777."
    assert claimed > 3
