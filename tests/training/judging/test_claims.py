"""Claims: which phrases belong to an act, and when they are unfounded."""

from __future__ import annotations

from typing import Any

import pytest

from training.judging.claims import Claims


def told(act: str, said: str, fails: bool = False, user: str = "please do it") -> list[dict[str, Any]]:
    """A conversation with one call and a message of the agent; without a call if `act` is empty."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "name": act, "arguments": {}}]}
    answer = {"role": "tool", "name": act, "content": "{}", "is_error": fails}
    return [
        {"role": "user", "content": user},
        *([call, answer] if act else []),
        {"role": "assistant", "content": said},
    ]


SUCCESSES = [
    *(told("cancel", f"Your order {k} is cancelled now.") for k in range(30)),
    *(told("cancel", f"Sorry, {k} cannot be stopped.", fails=True) for k in range(30)),
    *(told("move", f"Your order {k} is on its way to you.") for k in range(60)),
]


@pytest.fixture(scope="module")
def known() -> Claims:
    return Claims.of(SUCCESSES)


def test_a_phrase_belongs_to_the_rarest_act_that_always_precedes_it(known: Claims) -> None:
    assert known.act["cancelled"] == "cancel ok" and known.act["cannot be"] == "cancel"
    assert known.act["its way"] == "move ok"
    assert "your" not in known.act and "order #" not in known.act  # said after either act


@pytest.mark.parametrize(
    ("messages", "count"),
    [
        (told("cancel", "It is cancelled now."), 0),
        (told("cancel", "It is cancelled now.", fails=True), 1),
        (told("move", "It is cancelled now."), 1),
        (told("", "Sorry, it cannot be stopped."), 1),
        (told("cancel", "Sorry, it cannot be stopped."), 0),  # the act is the call
        (told("", "It is cancelled already.", user="is it cancelled?"), 0),  # not a claim of the agent's own
        ([{"role": "assistant", "content": "cancelled"}, *told("cancel", "cancelled")], 1),  # before the act
        ([], 0),
    ],
)
def test_a_message_is_unfounded_if_its_act_did_not_come_before(
    known: Claims, messages: list[dict[str, Any]], count: int
) -> None:
    assert known.unfounded(messages) == count


def test_answers_without_a_name_belong_to_the_calls_in_order(known: Claims) -> None:
    calls = [{"name": "move", "arguments": {}}, {"name": "cancel", "arguments": {}}]
    messages = [
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "{}"},
        {"role": "tool", "content": "{}", "is_error": True},
        {"role": "assistant", "content": "It is on its way, and nothing is cancelled."},
    ]
    assert known.unfounded(messages) == 1
    messages[2]["is_error"] = False
    assert known.unfounded(messages) == 0


def test_rare_phrases_and_common_acts_say_nothing() -> None:
    few = [told("cancel", "cancelled") for _ in range(19)] + [told("move", "moved") for _ in range(30)]
    assert "cancelled" not in Claims.of(few).act
    assert Claims.of([told("look", f"looked {k}") for k in range(50)]).act == {}  # every success has this act
    mixed = [told("cancel", "cancelled") for _ in range(45)] + [told("move", "cancelled") for _ in range(5)]
    assert Claims.of(mixed).act == {}
