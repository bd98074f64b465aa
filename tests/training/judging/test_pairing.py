"""Pairing: which values belong to one record, and which the agent tells of another one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from training.judging.pairing import Pairing

LOANS = {
    "member": "M-55471",
    "total": 6,
    "loans": [
        {"loan": "L-384794", "title": "Emma", "genre": "novel March", "fine": 18.5, "due": "2026-03-22"},
        {"loan": "L-377324", "title": "Ulysses", "genre": "novel May", "fine": 9.25, "due": "2026-05-16"},
    ],
}
SHELF = {"books": ["Emma red: B-41926", "Ulysses blue: B-73468"], "page": 1}


def call(tool: str, arguments: dict[str, Any], answer: Any, fails: bool = False) -> list[dict[str, Any]]:
    return [
        {"role": "assistant", "content": None, "tool_calls": [{"name": tool, "arguments": arguments}]},
        {"role": "tool", "content": json.dumps(answer), "is_error": fails},
    ]


def says(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


LISTED = call("list_loans", {"member": "M-55471"}, LOANS)
SHELVED = call("find", {"page": 1}, SHELF)
EXTENDED = call(
    "extend", {"loan": "L-384794", "days": 28}, {"loan": "L-384794", "old": "2026-03-22", "due": "2026-04-19"}
)
MOVED = call("move", {"book": "B-41926"}, {"book": "B-41926", "cents": 1850})


@pytest.mark.parametrize(
    ("messages", "count"),
    [
        ([*LISTED, *says("Emma is due on 2026-03-22, the fine is $18.50.")], 0),
        ([*LISTED, *says("Emma is due on 2026-05-16.")], 2),  # neither value fits the other
        ([*LISTED, *says("Emma costs 18.50 and Ulysses 9.25.")], 0),  # each has its own
        ([*LISTED, *says("Emma is found. Ulysses costs 9.25.")], 0),
        ([*LISTED, *says("Persuasion is due on 2026-05-16.")], 1),  # a title, as other conversations show
        ([*LISTED, *EXTENDED, *says("Emma is now due on 2026-04-19.")], 0),  # the id joins both answers
        ([*LISTED, *EXTENDED, *says("Ulysses is now due on 2026-04-19.")], 2),
        ([*SHELVED, *says("looking for Emma red: B-41926")], 0),
        ([*SHELVED, *says("looking for Emma red: B-73468")], 1),
        ([*SHELVED, *MOVED, *says("B-41926 costs $18.50.")], 0),
        ([*says("Emma is due on 2026-05-16."), *LISTED], 0),  # nothing was shown yet
        ([*call("list_loans", {}, LOANS, fails=True), *says("Emma is due on 2026-05-16.")], 0),
        ([*call("list_loans", {}, "no JSON object"), *says("Emma is due on 2026-05-16.")], 0),
        ([], 0),
    ],
)
def test_values_of_another_record_are_counted(messages: list[dict[str, Any]], count: int) -> None:
    assert Pairing({"persuasion": "title"}).mispaired(messages, frozenset({"due", "fine", "costs"})) == count


def test_a_words_field_is_learned_where_it_is_mostly_one() -> None:
    found = Pairing.of([[*LISTED, *SHELVED] for _ in range(5)])
    assert found.field_of["novel"] == "genre" and found.field_of["red"] == "books"
    assert "emma" not in found.field_of  # a title and a book alike
    assert Pairing.of([LISTED] * 2).field_of == {}
    assert Pairing.of([LISTED * 9]).field_of == {}  # one conversation's words stay its own


def test_what_tools_answer_and_agents_call_may_be_anything() -> None:
    for body in (None, 3, [], [[1, "a"], {}], {"a": {"b": [None, True, {"c": "x"}]}}, "text"):
        messages = [*call("x", {"a": [1], "b": None}, body), *says("a b c x 17 18"), {"role": "tool", "content": "{}"}]
        assert Pairing.of([messages]).mispaired(messages) == 0
    raw = [{"role": "assistant", "content": "", "tool_calls": [{"name": "x", "arguments": "{broken"}]}, *LISTED[1:]]
    assert Pairing({}).mispaired([*raw, *says("Emma 2026-05-16")]) == 2
