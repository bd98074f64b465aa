"""Which execution ran which call: an id is checked against arguments, results, places and times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ingest_samples import answer, attributes, call, chat, request, span, text, tool

from ingest.lake import Lake
from ingest.records import Conversation

Recover = Callable[..., list[Conversation]]
ASK = text("user", "Do it.")


def without(made: dict[str, Any], *keys: str) -> dict[str, Any]:
    """A span without some attributes."""
    return {**made, "attributes": [a for a in made["attributes"] if not a["key"].endswith(keys)]}


def answers(c: Conversation) -> list[tuple[str | None, bool]]:
    return [(m["content"], m["is_error"]) for m in c.messages if m["role"] == "tool"]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("ids", [True, False])
def test_the_last_attempt_of_a_retried_call_is_used(recover: Recover, lake: Lake, told: bool, ids: bool) -> None:
    """A framework tries the tool three times and tells the model of the last."""
    made = call("call_7c21aa90", "book", {"id": 1})
    runs = [tool(1, 3 + n, 2 + n, "call_7c21aa90", "book", {"id": 1}, "", "TimeoutError") for n in range(2)]
    runs = [without(run, "call.result") for run in runs] + [tool(1, 5, 4, "call_7c21aa90", "book", {"id": 1}, "booked")]
    runs = runs if ids else [without(run, "call.id") for run in runs]
    then = [chat(1, 6, 5, [ASK, made, answer("call_7c21aa90", "booked")], [text("assistant", "Booked.")], None)]
    (c,) = recover(request(chat(1, 2, 1, [ASK], [made], None), *runs, *(then if told else [])))
    assert answers(c) == [("booked", False)]
    balance = lake.conservation()
    assert balance.holds and balance.execution.placed == 3


def test_attempts_within_one_execution_are_one_execution(recover: Recover, lake: Lake) -> None:
    made = call("call_7c21aa90", "book", {"id": 1})
    outer = {**tool(1, 3, 2, "call_7c21aa90", "book", {"id": 1}, "booked"), "endTimeUnixNano": str(2**60 * 2)}
    inner = [tool(1, 4 + n, 2.1 + n, "", "book", {"id": 1}, "", "TimeoutError" if n == 0 else None) for n in range(2)]
    inner = [without({**run, "parentSpanId": f"{3:016x}"}, "call.id", "call.result") for run in inner]
    (c,) = recover(request(chat(1, 2, 1, [ASK], [made], None), outer, *inner))
    assert answers(c) == [("booked", False)] and lake.conservation().execution.placed == 3


def test_an_incomplete_attempt_does_not_replace_a_result(recover: Recover) -> None:
    """A second telling of the run, by another library, knows no result and never ended."""
    made = call("call_7c21aa90", "book", {"id": 1})
    half = without(tool(1, 4, 3, "call_7c21aa90", "book", {"id": 1}, ""), "call.result")
    half["endTimeUnixNano"] = half["startTimeUnixNano"]
    (c,) = recover(request(
        chat(1, 2, 1, [ASK], [made], None), tool(1, 3, 2, "call_7c21aa90", "book", {"id": 1}, "booked"), half,
    ))  # fmt: skip
    assert answers(c) == [("booked", False)] and "call_without_result" not in c.flags


@pytest.mark.parametrize("call_id", ["call_0", "functions.look:0", "look"])
def test_counted_ids_may_repeat_in_later_turns(recover: Recover, call_id: str) -> None:
    """The same call is made again and answered otherwise; of three runs one never came."""
    history: list[dict[str, Any]] = [ASK]
    spans = []
    for n, said in enumerate(("open", "packed", "shipped")):
        made = call(call_id, "look", {"id": "W1"})
        spans.append(chat(1, 10 + n, 10 * n + 1, history, [made], None))
        if n != 1:
            spans.append(tool(1, 20 + n, 10 * n + 3, call_id, "look", {"id": "W1"}, said, "Late" if n == 2 else None))
        history = [*history, made, answer(call_id, said)]
    (c,) = recover(request(*spans, chat(1, 30, 31, history, [text("assistant", "Shipped.")], None)))
    assert answers(c) == [("open", False), ("packed", False), ("shipped", True)]


def test_counted_ids_of_two_agents_in_a_trace_do_not_collide(recover: Recover, lake: Lake) -> None:
    """Both call the tool with the same id and nothing else to tell them apart than where they stand."""
    spans = []
    for n, name in enumerate(("a", "b")):
        values = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name}
        root = span(1, 10 + n, f"invoke_agent {name}", values, took=20, parent=0)
        first = chat(1, 20 + n, 1 + n, [text("user", f"for {name}")], [call("call_0", "look", {})], None)
        ran = tool(1, 30 + n, 9 - 3 * n, "call_0", "look", {}, f"seen by {name}")
        spans += [root, *({**child, "parentSpanId": f"{10 + n:016x}"} for child in (first, ran))]
    found = recover(request(*spans))
    assert {c.agent: answers(c) for c in found} == {"a": [("seen by a", False)], "b": [("seen by b", False)]}


@pytest.mark.parametrize("kind", ["GraphInterrupt", "acme.ApprovalRequired", "CallDeferred", "WorkflowSuspended"])
def test_a_tool_that_waits_for_approval_is_not_an_error(recover: Recover, kind: str) -> None:
    """It is approved in another trace; the model is told what it answered then."""
    made = call("call_7c21aa90", "cancel", {"id": 1})
    paused = without(tool(1, 3, 2, "call_7c21aa90", "cancel", {"id": 1}, "", kind), "call.result")
    history = [ASK, made, answer("call_7c21aa90", "cancelled")]
    first, then = chat(1, 2, 1, [ASK], [made], "c"), chat(2, 5, 900, history, [text("assistant", "Done.")], "c")
    resumed = tool(2, 4, 899, "call_7c21aa90", "cancel", {"id": 1}, "cancelled")
    resumed["attributes"] += attributes({"gen_ai.conversation.id": "c"})
    (c,) = recover(request(first, paused), request(resumed, then))
    (observation,) = [m for m in c.messages if m["role"] == "tool"]
    assert answers(c) == [("cancelled", False)] and observation["error_class"] == "" and observation["latency_ms"] == 40


def test_a_pending_tool_has_no_result(recover: Recover) -> None:
    made = call("call_7c21aa90", "cancel", {"id": 1})
    paused = without(tool(1, 3, 2, "call_7c21aa90", "cancel", {"id": 1}, "", "GraphInterrupt"), "call.result")
    (c,) = recover(request(chat(1, 2, 1, [ASK], [made], None), paused))
    assert answers(c) == [] and "call_without_result" in c.flags


def test_edited_arguments_do_not_lose_the_result(recover: Recover) -> None:
    made = call("call_7c21aa90", "pay", {"amount": 100, "to": "a"})
    (c,) = recover(request(
        chat(1, 2, 1, [ASK], [made], None), tool(1, 3, 2, "call_7c21aa90", "pay", {"amount": 50, "to": "a"}, "paid 50"),
    ))  # fmt: skip
    assert answers(c) == [("paid 50", False)]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("at_end", [{"gen_ai.tool.call.arguments"}, set()])
def test_a_span_exported_at_start_and_end_is_one_span(
    recover: Recover, order: int, at_end: set[str]
) -> None:
    """Its tellings come in any order; what only the first one says is kept."""
    made = call("call_7c21aa90", "book", {"id": 1})
    whole = tool(1, 3, 2, "call_7c21aa90", "book", {"id": 1}, "booked")
    begun = {**without(whole, "call.result"), "endTimeUnixNano": whole["startTimeUnixNano"]}
    ended = without(whole, *at_end) if at_end else whole
    first = chat(1, 2, 1, [ASK], [made], None)
    begun_call = {**without(first, "output.messages"), "endTimeUnixNano": first["startTimeUnixNano"]}
    (c,) = recover(*(request(*tellings) for tellings in [(begun_call, begun), (first, ended)][::order]))
    assert answers(c) == [("booked", False)]
    assert [m["role"] for m in c.messages] == ["user", "assistant", "tool"]


def test_a_result_that_the_history_leaves_out_comes_from_the_execution(recover: Recover) -> None:
    made = call("call_7c21aa90", "book", {"id": 1})
    silent = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_7c21aa90"}]}
    (c,) = recover(request(
        chat(1, 2, 1, [ASK], [made], None), tool(1, 3, 2, "call_7c21aa90", "book", {"id": 1}, "booked"),
        chat(1, 4, 3, [ASK, made, silent], [text("assistant", "Done.")], None),
    ))  # fmt: skip
    assert answers(c) == [("booked", False)]
