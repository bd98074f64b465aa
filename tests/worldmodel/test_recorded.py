"""An episode's changes are compared with those of a recorded success."""

from __future__ import annotations

from typing import Any

import pytest

from worldmodel.recorded import RecordedChanges
from worldmodel.steps import OK, Step

SCHEMA = {
    "type": "object",
    "properties": {
        "slot": {"type": "string"}, "guests": {"type": "integer"}, "note": {"type": "string"},
        "seat": {"type": "string", "enum": ["window", "aisle"]}, "gift": {"type": "boolean"},
    },
    "required": ["slot", "guests"],
}  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "book", "parameters": SCHEMA}}]
SLOTS = Step("slots", {"day": "mon"}, '[{"slot": "S-4"}, {"slot": "S-5"}]')
WRITES = ("book", "send", "create", "pay")


def write(tool: str, content: str = '{"done": true}', outcome: str = OK, **arguments: Any) -> Step:
    return Step(tool, arguments, content, outcome)


def recorded(*changes: Step, said: tuple[str, ...] = ("two places on Monday",)) -> RecordedChanges | None:
    return RecordedChanges.of(
        [SLOTS, *changes], said, TOOLS, lambda step: step.tool in WRITES and step.outcome == OK,
        lambda step: step.tool in WRITES and step.outcome == "timeout",
    )  # fmt: skip


def agreement(made: list[Step], *changes: Step, said: tuple[str, ...] = ("two places on Monday",)) -> float:
    found = recorded(*changes, said=said)
    assert found is not None
    return found.agreement(made)


BOOK = write("book", slot="S-4", guests=2)
SEND = write("send", to="S-4")


def test_equal_changes_agree_in_any_order_and_form() -> None:
    assert agreement([BOOK, SEND], SEND, BOOK) == 1.0
    assert agreement([write("book", slot=" s-4", guests=2.0, note=None)], BOOK) == 1.0
    assert agreement([write("book", slot="#S-4", guests="2")], BOOK) == 1.0
    assert agreement([write("send", to=["b", "a"])], write("send", to=["a", "b"])) == 1.0
    assert agreement([]) == 1.0


def test_a_change_too_much_or_too_few_or_of_another_tool_counts() -> None:
    assert agreement([BOOK]) == agreement([], BOOK) == agreement([SEND], BOOK) == 0.0
    assert agreement([BOOK], BOOK, SEND) == agreement([BOOK, SEND], BOOK) == 0.5
    assert agreement([BOOK, BOOK], BOOK) == agreement([BOOK], BOOK, BOOK) == 1.0, "the same call twice is one change"


def test_each_wrong_value_counts() -> None:
    other = write("book", slot="S-5", guests=2)
    assert agreement([other], BOOK) == pytest.approx(0.4)
    assert agreement([write("book", slot="S-5", guests=3)], BOOK) == pytest.approx(0.16)
    assert agreement([other, BOOK], BOOK, other) == 1.0, "the most similar ones are paired first"


def test_the_agents_own_words_only_have_to_be_given() -> None:
    mine = write("send", to="S-4", text="Dear guest, your place is booked.")
    yours = write("send", to="S-4", text="Hello! It is done.")
    assert agreement([yours], mine) == 1.0
    assert agreement([SEND], mine) == pytest.approx(0.4), "nothing was written"
    assert agreement([write("book", slot="S-4", guests=2, seat="aisle")], write("book", slot="S-4", guests=2,
                     seat="window")) == pytest.approx(0.4), "a choice is not a text"  # fmt: skip


def test_an_optional_value_that_is_left_out_counts_if_the_user_named_it() -> None:
    with_seat = write("book", slot="S-4", guests=2, seat="window")
    assert agreement([BOOK], with_seat) == 1.0 and agreement([with_seat], BOOK) == 1.0
    assert agreement([BOOK], with_seat, said=("two at the window",)) == pytest.approx(0.4)
    assert agreement([write("book", slot="S-4")], BOOK) == pytest.approx(0.4), "guests are required"


def test_what_a_change_creates_has_another_id_in_each_episode() -> None:
    first = [write("create", '{"ticket": "T-71"}', topic="S-4"), write("pay", ticket="T-71")]
    again = [write("create", '{"ticket": "T-93"}', topic="S-4"), write("pay", ticket="T-93")]
    assert agreement(again, *first) == 1.0
    assert agreement([again[0], write("pay", ticket="S-5")], *first) == pytest.approx(0.7)


def test_changes_that_may_have_been_done_are_not_known() -> None:
    lost = write("pay", "", "timeout", ticket="T-7")
    assert recorded(lost) is None
    assert recorded(lost, write("pay", ticket="T-7")) is not None, "the repetition succeeded"
    assert recorded(write("pay", "", "conflict", ticket="T-7")) is not None, "that was refused"
