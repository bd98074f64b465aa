"""Turns that say nothing join nothing, however an exporter writes nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from ingest_samples import answer, call, chat, request, span, text, tool

from ingest.conversations.evidence import say_something, says
from ingest.formats import otlp
from ingest.messages.chatform import to_turns
from ingest.tables.normalise import COLUMNS, Normalised, normalise

NOTHING = ["", " \n\t", "null", "None", '""', "{}", "[]"]
AGENTS = ("a", "b")
PLACES = [((1, 2), None), ((1, 1), None), ((1, 2), "c"), ((1, 1), "c")]  # traces, conversation id


def normalised(*requests: dict[str, Any]) -> Normalised:
    read = otlp.Rows()
    for r in requests:
        otlp.add_json_request(r, read, 0, "test")
    names = otlp.SCHEMAS["spans"].names
    at = [names.index(column) for column in COLUMNS["spans"]]
    return normalise([tuple(row[i] for i in at) for row in read.spans], [])


def agents_of(made: Normalised) -> list[str]:
    """The agent of each conversation, oldest first."""
    return [row[1] for row in sorted(made.rows["conversation_facts"], key=lambda row: row[2])]


def calls_of(made: Normalised) -> list[int]:
    """How many calls each conversation that has any makes."""
    return list(Counter(row[0] for row in made.rows["calls"]).values())


def run_of(
    number: int, agent: str, nothing: str, call_id: str, trace: int, cid: str | None
) -> list[dict[str, Any]]:
    """One run of one agent, whose messages say nothing: a call without arguments, its execution, an answer."""
    first, at = number * 10, number * 100.0
    history = [text("user", nothing), call(call_id, "look", {}), answer(call_id, nothing)]
    named = {"gen_ai.agent.name": agent} if agent else {}
    root = span(trace, first, "run", {"gen_ai.operation.name": "invoke_agent", **named}, at=at, took=9, parent=first)
    made = [
        chat(trace, first + 1, at + 1, history[:1], history[1:2], cid),
        tool(trace, first + 2, at + 2, call_id, "look", {}, nothing),
        chat(trace, first + 3, at + 3, history, [text("assistant", nothing)], cid),
    ]
    for child in made:
        child["parentSpanId"] = f"{first:016x}"
    return [root, *made]


@pytest.mark.parametrize("call_id", ["call_0", "look", ""], ids=["counted", "named after the tool", "no id"])
@pytest.mark.parametrize("nothing", NOTHING)
def test_two_agents_without_content_are_not_joined(nothing: str, call_id: str) -> None:
    """In traces of their own, in one, and under one conversation id."""
    for traces, cid in PLACES:
        runs = [run_of(n, agent, nothing, call_id, traces[n - 1], cid) for n, agent in enumerate(AGENTS, 1)]
        made = normalised(request(*(s for run in runs for s in run)))
        assert agents_of(made) == list(AGENTS) and calls_of(made) == [1, 1], (traces, cid)
        placed = Counter(row[1:4] for row in made.rows["placements"] if row[5] is None)
        assert len(placed) == 6 and set(placed.values()) == {1}, (traces, cid)


@pytest.mark.parametrize("nothing", NOTHING)
def test_unnamed_runs_without_content_are_not_joined(nothing: str) -> None:
    """No agent is named and the ids are counted: two traces have nothing in common."""
    runs = [run_of(n, "", nothing, "call_0", n, None) for n in (1, 2)]
    assert calls_of(normalised(request(*(s for run in runs for s in run)))) == [1, 1]


@pytest.mark.parametrize("nothing", NOTHING)
def test_a_later_trace_without_repeated_content_starts_a_conversation(nothing: str) -> None:
    """Histories of silent turns alone are equal; the second trace has one turn more."""
    silent = [text("user", nothing), text("assistant", nothing)]
    made = normalised(
        request(chat(1, 2, 1, silent[:1], silent[1:], None)),
        request(chat(2, 3, 500, [*silent, text("user", "Where is W1?")], [text("assistant", "Here.")], None)),
    )
    assert len(agents_of(made)) == 2


@pytest.mark.parametrize("content", [*NOTHING, "<REDACTED>", "[FILTERED]"])
def test_a_placeholder_is_not_content(content: str) -> None:
    (turn,) = to_turns(text("assistant", content))
    assert not says(turn) and not say_something([turn])


@pytest.mark.parametrize("content", ["no", "0", "[1]", "null and void", '{"a": null}', "nothing", "ok"])
def test_a_short_text_is_content(content: str) -> None:
    (turn,) = to_turns(text("assistant", content))
    assert says(turn)


def test_a_later_trace_with_repeated_content_continues_the_conversation() -> None:
    said = [text("user", "null"), text("assistant", "It is null.")]
    made = normalised(
        request(chat(1, 2, 1, said[:1], said[1:], None)),
        request(chat(2, 3, 500, [*said, text("user", "Where is W1?")], [text("assistant", "Here.")], None)),
    )
    assert len(agents_of(made)) == 1
