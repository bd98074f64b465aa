"""Every vendor's message format, told by its shape, reads as the same messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ingest.messages.error_class import classify_error, says_error
from ingest.messages.parts import parse_any
from ingest.messages.reprs import read_repr
from ingest.messages.shapes import read_messages
from ingest.messages.tool_definitions import read_tools

ARGUMENTS = {"a": 1}
TEXT = json.dumps(ARGUMENTS)
WANT = [("user", "hi"), ("assistant", "f", ARGUMENTS, "c1"), ("tool", "res", "c1")]

OPENAI = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": TEXT}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "res"},
]


def langchain(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", name], "kwargs": kwargs}


CALL = {"name": "f", "args": ARGUMENTS, "id": "c1", "type": "tool_call"}
HISTORIES: dict[str, Any] = {
    "openai chat": {"messages": OPENAI, "model": "m", "tools": [{"type": "function"}]},
    "openai chat as text in text": json.dumps([json.dumps(m) for m in OPENAI]),
    "openai responses": {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "call_id": "c1", "id": "fc1", "name": "f", "arguments": TEXT},
            {"type": "function_call_output", "call_id": "c1", "output": "res"},
        ]
    },
    "anthropic": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": ARGUMENTS}]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "res"}]}],
        },
    ],
    "bedrock": {
        "messages": [
            {"role": "user", "content": [{"text": "hi"}]},
            {"role": "assistant", "content": [{"toolUse": {"toolUseId": "c1", "name": "f", "input": ARGUMENTS}}]},
            {"role": "user", "content": [{"toolResult": {"toolUseId": "c1", "content": [{"text": "res"}]}}]},
        ]
    },
    "gemini": {
        "contents": [
            {"role": "user", "parts": [{"text": "hi"}]},
            {"role": "model", "parts": [{"functionCall": {"id": "c1", "name": "f", "args": ARGUMENTS}}]},
            {"role": "user", "parts": [{"functionResponse": {"id": "c1", "name": "f", "response": "res"}}]},
        ]
    },
    "langchain": [
        [
            langchain("HumanMessage", content="hi"),
            langchain("AIMessage", content="", tool_calls=[CALL]),
            langchain("ToolMessage", content="res", tool_call_id="c1"),
        ]
    ],
    "langchain flat": [
        {"type": "human", "content": "hi"},
        {"type": "ai", "content": "", "tool_calls": [CALL]},
        {"type": "tool", "content": "res", "tool_call_id": "c1"},
    ],
    "llamaindex": [
        {"role": "user", "blocks": [{"block_type": "text", "text": "hi"}]},
        {
            "role": "assistant",
            "blocks": [{"block_type": "tool_call", "tool_call_id": "c1", "tool_name": "f", "tool_kwargs": ARGUMENTS}],
        },
        {
            "role": "tool",
            "blocks": [{"block_type": "text", "text": "res"}],
            "additional_kwargs": {"tool_call_id": "c1"},
        },
    ],
    "haystack": [
        {"role": "user", "content": [{"text": "hi"}]},
        {"role": "assistant", "content": [{"tool_call": {"tool_name": "f", "arguments": ARGUMENTS, "id": "c1"}}]},
        {
            "role": "tool",
            "content": [
                {"tool_call_result": {"result": "res", "origin": {"tool_name": "f", "id": "c1"}, "error": False}}
            ],
        },
    ],
    "genkit": [
        {"role": "user", "content": [{"text": "hi"}]},
        {"role": "model", "content": [{"toolRequest": {"name": "f", "ref": "c1", "input": ARGUMENTS}}]},
        {"role": "tool", "content": [{"toolResponse": {"name": "f", "ref": "c1", "output": "res"}}]},
    ],
    "vercel 4": [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": [{"type": "tool-call", "toolCallId": "c1", "toolName": "f", "args": ARGUMENTS}],
        },
        {"role": "tool", "content": [{"type": "tool-result", "toolCallId": "c1", "toolName": "f", "result": "res"}]},
    ],
    "vercel 5": [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {
            "role": "assistant",
            "content": [{"type": "tool-call", "toolCallId": "c1", "toolName": "f", "input": ARGUMENTS}],
        },
        {
            "role": "tool",
            "content": [{"type": "tool-result", "toolCallId": "c1", "output": {"type": "text", "value": "res"}}],
        },
    ],
    "pydantic ai": [
        {"kind": "request", "parts": [{"part_kind": "user-prompt", "content": "hi"}]},
        {
            "kind": "response",
            "parts": [{"part_kind": "tool-call", "tool_name": "f", "args": TEXT, "tool_call_id": "c1"}],
        },
        {
            "kind": "request",
            "parts": [{"part_kind": "tool-return", "tool_name": "f", "content": "res", "tool_call_id": "c1"}],
        },
    ],
    "agentcore": [
        {"role": "user", "content": {"content": '[{"text": "hi"}]'}},
        {
            "role": "assistant",
            "content": {"message": json.dumps([{"toolUse": {"toolUseId": "c1", "name": "f", "input": ARGUMENTS}}])},
        },
        {
            "role": "tool",
            "content": {"content": json.dumps([{"toolResult": {"toolUseId": "c1", "content": [{"text": "res"}]}}])},
        },
    ],
    "reprs": (
        "[UserMessage(content='hi'), AssistantMessage(content='', tool_calls=[ToolCall(id='c1', name='f', "
        "arguments={'a': 1})]), ToolMessage(content='res', tool_call_id='c1')]"
    ),
}

RESPONSES: dict[str, Any] = {
    "openai chat": {"choices": [{"index": 0, "message": OPENAI[1], "finish_reason": "tool_calls"}], "usage": {}},
    "openai responses": {"object": "response", "output": HISTORIES["openai responses"]["input"][1:3]},
    "anthropic": {"type": "message", **HISTORIES["anthropic"][1], "stop_reason": "tool_use"},
    "bedrock": {"output": {"message": HISTORIES["bedrock"]["messages"][1]}, "stopReason": "tool_use"},
    "gemini": {"candidates": [{"content": HISTORIES["gemini"]["contents"][1], "finishReason": "STOP"}]},
    "langchain": {"generations": [[{"text": "", "message": HISTORIES["langchain"][0][1]}]], "llm_output": {}},
    "haystack": {"replies": [HISTORIES["haystack"][1]]},
    "ollama": {
        "message": {"role": "assistant", "content": "", "tool_calls": [OPENAI[1]["tool_calls"][0]]},
        "done": True,
    },
}


def told(messages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    out: list[tuple[Any, ...]] = []
    for m in messages:
        for p in m["parts"]:
            if p["type"] == "text":
                out.append((m["role"], p["content"]))
            elif p["type"] == "tool_call":
                out.append((m["role"], p["name"], p["arguments"], p["id"]))
            elif p["type"] == "tool_call_response":
                out.append(("tool", p["response"], p["id"]))
    return out


@pytest.mark.parametrize("vendor", HISTORIES)
def test_histories_of_every_vendor_are_read(vendor: str) -> None:
    assert told(read_messages(HISTORIES[vendor])) == WANT
    if not isinstance(HISTORIES[vendor], str):
        assert told(read_messages(json.dumps(HISTORIES[vendor]))) == WANT


@pytest.mark.parametrize("vendor", RESPONSES)
def test_responses_of_every_vendor_are_read(vendor: str) -> None:
    assert told(read_messages(RESPONSES[vendor], "assistant")) == WANT[1:2]


@pytest.mark.parametrize("text", ["print(x=1)", "{'a': 1}", "[1, 2", "{ not json", "f(", "<b>", "a='b'"])
def test_text_that_looks_like_data_stays_text(text: str) -> None:
    assert told(read_messages([{"role": "user", "content": text}])) == [("user", text)]
    assert told(read_messages([text])) == [("user", text)]


def test_reprs_are_read_and_never_run() -> None:
    assert read_repr("A(x=<R.U: 'u'>, y=[B(z=-1)], f=<function f at 0x7f>)") == {
        "type": "A", "x": "u", "y": [{"type": "B", "z": -1}], "f": None,
    }  # fmt: skip
    assert read_repr("__import__('os').system('x')") is None
    assert read_repr("id='1' content='hi' kind='user'") == {"type": "_", "id": "1", "content": "hi", "kind": "user"}


@pytest.mark.parametrize("cut", range(1, 60))
def test_truncated_json_gives_its_complete_members(cut: int) -> None:
    whole = json.dumps([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes, [so]"}])
    saved = parse_any(whole[:-cut])
    assert saved[0] == {"role": "user", "content": "hi"} if cut < 49 else saved


@pytest.mark.parametrize("tools", [
    [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    [json.dumps({"type": "function", "name": "f", "inputSchema": {"jsonSchema": {"type": "object"}}})],
    [{"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object"}}}}],
    {"config": {"tools": [{"function_declarations": [{"name": "f", "parameters": {"type": "object"}}]}]}},
    [{"name": "f", "input_schema": {"type": "object"}}], ["Tool(name='f', parameters={'type': 'object'})"],
])  # fmt: skip
def test_tool_definitions_of_every_vendor_are_read(tools: Any) -> None:
    assert read_tools(tools) == [{"name": "f", "parameters": {"type": "object"}}]


@pytest.mark.parametrize("text", [
    "Error: missing required argument: id",
    "Error: ToolError('missing required argument: id')\n Please fix your mistakes.",
    "Error: ToolError - missing required argument: id", "ToolError: missing required argument: id",
    "Failed to invoke Tool `f` with parameters {'a': 1}. Error: missing required argument: id",
    "Error executing tool f: missing required argument: id", '{"error": "missing required argument: id"}',
    "missing required argument: id\n\nFix the errors and try again.",
])  # fmt: skip
def test_an_error_has_one_class_in_every_framework(text: str) -> None:
    assert says_error(text) and classify_error("common.ToolError", text) == "missing_required_argument"


@pytest.mark.parametrize(("text", "named"), [
    ("504 Gateway Timeout", "gateway_timeout"), ("HTTP 429: Too Many Requests", "too_many_requests"),
    ("503 Service Unavailable: try again later", "service_unavailable"), ("502 - Bad Gateway", "bad_gateway"),
])  # fmt: skip
def test_the_status_of_a_failed_request_is_an_error(text: str, named: str) -> None:
    assert says_error(text) and classify_error(None, text) == named


@pytest.mark.parametrize(
    "text", ["Errors were fixed.", "404 items were not found", "503 Main Street", "HTTP/1.1 404 Not Found",
             "Error handling in Python: use try.", "Exception handling",
             '{"error": null, "id": 1}', "No errors found", "failed: 0", "", "W1"]
)
def test_results_that_mention_errors_are_not_errors(text: str) -> None:
    assert not says_error(text)
