"""APIs that keep the state: a call names the response or the conversation that it continues."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ingest_samples import request, span

from ingest.records import Conversation

Recover = Callable[..., list[Conversation]]
TURNS = [("My order is W1.", "Noted."), ("Cancel it.", "Cancelled."), ("Thanks.", "Goodbye!")]


def said(c: Conversation) -> list[str]:
    return [m["content"] or "" for m in c.messages if m["role"] != "system"]


WHOLE = [t for turn in TURNS for t in turn]


def raw_request(n: int, previous: str | None, **more: Any) -> str:
    state = {"previous_response_id": previous} if previous else {}
    return json.dumps(
        {"input": [{"role": "user", "content": TURNS[n][0]}], "instructions": "Be kind.", **state, **more}
    )


def raw_response(n: int, previous: str | None, **more: Any) -> str:
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": TURNS[n][1]}]}
    return json.dumps(
        {"id": f"resp_{n}", "object": "response", "output": [message], "previous_response_id": previous, **more}
    )


def messages(role: str, content: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": content}]}])


def openinference(n: int, previous: str | None, **more: Any) -> dict[str, Any]:
    return {
        "openinference.span.kind": "LLM",
        "input.value": raw_request(n, previous, **more),
        "output.value": raw_response(n, previous),
    }


def invocation_parameters(n: int, previous: str | None) -> dict[str, Any]:
    return {
        "openinference.span.kind": "LLM",
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": TURNS[n][0],
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": TURNS[n][1],
        "output.value": raw_response(n, None),
        "llm.invocation_parameters": json.dumps({"model": "m", "previous_response_id": previous}),
    }


def otel(n: int, previous: str | None) -> dict[str, Any]:
    named = {"openai.request.previous_response_id": previous} if previous else {}
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": messages("user", TURNS[n][0]),
        "gen_ai.output.messages": messages("assistant", TURNS[n][1]),
        "gen_ai.response.id": f"resp_{n}",
        **named,
    }


def logfire(n: int, previous: str | None) -> dict[str, Any]:
    return {"request_data": raw_request(n, previous), "response_data": raw_response(n, previous)}


def langfuse(n: int, previous: str | None) -> dict[str, Any]:
    return {
        "langfuse.observation.type": "generation",
        "langfuse.observation.input": raw_request(n, previous),
        "langfuse.observation.output": raw_response(n, previous),
    }


def mlflow(n: int, previous: str | None) -> dict[str, Any]:
    return {
        "mlflow.spanType": "CHAT_MODEL",
        "mlflow.spanInputs": raw_request(n, previous),
        "mlflow.spanOutputs": raw_response(n, previous),
    }


def unknown(n: int, previous: str | None) -> dict[str, Any]:
    return {"acme.model": "m", "acme.request": raw_request(n, previous), "acme.response": raw_response(n, previous)}


DIALECTS = [openinference, invocation_parameters, otel, logfire, langfuse, mlflow, unknown]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_turns_in_traces_of_their_own_are_one_conversation(dialect: Callable[..., Any], recover: Recover) -> None:
    names = [None, "resp_0", "resp_1"]
    made = [span(n + 1, n + 1, "call", dialect(n, name), at=n, parent=n + 1) for n, name in enumerate(names)]
    (c,) = recover(request(*made))
    assert said(c) == WHOLE


def test_a_response_continued_twice_is_a_branch(recover: Recover) -> None:
    """What goes on from an earlier response stands behind that one, not behind what was said since."""
    made = [
        span(n + 1, n + 1, "call", openinference(n, name), at=n, parent=n + 1)
        for n, name in enumerate([None, "resp_0", "resp_0"])
    ]
    assert sorted(map(said, recover(request(*made)))) == sorted([WHOLE[:4], [*WHOLE[:2], *WHOLE[4:]]])


def test_equal_texts_in_two_response_chains_are_not_joined(recover: Recover) -> None:
    """The id decides where the words fit both."""

    def call(n: int, name: str, previous: str | None) -> dict[str, Any]:
        values = otel(n, previous) | {"gen_ai.response.id": name, "gen_ai.conversation.id": "c"}
        return values | {"gen_ai.output.messages": messages("assistant", f"{TURNS[n][1]} {name}")}

    order = [(0, "a0", None), (0, "b0", None), (1, "a1", "a0"), (1, "b1", "b0")]
    made = [span(k + 1, k + 1, "call", call(*told), at=k, parent=k + 1) for k, told in enumerate(order)]
    found = {tuple(said(c)) for c in recover(request(*made))}
    assert found == {("My order is W1.", f"Noted. {x}0", "Cancel it.", f"Cancelled. {x}1") for x in "ab"}


def test_a_call_with_a_response_id_and_a_history_is_not_duplicated(recover: Recover) -> None:
    history = [
        {"role": "user", "parts": [{"type": "text", "content": TURNS[0][0]}]},
        {"role": "assistant", "parts": [{"type": "text", "content": TURNS[0][1]}]},
        {"role": "user", "parts": [{"type": "text", "content": TURNS[1][0]}]},
    ]
    second = otel(1, "resp_0") | {"gen_ai.input.messages": json.dumps(history)}
    (c,) = recover(request(span(1, 1, "call", otel(0, None), parent=1), span(2, 2, "call", second, at=1, parent=2)))
    assert said(c) == WHOLE[:4]


@pytest.mark.parametrize(
    "state",
    [
        {"conversation": "conv_17"},
        {"conversation": {"id": "conv_17"}},
        {"conversation_id": "conv_17"},
        {"thread_id": "conv_17"},
    ],
)
@pytest.mark.parametrize("session", [{}, {"session.id": "s-1"}])
def test_calls_with_one_stored_conversation_id_are_one_conversation(
    state: dict[str, Any], session: dict[str, Any], recover: Recover
) -> None:
    """Conversations, threads: every call tells only what is new."""
    calls = [openinference(n, None, **state) | session for n in range(3)]
    (c,) = recover(request(*(span(n + 1, n + 1, "call", v, at=n, parent=n + 1) for n, v in enumerate(calls))))
    assert said(c) == WHOLE and c.conversation_id == session.get("session.id", "conv_17")


def test_a_session_id_groups_calls_without_ordering_them(recover: Recover) -> None:
    calls = [openinference(n, None, metadata={"session_id": "conv_17"}) for n in range(3)]
    found = recover(request(*(span(n + 1, n + 1, "call", v, at=n, parent=n + 1) for n, v in enumerate(calls))))
    assert {c.conversation_id.split("/")[0] for c in found} == {"conv_17"}
    assert sorted(map(said, found)) == sorted(WHOLE[n : n + 2] for n in (0, 2, 4))


@pytest.mark.parametrize(
    "state",
    [
        {"conversation": "User: hi there\nBot: hello"},
        {"tools": [{"name": "x", "input": {"thread_id": "t-1234"}}]},
    ],
)
def test_similar_fields_are_not_conversation_ids(state: dict[str, Any], recover: Recover) -> None:
    (c,) = recover(request(span(1, 1, "call", openinference(0, None, **state), parent=1)))
    assert c.conversation_id == f"{1:032x}"


def test_an_approval_adds_no_message(recover: Recover) -> None:
    """MCP with approval: the first response asks, the second request approves, the second response ran the tool."""
    approval = {"type": "mcp_approval_request", "id": "a1", "name": "cancel", "arguments": "{}"}
    ran = {
        "type": "mcp_call",
        "id": "m1",
        "approval_request_id": "a1",
        "name": "cancel",
        "arguments": "{}",
        "output": "ok",
    }
    first = {
        "openinference.span.kind": "LLM",
        "input.value": raw_request(0, None),
        "output.value": json.dumps({"id": "resp_0", "object": "response", "output": [approval]}),
    }
    asked = {
        "input": [{"type": "mcp_approval_response", "approval_request_id": "a1", "approve": True}],
        "previous_response_id": "resp_0",
    }
    second = {
        "openinference.span.kind": "LLM",
        "input.value": json.dumps(asked),
        "output.value": json.dumps({"id": "resp_1", "object": "response", "output": [ran]}),
    }
    (c,) = recover(request(span(1, 1, "call", first, parent=1), span(2, 2, "call", second, at=1, parent=2)))
    assert [(m["role"], m["content"]) for m in c.messages] == [
        ("system", "Be kind."),
        ("user", TURNS[0][0]),
        ("assistant", None),
        ("tool", "ok"),
    ]
