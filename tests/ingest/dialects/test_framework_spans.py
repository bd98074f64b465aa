"""How frameworks tell runs, tools and answers: names for people, envelopes, agents' spans in place of model calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from dialect_samples import ANSWER, ARGUMENTS, ASK, FAILED, OPENAI_ANSWER, OPENAI_CALLED, OPENAI_HISTORY, facts, turn
from ingest_samples import event, request, span

from ingest.records import Conversation

Recover = Callable[..., list[Conversation]]
ASKED = [{"role": "user", "content": ASK}]
HISTORY = [*ASKED, *OPENAI_HISTORY[2:]]
FACTS = [("user", ASK), ("call", "cancel", ARGUMENTS), ("result", "cancel", FAILED, True), ("assistant", ANSWER)]
OI = "openinference.span.kind"


def llm(asked: list[Any], said: dict[str, Any]) -> dict[str, Any]:
    return {
        OI: "LLM",
        "input.value": json.dumps({"messages": asked}),
        "output.value": json.dumps({"choices": [{"message": said}]}),
    }


FIRST, LAST = llm(ASKED, OPENAI_CALLED), llm(HISTORY, OPENAI_ANSWER)
TOOLS: dict[str, dict[str, Any]] = {
    "the span's name beside the call's": {
        OI: "TOOL",
        "tool_call.function.name": "cancel",
        "input.value": json.dumps(ARGUMENTS),
        "output.value": FAILED,
    },
    "a title": {OI: "TOOL", "tool.name": "Cancel", "input.value": json.dumps(ARGUMENTS), "output.value": FAILED},
    "a class beside the standard's name": {
        "traceloop.span.kind": "tool",
        "traceloop.entity.name": "FunctionTool",
        "gen_ai.tool.name": "cancel",
        "traceloop.entity.input": json.dumps({"args": [], "kwargs": ARGUMENTS}),
        "traceloop.entity.output": FAILED,
    },
    "a task that calls a tool": {
        "traceloop.span.kind": "task",
        "traceloop.entity.name": "call_tool.task",
        "tool.name": "cancel",
        "tool.arguments": json.dumps(ARGUMENTS),
        "traceloop.entity.input": '{"ctx": 1, "ev": {"tool_name": "cancel"}}',
        "traceloop.entity.output": json.dumps(
            {
                "tool_name": "cancel",
                "tool_id": "c1",
                "tool_output": {
                    "blocks": [{"text": FAILED}],
                    "raw_output": FAILED,
                    "is_error": True,
                    "tool_name": "cancel",
                },
            }
        ),
    },
}


@pytest.mark.parametrize("how", TOOLS)
def test_a_technical_tool_name_replaces_a_display_name(how: str, recover: Recover) -> None:
    (c,) = recover(turn(FIRST, TOOLS[how], LAST))
    assert facts(c) == FACTS and "orphan_result" not in c.flags
    (row,) = [m for m in c.messages if m["role"] == "tool"]
    assert "latency_ms" in row  # the span was found


def test_a_class_within_a_named_run_is_the_same_run(recover: Recover) -> None:
    """OpenLLMetry for LlamaIndex tells one run twice: the workflow's step by name, the tool within by its class."""
    inner = {
        "traceloop.span.kind": "tool",
        "traceloop.entity.name": "FunctionTool",
        "traceloop.entity.input": json.dumps({"args": [], "kwargs": ARGUMENTS}),
        "traceloop.entity.output": json.dumps({"blocks": [], "raw_output": FAILED, "tool_name": "cancel"}),
    }
    sample = turn(FIRST, TOOLS["a task that calls a tool"], LAST)
    sample["resourceSpans"][0]["scopeSpans"][0]["spans"].append(
        span(1, 9, "FunctionTool.tool", inner, at=2, took=0.03, parent=3)
    )
    (c,) = recover(sample)
    assert facts(c) == FACTS


@pytest.mark.parametrize(
    "wrapped",
    [
        f"FunctionExecutionResult(status='failure', result=None, error='{FAILED}', images=None)",
        json.dumps([False, {"name": "cancel", "role": "function", "content": FAILED}]),
        json.dumps({"blocks": [{"text": FAILED}], "tool_name": "cancel", "raw_output": FAILED, "is_error": True}),
        json.dumps({"content": [{"type": "text", "text": FAILED}], "isError": True}),
        json.dumps({"type": "tool", "content": FAILED, "tool_call_id": "c1", "status": "error"}),
        f"content='{FAILED}' name='cancel' tool_call_id='c1' status='error'",
    ],
)
def test_results_are_unwrapped_from_envelopes(wrapped: str, recover: Recover) -> None:
    tool = {OI: "TOOL", "tool.name": "cancel", "input.value": json.dumps(ARGUMENTS), "output.value": wrapped}
    found = recover(
        request(span(1, 1, "run", {OI: "AGENT"}, took=9), span(1, 2, "m", FIRST, at=1), span(1, 3, "t", tool, at=2))
    )
    assert [f for c in found for f in facts(c)] == FACTS[:3]


def test_executions_with_an_id_prove_calls_and_exceptions_are_results(recover: Recover) -> None:
    """AutoGen's own spans: no model calls, no contents."""

    def ran(number: int, at: float, name: str, **more: Any) -> dict[str, Any]:
        values = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.call.id": f"c{number}",
        }
        return span(1, number, f"execute_tool {name}", values, at=at, **more)

    raised = event("exception", {"exception.type": "shop.ToolError", "exception.message": FAILED}, 2)
    (c,) = recover(
        request(
            span(
                1,
                1,
                "invoke_agent desk",
                {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "desk"},
                took=9,
            ),
            ran(2, 1, "look"),
            ran(3, 2, "cancel", events=[raised], status={"code": 2, "message": f"ToolError: {FAILED}"}),
        )
    )
    assert facts(c) == [
        ("call", "look", None),
        ("result", "look", None, False),
        ("call", "cancel", None),
        ("result", "cancel", FAILED, True),
    ]


def test_agent_spans_with_single_model_turns_are_read(recover: Recover) -> None:
    """AG2 through OpenInference: a span of an agent tells the history and what its model said; the one around them
    tells the run; the user's side sees all roles the other way round."""
    results = {
        "role": "tool",
        "tool_responses": [{"tool_call_id": "c1", "role": "tool", "content": FAILED}],
        "content": FAILED,
    }
    turned = [{"role": "assistant", "content": ASK, "name": "user"}, OPENAI_CALLED]

    def agent(number: int, name: str, asked: Any, said: Any, at: float, parent: int = 1) -> dict[str, Any]:
        out = said if isinstance(said, str) else json.dumps(said)
        return span(
            1,
            number,
            f"{name}.generate_reply",
            {OI: "AGENT", "agent.name": name, "input.value": json.dumps(asked), "output.value": out},
            at=at,
            took=0.4,
            parent=parent,
        )

    tool = {
        OI: "TOOL",
        "tool.name": "cancel",
        "tool_call.id": "c1",
        "input.value": json.dumps({"name": "cancel", "arguments": json.dumps(ARGUMENTS)}),
        "output.value": json.dumps([False, {"role": "function", "name": "cancel", "content": FAILED}]),
    }
    chat = {OI: "AGENT", "agent.name": "user", "input.value": json.dumps({"message": ASK}), "output.value": ANSWER}
    (c,) = recover(
        request(
            span(1, 1, "user.initiate_chat", chat, took=9),
            agent(2, "desk", ASKED, OPENAI_CALLED, 1),
            agent(3, "user", turned, results, 2),
            span(1, 4, "cancel", tool, at=2.1, took=0.1, parent=3),
            agent(5, "desk", [*ASKED, OPENAI_CALLED, results], ANSWER, 3),
        )
    )
    assert facts(c) == FACTS and c.agent == "desk" and not {"rebuilt", "branch"} & set(c.flags)
    assert [t["name"] for t in c.tools] == ["cancel"]


def test_histories_that_leave_out_the_calls_are_the_same_conversation(recover: Recover) -> None:
    """OpenLLMetry for Cohere and Mistral writes role and content of each message of a request, and no calls."""

    def call(number: int, prompts: list[tuple[str, str]], completion: dict[str, Any], at: float) -> dict[str, Any]:
        values: dict[str, Any] = {"llm.request.type": "chat"}
        for n, (role, content) in enumerate(prompts):
            values |= {f"gen_ai.prompt.{n}.role": role} | ({f"gen_ai.prompt.{n}.content": content} if content else {})
        return span(1, number, "chat", values | {f"gen_ai.completion.0.{k}": v for k, v in completion.items()}, at=at)

    called = {
        "role": "assistant",
        "content": "[]",
        "tool_calls.0.id": "c1",
        "tool_calls.0.name": "cancel",
        "tool_calls.0.arguments": json.dumps(ARGUMENTS),
    }
    answered = {"role": "assistant", "content": json.dumps([{"type": "text", "text": ANSWER}])}
    (c,) = recover(
        request(
            span(1, 1, "run", {"traceloop.span.kind": "workflow"}, took=9),
            call(2, [("user", ASK)], called, 1),
            call(3, [("user", ASK), ("assistant", ""), ("tool", FAILED)], answered, 2),
        )
    )
    assert facts(c) == FACTS


def test_content_that_was_a_list_of_blocks_is_read_and_text_that_looks_like_one_is_not(recover: Recover) -> None:
    """OpenInference for Mistral writes blocks as JSON text; the raw response shows which of the two it was."""
    blocks = json.dumps([{"type": "text", "text": ANSWER}])
    for content, want in (([{"type": "text", "text": ANSWER}], ANSWER), (blocks, blocks)):
        values = {
            OI: "LLM",
            "input.value": json.dumps({"messages": ASKED}),
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": ASK,
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.content": blocks,
            "output.value": json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}),
        }
        found = recover(request(span(len(want), 1, "m", values, parent=1)))
        assert want in [m["content"] for c in found for m in c.messages]


@pytest.mark.parametrize(
    "answer",
    [
        '{"verdict": "cancel", "confidence": 0.9}',
        '{"message": "Hello", "intent": "greet"}',
        '{"text": "Lamp is loud", "label": "bug"}',
        '[{"text": "Lamp is loud", "label": "bug", "score": 0.9}]',
        '[{"type": "bug", "title": "Lamp flickers"}]',
        '["red", "blue"]',
    ],
)
def test_a_json_answer_is_kept_in_every_dialect(answer: str, recover: Recover) -> None:
    dialects: list[dict[str, Any]] = [
        {
            "langfuse.observation.type": "generation",
            "langfuse.observation.input": json.dumps(ASKED),
            "langfuse.observation.output": answer,
        },
        {"mlflow.spanType": "LLM", "mlflow.spanInputs": json.dumps(ASKED), "mlflow.spanOutputs": answer},
        {OI: "LLM", "input.value": json.dumps({"messages": ASKED}), "output.value": answer},
        {
            "llm.request.type": "chat",
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": ASK,
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": answer,
        },
        {
            "ai.operationId": "ai.generateObject.doGenerate",
            "ai.prompt.messages": json.dumps(ASKED),
            "ai.response.object": answer,
        },
    ]
    found = recover(request(*(span(n, n, "m", values, at=n, parent=n) for n, values in enumerate(dialects, 1))))
    told = [[m["content"] or "" for m in c.messages] for c in found]
    assert [[asked, json.loads(said)] for asked, said in told] == [[ASK, json.loads(answer)]] * len(dialects)


def test_logfire_items_of_unknown_kind_are_read_from_their_data(recover: Recover) -> None:
    item = {
        "type": "mcp_call",
        "id": "m1",
        "name": "cancel",
        "arguments": json.dumps(ARGUMENTS),
        "output": None,
        "error": FAILED,
    }
    events = [
        {"event.name": "gen_ai.user.message", "role": "user", "content": ASK},
        {
            "event.name": "gen_ai.choice",
            "message": {"role": "unknown", "content": "mcp_call\n\nSee JSON for details", "data": item},
        },
        {"event.name": "gen_ai.choice", "message": {"role": "assistant", "content": ANSWER}},
    ]
    values = {"events": json.dumps(events), "gen_ai.request.model": "m"}
    (c,) = recover(request(span(1, 1, "Responses", values, parent=1), scope="logfire.openai"))
    assert facts(c) == FACTS


def test_an_answer_is_replaced_by_its_parts_from_the_next_request(recover: Recover) -> None:
    """The AI SDK writes the text and the calls of an answer, and not what the provider's tools gave in between."""
    searched = [
        {"type": "text", "text": "Let me look."},
        {
            "type": "tool-call",
            "toolCallId": "s1",
            "toolName": "web_search",
            "input": ARGUMENTS,
            "providerExecuted": True,
        },
        {
            "type": "tool-result",
            "toolCallId": "s1",
            "toolName": "web_search",
            "output": {"type": "text", "value": "none"},
        },
        {"type": "text", "text": ANSWER},
    ]
    first = {
        "ai.operationId": "ai.generateText.doGenerate",
        "ai.prompt.messages": json.dumps(ASKED),
        "ai.response.text": f"Let me look.{ANSWER}",
        "ai.response.toolCalls": json.dumps([{"toolCallId": "s1", "toolName": "web_search", "input": ARGUMENTS}]),
    }
    history = [*ASKED, {"role": "assistant", "content": searched}, {"role": "user", "content": "Thanks."}]
    second = {
        "ai.operationId": "ai.generateText.doGenerate",
        "ai.prompt.messages": json.dumps(history),
        "ai.response.text": "Bye.",
    }
    made = [span(n, n, "call", values, at=n, parent=n) for n, values in ((1, first), (2, second))]
    (c,) = recover(request(*made, scope="ai"))
    assert [(m["role"], m["content"]) for m in c.messages] == [
        ("user", ASK),
        ("assistant", "Let me look."),
        ("tool", "none"),
        ("assistant", ANSWER),
        ("user", "Thanks."),
        ("assistant", "Bye."),
    ]
