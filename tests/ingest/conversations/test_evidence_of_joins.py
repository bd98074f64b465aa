"""Nothing is joined without evidence that says something; another agent's thread is nobody's branch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ingest_samples import answer, call, chat, request, span, text, tool

from ingest.lake import Lake
from ingest.records import Conversation

Recover = Callable[..., list[Conversation]]
HOUR = 3600


def bare(message: dict[str, Any]) -> dict[str, Any]:
    """A message as libraries write it that may not tell content: kinds of parts, names and ids."""
    kept = ("type", "id", "name")
    return {**message, "parts": [{k: v for k, v in part.items() if k in kept} for part in message["parts"]]}


def run_of(trace: int, agent: str, call_id: str, at: float, parts: bool = True) -> list[dict[str, Any]]:
    """One run of an agent without contents: a call, its execution, an answer; without ``parts`` no messages either."""
    history = [text("user", ""), call(call_id, "look", {}), answer(call_id, "")]
    values = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": agent}
    root = span(trace, trace * 10 + 1, f"invoke_agent {agent}", values, at=at, took=9, parent=0)
    first = chat(trace, trace * 10 + 2, at + 1, [bare(history[0])], [bare(history[1])], None)
    ran = tool(trace, trace * 10 + 3, at + 2, call_id, "look", {}, "")
    ran["attributes"] = [a for a in ran["attributes"] if not a["key"].endswith((".arguments", ".result"))]
    second = chat(trace, trace * 10 + 4, at + 3, [bare(m) for m in history], [bare(text("assistant", ""))], None)
    for child in (first, ran, second):
        child["parentSpanId"] = f"{trace * 10 + 1:016x}"
    if not parts:
        for child in (first, second):
            child["attributes"] = [a for a in child["attributes"] if not a["key"].endswith("messages")]
    return [root, first, ran, second]


@pytest.mark.parametrize("ids", ["call_0", "call_{}f3a91b7c"])
@pytest.mark.parametrize("parts", [True, False])
def test_runs_of_different_agents_without_contents_stay_apart(
    recover: Recover, lake: Lake, ids: str, parts: bool
) -> None:
    runs = [run_of(n, name, ids.format(n), n * HOUR, parts) for n, name in enumerate(("a", "b", "c"), 1)]
    found = recover(request(*(made for run in runs for made in run)))
    assert [c.agent for c in found] == ["a", "b", "c"]
    balance = lake.conservation()
    assert balance.holds and balance.execution.placed == 3
    if parts:
        assert [[m["role"] for m in c.messages] for c in found] == [["assistant", "tool", "assistant"]] * 3
        assert lake.query("SELECT count(*) AS n FROM tool_calls")["n"][0].as_py() == 3


def test_runs_without_contents_in_one_trace_stay_apart(recover: Recover, lake: Lake) -> None:
    made = [s for n, name in enumerate(("a", "b", "c"), 1) for s in run_of(n, name, "call_0", n * 60)]
    for s in made:
        s["traceId"] = f"{1:032x}"
    found = recover(request(*made))
    assert [(c.agent, len(c.messages)) for c in found] == [("a", 3), ("b", 3), ("c", 3)]
    assert lake.conservation().holds


def test_conversations_with_equal_beginnings_are_not_joined(recover: Recover) -> None:
    """Two users say hello, get the same answer, and go on: which goes on from which nobody can tell."""
    hello = [text("user", "Hello."), text("assistant", "Hi, what is it?")]
    begun = [request(chat(n, n, n, hello[:1], hello[1:], None)) for n in (1, 2)]
    more = {n: [*hello, text("user", f"about {n}")] for n in (3, 4)}
    found = recover(*begun, *(request(chat(n, n, n, more[n], [text("assistant", f"{n}, yes")], None)) for n in more))
    assert sorted(len(c.messages) for c in found) == [2, 2, 4, 4]


def test_counted_ids_do_not_join_conversations_with_different_calls(recover: Recover) -> None:
    first = [text("user", "Cancel W1."), call("call_0", "cancel", {"id": "W1"})]
    other = [text("user", "Cancel W2."), call("call_0", "cancel", {"id": "W2"}), answer("call_0", "refused")]
    found = recover(
        request(chat(1, 2, 1, first[:1], first[1:], None)),
        request(chat(2, 3, 90, [*other, text("user", "Why?")], [text("assistant", "It has shipped.")], None)),
    )
    assert [c.messages[0]["content"] for c in found] == ["Cancel W1.", "Cancel W2."]


def system(words: str) -> dict[str, str]:
    return {"gen_ai.system_instructions": json.dumps([{"type": "text", "content": words}])}


def named(name: str) -> dict[str, str]:
    return {"gen_ai.agent.name": name}


def test_a_guardrail_with_the_same_input_is_not_a_branch(recover: Recover) -> None:
    """The second question goes to both with the history of the first; the guardrail answers before the agent does."""
    ask, said, more = text("user", "Where is W1?"), text("assistant", "On its way."), text("user", "And W2?")
    verdict = text("assistant", "allowed")
    desk, guard = {**system("Be kind."), **named("desk")}, {**system("Say allowed or not."), **named("guard")}
    found = recover(request(
        chat(1, 2, 1.0, [ask], [verdict], None, **guard), chat(1, 3, 1.1, [ask], [said], None, **desk),
        chat(1, 4, 2.0, [ask, said, more], [verdict], None, **guard),
        chat(1, 5, 2.1, [ask, said, more], [text("assistant", "Lost.")], None, **desk),
    ))  # fmt: skip
    (whole,) = [c for c in found if c.agent == "desk"]
    assert [m["content"] for m in whole.messages] == ["Be kind.", "Where is W1?", "On its way.", "And W2?", "Lost."]
    for c in found:
        if c.agent == "guard":
            assert c.messages[0]["content"] == "Say allowed or not." and c.messages[-1]["content"] == "allowed"


def test_a_function_with_the_same_input_keeps_its_own_prompt(recover: Recover) -> None:
    ask = text("user", "Where is W1?")
    found = recover(request(
        chat(1, 2, 1.0, [ask], [text("assistant", "On its way.")], None, **system("Be kind.")),
        chat(1, 3, 1.1, [ask], [text("assistant", "allowed")], None, **system("Say allowed or not.")),
    ))  # fmt: skip
    assert [[m["content"] for m in c.messages] for c in found] == [
        ["Be kind.", "Where is W1?", "On its way."], ["Say allowed or not.", "Where is W1?", "allowed"],
    ]  # fmt: skip
    assert not any("branch" in c.flags for c in found)


@pytest.mark.parametrize("arguments", [{}, {"reason": "refund"}])
def test_a_handoff_is_one_conversation(recover: Recover, lake: Lake, arguments: dict[str, str]) -> None:
    """The second agent has the whole history, another prompt and other tools, and the first gets it back."""
    ask, over = text("user", "I want my money."), call("call_5d1c9e02", "transfer_to_refunds", arguments)
    told, said = answer("call_5d1c9e02", '{"assistant": "refunds"}'), text("assistant", "It is refunded.")
    more = text("user", "Thanks. And W2?")
    triage, refunds = {**system("Route."), **named("triage")}, {**system("Refund."), **named("refunds")}
    (c,) = recover(request(
        chat(1, 2, 1, [ask], [over], None, **triage),
        chat(1, 3, 2, [ask, over, told], [said], None, **refunds),
        chat(1, 4, 3, [ask, over, told, said, more], [text("assistant", "On its way.")], None, **triage),
    ))  # fmt: skip
    assert [m["role"] for m in c.messages] == ["system", "user", "assistant", "tool", "assistant", "user", "assistant"]
    assert c.agent == "triage" and c.messages[0]["content"] == "Route."
    assert lake.conservation().holds and lake.conservation().inference.placed == 3
