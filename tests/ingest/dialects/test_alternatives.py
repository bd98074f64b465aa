"""Several answers to one request are branches, and never said in a row."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ingest_samples import event, request, span, text

from ingest.records import Conversation

Recover = Callable[..., list[Conversation]]
ASKED = "Suggest a lamp."
TAKE = ["Take LAMP-7.", "Take DESK-1."]
CHOICES = [
    {"index": n, "finish_reason": "stop", "message": {"role": "assistant", "content": t}} for n, t in enumerate(TAKE)
]
INPUT = {"gen_ai.operation.name": "chat", "gen_ai.input.messages": json.dumps([text("user", ASKED)])}
OPENAI = json.dumps({"messages": [{"role": "user", "content": ASKED}], "n": 2})


def flat(prefix: str, key: str) -> dict[str, Any]:
    return {f"{prefix}.{n}.{key}{k}": v for n, t in enumerate(TAKE) for k, v in (("role", "assistant"), ("content", t))}


DIALECTS: dict[str, dict[str, Any]] = {
    "otel, by the count": {
        **INPUT,
        "gen_ai.request.choice.count": 2,
        "gen_ai.output.messages": json.dumps([text("assistant", t) for t in TAKE]),
    },
    "otel, by the reasons": {
        **INPUT,
        "gen_ai.response.finish_reasons": ["stop", "stop"],
        "gen_ai.output.messages": json.dumps([text("assistant", t) for t in TAKE]),
    },
    "otel, by each message's reason": {
        **INPUT,
        "gen_ai.output.messages": json.dumps([{**text("assistant", t), "finish_reason": "stop"} for t in TAKE]),
    },
    "openinference, by the parameters": {
        "openinference.span.kind": "LLM",
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": ASKED,
        "llm.invocation_parameters": '{"n": 2}',
        **flat("llm.output_messages", "message."),
    },
    "openinference, raw": {
        "openinference.span.kind": "LLM",
        "input.value": OPENAI,
        "output.value": json.dumps({"id": "c1", "choices": CHOICES}),
    },
    "openllmetry": {
        "llm.request.type": "chat",
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": ASKED,
        **flat("gen_ai.completion", ""),
        "gen_ai.completion.0.finish_reason": "stop",
        "gen_ai.completion.1.finish_reason": "stop",
    },
    "gemini": {
        "langfuse.observation.type": "generation",
        "langfuse.observation.input": OPENAI,
        "langfuse.observation.output": json.dumps(
            {"candidates": [{"content": {"role": "model", "parts": [{"text": t}]}} for t in TAKE]}
        ),
    },
    "langchain": {
        "langsmith.span.kind": "llm",
        "gen_ai.prompt": OPENAI,
        "gen_ai.completion": json.dumps(
            {"generations": [[{"text": t, "message": {"kwargs": {"content": t}, "id": ["AIMessage"]}} for t in TAKE]]}
        ),
    },
}


def told(found: list[Conversation]) -> list[list[str | None]]:
    return sorted([m["content"] for m in c.messages] for c in found)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_two_answers_are_two_branches(dialect: str, recover: Recover) -> None:
    found = recover(request(span(1, 1, "call", DIALECTS[dialect], parent=1)))
    assert told(found) == sorted([ASKED, t] for t in TAKE)


def test_choices_are_read_from_events(recover: Recover) -> None:
    told_by = [
        event("gen_ai.user.message", {"content": ASKED}),
        *(
            event("gen_ai.choice", {"index": n, "finish_reason": "stop", "message": json.dumps({"content": t})})
            for n, t in enumerate(TAKE)
        ),
    ]
    made = span(1, 1, "call", {"gen_ai.operation.name": "chat", "gen_ai.system": "x"}, parent=1, events=told_by)
    assert told(recover(request(made))) == sorted([ASKED, t] for t in TAKE)


def test_calls_of_two_answers_are_not_one_turn(recover: Recover) -> None:
    def choice(n: int) -> dict[str, Any]:
        call = {"id": f"c{n}", "type": "function", "function": {"name": "get", "arguments": f'{{"n": {n}}}'}}
        return {"index": n, "finish_reason": "tool_calls", "message": {"role": "assistant", "tool_calls": [call]}}

    values = {
        "openinference.span.kind": "LLM",
        "input.value": OPENAI,
        "output.value": json.dumps({"choices": [choice(1), choice(2)]}),
    }
    found = recover(request(span(1, 1, "call", values, parent=1)))
    assert [len(m.get("tool_calls", ())) for c in found for m in c.messages if m["role"] == "assistant"] == [1, 1]


def test_the_conversation_continues_from_the_chosen_answer(recover: Recover) -> None:
    first = DIALECTS["otel, by the count"]
    second = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([text("user", ASKED), text("assistant", TAKE[1]), text("user", "Good.")]),
        "gen_ai.output.messages": json.dumps([text("assistant", "Ordered.")]),
    }
    found = recover(request(span(1, 1, "call", first, parent=1), span(1, 2, "call", second, at=1, parent=2)))
    assert told(found) == sorted([[ASKED, TAKE[0]], [ASKED, TAKE[1], "Good.", "Ordered."]])


def test_parallel_calls_of_one_answer_stay_one_turn(recover: Recover) -> None:
    """OpenLLMetry lists the items of one answer as messages, each with the answer's reason."""
    calls = [
        {
            "role": "assistant",
            "finish_reason": "tool_call",
            "parts": [{"type": "tool_call", "id": f"c{n}", "name": "get", "arguments": {"n": n}}],
        }
        for n in (1, 2)
    ]
    values = {**INPUT, "gen_ai.output.messages": json.dumps(calls), "gen_ai.response.finish_reasons": ["tool_call"]}
    (c,) = recover(request(span(1, 1, "call", values, parent=1)))
    assert [len(m.get("tool_calls", ())) for m in c.messages] == [0, 2]


def test_an_answer_that_cannot_be_read_is_flagged(recover: Recover) -> None:
    values = {**INPUT, "gen_ai.response.finish_reasons": ["content_filter"]}
    (c,) = recover(request(span(1, 1, "call", values, parent=1)))
    assert "unread_output" in c.flags
    odd = {**INPUT, "gen_ai.output.messages": '[{"role": "assistant", "parts": [{"type": "hologram", "data": "x"}]}]'}
    (c,) = recover(request(span(1, 1, "call", odd, parent=1)))
    assert "unread_part" in c.flags
