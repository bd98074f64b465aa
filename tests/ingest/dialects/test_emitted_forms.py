"""Forms that instrumentations really write, found by running them: doubled results, unread streams, ids made anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from dialect_samples import ANSWER, ARGUMENTS, ASK, FAILED, facts, log, logs, spans, turn
from ingest_samples import event, request, span, text

from ingest.records import Conversation

Recover = Callable[..., list[Conversation]]
FACTS = [("user", ASK), ("call", "cancel", ARGUMENTS), ("result", "cancel", FAILED, True), ("assistant", ANSWER)]
RESULT = {"toolUseId": "c1", "content": [{"text": FAILED}], "status": "error"}
CALL = {"toolUseId": "c1", "name": "cancel", "input": ARGUMENTS}


def test_a_result_in_an_event_and_in_a_user_block_is_kept_once(recover: Recover) -> None:
    """opentelemetry-instrumentation-botocore writes Bedrock's tool results twice."""
    named = {"gen_ai.system": "aws.bedrock", "gen_ai.operation.name": "chat"}
    called = {"id": "c1", "type": "function", "function": {"name": "cancel", "arguments": ARGUMENTS}}
    asked = log(2, "gen_ai.user.message", {"content": [{"text": ASK}]}, 1)
    history = [
        log(4, "gen_ai.user.message", {"content": [{"text": ASK}]}, 1),
        log(4, "gen_ai.assistant.message", {"content": [{"toolUse": CALL}], "tool_calls": [called]}, 2),
        log(4, "gen_ai.tool.message", {"id": "c1", "content": [{"text": FAILED}]}, 3),
        log(4, "gen_ai.user.message", {"content": [{"toolResult": RESULT}]}, 4),
    ]
    said = (
        log(2, "gen_ai.choice", {"index": 0, "message": {"role": "assistant", "tool_calls": [called]}}, 9),
        log(4, "gen_ai.choice", {"index": 0, "message": {"role": "assistant", "content": [{"text": ANSWER}]}}, 9),
    )
    (c,) = recover(turn(named, None, named) | logs(asked, *history, *said))
    assert facts(c) == FACTS and "orphan_result" not in c.flags


def test_a_user_who_sends_text_beside_a_result_keeps_the_text(recover: Recover) -> None:
    named = {"gen_ai.system": "aws.bedrock", "gen_ai.operation.name": "chat"}
    history = [
        log(4, "gen_ai.user.message", {"content": [{"text": ASK}]}, 1),
        log(4, "gen_ai.assistant.message", {"content": [{"toolUse": CALL}]}, 2),
        log(4, "gen_ai.tool.message", {"id": "c1", "content": [{"text": FAILED}]}, 3),
        log(4, "gen_ai.user.message", {"content": [{"toolResult": RESULT}, {"text": "Hurry."}]}, 4),
        log(4, "gen_ai.choice", {"index": 0, "message": {"role": "assistant", "content": ANSWER}}, 9),
    ]
    sample = turn(named, None, named)
    del spans(sample)[1]
    (c,) = recover(sample | logs(*history))
    assert facts(c) == [*FACTS[:3], ("user", "Hurry."), FACTS[3]]


def test_the_repr_of_a_stream_is_no_answer(recover: Recover) -> None:
    """OpenInference for Groq writes the repr of a stream that it did not read; the next request tells the answer."""

    def llm(messages: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "openinference.span.kind": "LLM",
            "input.value": json.dumps({"messages": messages, "stream": True}),
            "output.value": "<groq.Stream object at 0x7f4338b440d0>",
        }

    call = {"id": "c1", "type": "function", "function": {"name": "cancel", "arguments": json.dumps(ARGUMENTS)}}
    asked = [{"role": "user", "content": ASK}]
    history = [
        *asked,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": FAILED},
    ]
    (c,) = recover(turn(llm(asked), None, llm(history)))
    assert facts(c) == FACTS[:3]


def test_bedrocks_json_blocks_as_text_are_the_answer(recover: Recover) -> None:
    def told(value: Any) -> list[dict[str, Any]]:
        part = {"type": "tool_call_response", "id": "c1", "response": value}
        call = {"type": "tool_call", "id": "c1", "name": "cancel", "arguments": ARGUMENTS}
        return [text("user", ASK), {"role": "assistant", "parts": [call]}, {"role": "tool", "parts": [part]}]

    def asked(value: Any) -> dict[str, Any]:
        return {
            "gen_ai.operation.name": "chat",
            "gen_ai.input.messages": json.dumps(told(value)),
            "gen_ai.output.messages": json.dumps([text("assistant", ANSWER)]),
        }

    answer = {"state": "cancelled"}
    for block in (json.dumps([{"json": answer}]), [{"json": answer}]):
        (c,) = recover(request(span(1, 1, "chat m", asked(block))))
        (row,) = [m for m in c.messages if m["role"] == "tool"]
        assert json.loads(row["content"] or "") == answer


def test_ids_that_are_counted_in_each_answer_still_join_traces(recover: Recover) -> None:
    """opentelemetry-instrumentation-google-genai calls every answer's first call of a tool ``cancel_0``. Here each
    model call is a trace of its own, and another conversation begins with the same call."""

    def call(arguments: dict[str, Any]) -> dict[str, Any]:
        part = {"type": "tool_call", "id": "cancel_0", "name": "cancel", "arguments": arguments}
        return {"role": "assistant", "parts": [part]}

    def result(response: str) -> dict[str, Any]:
        return {"role": "user", "parts": [{"type": "tool_call_response", "id": "cancel_0", "response": response}]}

    def chat(trace: int, asked: list[dict[str, Any]], said: dict[str, Any]) -> dict[str, Any]:
        values = {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.input.messages": json.dumps(asked),
            "gen_ai.output.messages": json.dumps([said]),
        }
        return span(trace, trace, "generate_content m", values, at=trace, parent=trace)

    ask, other = text("user", ASK), text("user", "Cancel W1 and say why.")
    first, second = call(ARGUMENTS), call({**ARGUMENTS, "why": "mistake"})
    history = [ask, first, result(FAILED)]
    done = [*history, second, result("done")]
    found = recover(
        request(
            chat(1, [ask], first),
            chat(2, history, second),
            chat(3, done, text("assistant", ANSWER)),
            chat(4, [other], call({**ARGUMENTS, "why": "none"})),
        )
    )
    assert [len(c.messages) for c in found] == [6, 2]
    assert "call_without_result" not in found[0].flags


ENVELOPES: dict[str, tuple[Any, Any]] = {
    "OpenInference for LangChain": (
        ARGUMENTS,
        {"type": "tool", "data": {"content": "no", "type": "tool", "tool_call_id": "c1", "status": "error"}},
    ),
    "OpenLLMetry for LangChain": (
        {"input_str": str(ARGUMENTS), "tags": [], "metadata": {"step": 1}, "inputs": ARGUMENTS},
        {
            "output": {
                "lc": 1,
                "type": "constructor",
                "id": ["langchain", "schema", "messages", "ToolMessage"],
                "kwargs": {"content": "no", "tool_call_id": "c1", "status": "error"},
            },
            "kwargs": {"tags": ["seq:step:1"]},
        },
    ),
}


@pytest.mark.parametrize("how", ENVELOPES)
def test_an_error_inside_an_envelope_is_an_error(how: str, recover: Recover) -> None:
    """The text "no" alone is no error: the message's status says it."""
    arguments, result = ENVELOPES[how]
    tool = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "cancel",
        "gen_ai.tool.call.arguments": json.dumps(arguments),
        "gen_ai.tool.call.result": json.dumps(result),
    }
    part = {"type": "tool_call", "id": "c1", "name": "cancel", "arguments": ARGUMENTS}
    chat = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([text("user", ASK)]),
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [part]}]),
    }
    (c,) = recover(request(span(1, 1, "chat m", chat), span(1, 2, "execute_tool cancel", tool, at=1)))
    assert facts(c) == [*FACTS[:2], ("result", "cancel", "no", True)]


def test_the_agents_span_defines_the_tools_of_its_model_calls(recover: Recover) -> None:
    """Microsoft's Agent Framework writes ``gen_ai.tool.definitions`` on the agent's span only."""
    named = [{"type": "function", "name": n, "parameters": {"type": "object"}} for n in ("cancel", "find")]
    agent = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "desk",
        "gen_ai.tool.definitions": json.dumps(named),
    }
    chat = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([text("user", ASK)]),
        "gen_ai.output.messages": json.dumps([text("assistant", ANSWER)]),
    }
    (c,) = recover(request(span(1, 1, "invoke_agent desk", agent, took=9), span(1, 2, "chat m", chat, at=1)))
    assert [(t["name"], "parameters" in t) for t in c.tools] == [("cancel", True), ("find", True)]


def test_a_text_beside_fields_that_are_null_is_text(recover: Recover) -> None:
    """MLflow for Gemini dumps parts with all the fields of their class."""
    nulls = {"function_call": None, "inline_data": None, "thought": None, "video_metadata": None}

    def told(role: str, words: str) -> dict[str, Any]:
        return {"role": role, "parts": [{**nulls, "text": words}]}

    values = {
        "mlflow.spanType": '"LLM"',
        "mlflow.spanInputs": json.dumps({"model": "m", "contents": [told("user", ASK)]}),
        "mlflow.spanOutputs": json.dumps({"candidates": [{"content": told("model", ANSWER)}]}),
    }
    (c,) = recover(request(span(1, 1, "Models.generate_content", values)))
    assert facts(c) == [("user", ASK), ("assistant", ANSWER)] and "unread_part" not in c.flags


def test_calls_that_histories_leave_out_are_put_back(recover: Recover) -> None:
    """OpenLIT's history holds the results with their ids, and not the messages that made the calls."""

    def call(*numbers: int) -> dict[str, Any]:
        made = {"type": "tool_call", "name": "cancel"}
        parts = [{**made, "id": f"call_4f9a7c0{n}", "arguments": {"n": n}} for n in numbers]
        return {"role": "assistant", "parts": parts}

    def result(number: int) -> dict[str, Any]:
        part = {"type": "tool_call_response", "id": f"call_4f9a7c0{number}", "response": f"done {number}"}
        return {"role": "tool", "parts": [part]}

    def chat(trace: int, asked: list[dict[str, Any]], said: dict[str, Any]) -> dict[str, Any]:
        values = {
            "gen_ai.operation.name": "chat",
            "gen_ai.input.messages": json.dumps(asked),
            "gen_ai.output.messages": json.dumps([said]),
        }
        return span(trace, trace, "chat m", values, at=trace, parent=trace)

    ask, results = text("user", ASK), [result(n) for n in (1, 2, 3)]
    again = [ask, *results, text("assistant", ANSWER), text("user", "And W2?")]
    (c,) = recover(
        request(
            chat(1, [ask], call(1, 2)),
            chat(2, [ask, *results[:2]], call(3)),
            chat(3, [ask, *results], text("assistant", ANSWER)),
            chat(4, again, call(4)),
            chat(5, [*again, result(4)], text("assistant", "Yes.")),
        )
    )
    told = [("call", "cancel", {"n": n}) for n in (1, 2)] + [("result", "cancel", f"done {n}", False) for n in (1, 2)]
    third = [("call", "cancel", {"n": 3}), ("result", "cancel", "done 3", False)]
    fourth = [("user", "And W2?"), ("call", "cancel", {"n": 4}), ("result", "cancel", "done 4", False)]
    assert facts(c) == [("user", ASK), *told, *third, ("assistant", ANSWER), *fourth, ("assistant", "Yes.")]
    assert "orphan_result" not in c.flags


def test_half_a_surrogate_pair_costs_one_character(recover: Recover) -> None:
    """JavaScript cuts texts within a character, and JSON then holds half of it: the rest must be read."""
    words = "smile \ud83d"
    values = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([text("user", words)]),
        "gen_ai.output.messages": str([text("assistant", words)]),
    }
    (c,) = recover(request(span(1, 1, "chat m", values)))
    assert facts(c) == [("user", "smile \ufffd"), ("assistant", "smile \ufffd")]


@pytest.mark.parametrize(
    ("value", "score", "label"),
    [("0.5", 0.5, None), ("80%", 0.8, None), (True, 1.0, None), ("pass", None, "pass"), ("true", 1.0, "true"),
     ("NaN", None, None)],
)  # fmt: skip
def test_scores_given_as_text_are_read(value: Any, score: float | None, label: str | None, recover: Recover) -> None:
    judged = {"gen_ai.evaluation.name": "task", "gen_ai.evaluation.score.value": value}
    values = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([text("user", ASK)]),
        "gen_ai.output.messages": json.dumps([text("assistant", ANSWER)]),
    }
    (c,) = recover(request(span(1, 1, "chat m", values, events=[event("gen_ai.evaluation.result", judged, 2)])))
    assert [(o["score"], o["label"]) for o in c.outcomes] == [(score, label)]


def test_the_chat_context_of_livekit_is_read(recover: Recover) -> None:
    """``lk.chat_ctx`` lists messages, calls and results as ``items``."""
    system = {"id": "i0", "type": "message", "role": "system", "content": ["Be kind."]}
    asked = {"id": "i1", "type": "message", "role": "user", "content": [ASK], "interrupted": False}
    call = {"type": "function_call", "call_id": "c1", "name": "cancel", "arguments": json.dumps(ARGUMENTS)}
    result = {"type": "function_call_output", "name": "cancel", "call_id": "c1", "output": FAILED, "is_error": True}
    values = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "lk.chat_ctx": json.dumps({"items": [system, asked, call, result]}),
        "lk.response.text": ANSWER,
    }
    (c,) = recover(request(span(1, 1, "llm_request", values), scope="livekit-agents"))
    assert facts(c) == [("system", "Be kind."), *FACTS]


def test_a_list_of_texts_is_no_list_of_tools(recover: Recover) -> None:
    """Spring AI writes the texts of a prompt as a list; an answer that only calls is a list of an empty text."""
    values = {
        "gen_ai.operation.name": "chat",
        "gen_ai.prompt": json.dumps(["Be kind.", ASK]),
        "gen_ai.completion": json.dumps([""]),
    }
    (c,) = recover(request(span(1, 1, "chat m", values)))
    assert c.tools == [] and [m["content"] for m in c.messages if m["content"]] == ["Be kind.", ASK]


def test_a_response_is_an_answer_under_any_name(recover: Recover) -> None:
    values = {
        "acme.sent": json.dumps({"messages": [{"role": "user", "content": ASK}]}),
        "acme.got": json.dumps({"choices": [{"message": {"role": "assistant", "content": ANSWER}}]}),
    }
    (c,) = recover(request(span(1, 1, "model", values)))
    assert facts(c) == [("user", ASK), ("assistant", ANSWER)]


def test_the_agents_name_is_not_its_answer(recover: Recover) -> None:
    """A workflow of LlamaIndex answers with a message beside the agent's name."""
    response = {"role": "assistant", "additional_kwargs": {}, "blocks": [{"block_type": "text", "text": ANSWER}]}
    workflow = {
        "traceloop.span.kind": "workflow",
        "traceloop.entity.name": "FunctionAgent.workflow",
        "traceloop.entity.output": json.dumps({"result": {"response": response, "current_agent_name": "Desk"}}),
    }
    tool = {
        "traceloop.span.kind": "tool",
        "traceloop.entity.name": "cancel",
        "gen_ai.tool.call.id": "c1",
        "traceloop.entity.input": json.dumps({"args": [], "kwargs": ARGUMENTS}),
        "traceloop.entity.output": json.dumps(FAILED),
    }
    (c,) = recover(request(span(1, 1, "workflow", workflow, took=9), span(1, 2, "cancel.tool", tool, at=1)))
    assert facts(c) == FACTS[1:]
