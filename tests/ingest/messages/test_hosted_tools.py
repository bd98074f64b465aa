"""Tools that the model's provider runs: the call, its answer and the words around them keep their order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ingest.messages.chatform import to_turns
from ingest.messages.shapes import read_messages

ASKED: dict[str, Any] = {"query": "LAMP-7 recall"}
CODE: dict[str, Any] = {"code": "print(2 + 2)"}


def told(value: Any, role: str = "assistant") -> list[tuple[Any, ...]]:
    """Calls, answers and texts, one each, in order."""
    out: list[tuple[Any, ...]] = []
    for turn in (t for m in read_messages(value, role) for t in to_turns(m)):
        m = turn.message
        if m["role"] == "tool":
            out.append(("result", m.get("content"), m.get("is_error", False)))
        elif m.get("content"):
            out.append((m["role"], m["content"]))
        out += [("call", c["name"], c.get("arguments")) for c in m.get("tool_calls") or ()]
    return out


def responses(*items: dict[str, Any]) -> dict[str, Any]:
    """A raw response of OpenAI's Responses API that ends with a text."""
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]}
    return {"id": "resp_1", "object": "response", "output": [*items, said]}


ITEMS: dict[str, tuple[dict[str, Any], list[tuple[Any, ...]]]] = {
    "mcp_call": (
        {
            "type": "mcp_call",
            "id": "m1",
            "name": "get_order",
            "arguments": '{"id": "W1"}',
            "output": "pending",
            "error": None,
            "server_label": "shop",
            "status": "completed",
        },
        [("call", "get_order", {"id": "W1"}), ("result", "pending", False)],
    ),
    "mcp_call that fails": (
        {
            "type": "mcp_call",
            "id": "m1",
            "name": "get_order",
            "arguments": "{}",
            "output": None,
            "error": {"type": "http_error", "code": 404, "message": "not found"},
        },
        [("call", "get_order", {}), ("result", "not found", True)],
    ),
    "web_search_call": (
        {"type": "web_search_call", "id": "w1", "status": "completed", "action": {"type": "search", **ASKED}},
        [("call", "web_search", {"type": "search", **ASKED})],
    ),
    "web_search_call with sources": (
        {
            "type": "web_search_call",
            "id": "w1",
            "status": "completed",
            "action": {"type": "search", **ASKED, "sources": [{"type": "url", "url": "https://l.example"}]},
        },
        [
            ("call", "web_search", {"type": "search", **ASKED}),
            ("result", '[{"type":"url","url":"https://l.example"}]', False),
        ],
    ),
    "file_search_call": (
        {
            "type": "file_search_call",
            "id": "f1",
            "status": "completed",
            "queries": ["recall"],
            "results": [{"file_id": "x", "text": "No recall."}],
        },
        [("call", "file_search", {"queries": ["recall"]}), ("result", '[{"file_id":"x","text":"No recall."}]', False)],
    ),
    "code_interpreter_call": (
        {
            "type": "code_interpreter_call",
            "id": "c1",
            "status": "completed",
            "container_id": "k1",
            **CODE,
            "outputs": [{"type": "logs", "logs": "4\n"}],
        },
        [("call", "code_interpreter", CODE), ("result", "4\n", False)],
    ),
    "shell_call": (
        {"type": "local_shell_call", "id": "s1", "call_id": "s1", "status": "completed", "action": {"command": ["ls"]}},
        [("call", "local_shell", {"command": ["ls"]})],
    ),
    "an item of tomorrow": (
        {"type": "map_lookup_call", "id": "x1", "status": "failed", "place": "Bern"},
        [("call", "map_lookup", {"place": "Bern"}), ("result", None, True)],
    ),
}


@pytest.mark.parametrize("name", ITEMS)
def test_one_item_gives_a_call_and_its_result(name: str) -> None:
    item, want = ITEMS[name]
    assert told(responses(item)) == [*want, ("assistant", "Done.")]


def test_calls_of_user_tools_have_no_result() -> None:
    """``function_call`` and ``computer_call`` are answered by an item of the next request."""
    asked = [
        {"type": "function_call", "call_id": "c1", "name": "get", "arguments": "{}"},
        {
            "type": "computer_call",
            "call_id": "c2",
            "id": "cu_1",
            "action": {"type": "click", "x": 1},
            "status": "completed",
        },
    ]
    answered = [
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "computer_call_output", "call_id": "c2", "output": {"type": "computer_screenshot", "file_id": "f"}},
    ]
    assert told([*asked, *answered]) == [
        ("call", "get", {}),
        ("call", "computer", {"type": "click", "x": 1}),
        ("result", "one", False),
        ("result", '{"type":"computer_screenshot","file_id":"f"}', False),
    ]


VENDORS: dict[str, Any] = {
    "anthropic": {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Let me look."},
            {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": ASKED},
            {"type": "web_search_tool_result", "tool_use_id": "s1", "content": "none"},
            {"type": "text", "text": "There is none."},
        ],
    },
    "anthropic mcp": {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Let me look."},
            {"type": "mcp_tool_use", "id": "s1", "name": "web_search", "server_name": "web", "input": ASKED},
            {
                "type": "mcp_tool_result",
                "tool_use_id": "s1",
                "is_error": False,
                "content": [{"type": "text", "text": "none"}],
            },
            {"type": "text", "text": "There is none."},
        ],
    },
    "otel": {
        "role": "assistant",
        "parts": [
            {"type": "text", "content": "Let me look."},
            {
                "type": "server_tool_call",
                "id": "s1",
                "name": "web_search",
                "server_tool_call": {"type": "web", **ASKED},
            },
            {
                "type": "server_tool_call_response",
                "id": "s1",
                "server_tool_call_response": {"type": "web", "results": "none"},
            },
            {"type": "text", "content": "There is none."},
        ],
    },
    "pydantic ai": {
        "role": "assistant",
        "parts": [
            {"type": "text", "content": "Let me look."},
            {"type": "tool_call", "id": "s1", "name": "web_search", "builtin": True, "arguments": ASKED},
            {"type": "tool_call_response", "id": "s1", "name": "web_search", "builtin": True, "result": "none"},
            {"type": "text", "content": "There is none."},
        ],
    },
    "ai sdk": {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Let me look."},
            {
                "type": "tool-call",
                "toolCallId": "s1",
                "toolName": "web_search",
                "input": ASKED,
                "providerExecuted": True,
            },
            {
                "type": "tool-result",
                "toolCallId": "s1",
                "toolName": "web_search",
                "output": {"type": "text", "value": "none"},
            },
            {"type": "text", "text": "There is none."},
        ],
    },
    "ai sdk interface": {
        "role": "assistant",
        "parts": [
            {"type": "step-start"},
            {"type": "text", "text": "Let me look."},
            {
                "type": "tool-web_search",
                "toolCallId": "s1",
                "state": "output-available",
                "input": ASKED,
                "output": "none",
            },
            {"type": "text", "text": "There is none."},
        ],
    },
    "ai sdk 4 interface": {
        "role": "assistant",
        "parts": [
            {"type": "text", "text": "Let me look."},
            {
                "type": "tool-invocation",
                "toolInvocation": {
                    "state": "result",
                    "toolCallId": "s1",
                    "toolName": "web_search",
                    "args": ASKED,
                    "result": "none",
                },
            },
            {"type": "text", "text": "There is none."},
        ],
    },
    "bedrock": {
        "role": "assistant",
        "content": [
            {"text": "Let me look."},
            {"toolUse": {"toolUseId": "s1", "name": "web_search", "input": ASKED, "type": "server_tool_use"}},
            {"toolResult": {"toolUseId": "s1", "content": [{"text": "none"}], "status": "success"}},
            {"text": "There is none."},
        ],
    },
    "mistral": {
        "outputs": [
            {"type": "message.output", "role": "assistant", "content": "Let me look."},
            {
                "type": "tool.execution",
                "id": "s1",
                "name": "web_search",
                "arguments": json.dumps(ASKED),
                "info": {"hits": 0},
            },
            {"type": "message.output", "role": "assistant", "content": [{"type": "text", "text": "There is none."}]},
        ]
    },
}


@pytest.mark.parametrize("vendor", VENDORS)
def test_one_message_is_split_at_its_results(vendor: str) -> None:
    answer = '{"hits":0}' if vendor == "mistral" else "none"
    assert told(VENDORS[vendor]) == [
        ("assistant", "Let me look."),
        ("call", "web_search", ASKED),
        ("result", answer, False),
        ("assistant", "There is none."),
    ]


def test_gemini_code_execution_is_a_call_with_a_result() -> None:
    parts = [
        {"text": "Let me compute."},
        {"executableCode": {"language": "PYTHON", **CODE}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "4\n"}},
        {"text": "Four."},
        {"executable_code": CODE},
        {"code_execution_result": {"outcome": "OUTCOME_FAILED", "output": "NameError"}},
    ]
    assert told({"candidates": [{"content": {"role": "model", "parts": parts}}]}) == [
        ("assistant", "Let me compute."),
        ("call", "code_execution", {"language": "PYTHON", **CODE}),
        ("result", "4\n", False),
        ("assistant", "Four."),
        ("call", "code_execution", CODE),
        ("result", "NameError", True),
    ]


def test_groq_executed_tools_are_calls_with_results() -> None:
    ran = [{"index": 0, "type": "search", "arguments": json.dumps(ASKED), "output": "none"}]
    message = {"role": "assistant", "content": "There is none.", "executed_tools": ran}
    assert told({"choices": [{"message": message}]}) == [
        ("call", "search", ASKED),
        ("result", "none", False),
        ("assistant", "There is none."),
    ]


def test_errors_of_the_providers_tools_are_errors() -> None:
    blocks = [
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": ASKED},
        {
            "type": "web_search_tool_result",
            "tool_use_id": "s1",
            "content": {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"},
        },
        {
            "type": "dynamic-tool",
            "toolName": "look",
            "toolCallId": "s2",
            "state": "output-error",
            "input": {},
            "errorText": "no such shelf",
        },
    ]
    results = [t for t in told({"role": "assistant", "content": blocks}) if t[0] == "result"]
    assert [r[2] for r in results] == [True, True] and "max_uses_exceeded" in results[0][1]
    assert results[1][1] == "no such shelf"


def test_parallel_calls_stay_side_by_side() -> None:
    def call(n: int) -> dict[str, Any]:
        return {"type": "server_tool_use", "id": f"s{n}", "name": "look", "input": {"n": n}}

    def result(n: int) -> dict[str, Any]:
        return {"type": "web_fetch_tool_result", "tool_use_id": f"s{n}", "content": str(n)}

    message = {"role": "assistant", "content": [call(1), call(2), result(1), result(2)]}
    turns = [t.message for m in read_messages(message) for t in to_turns(m)]
    assert [m["role"] for m in turns] == ["assistant", "tool", "tool"] and len(turns[0]["tool_calls"]) == 2


def test_a_users_message_keeps_its_text_behind_the_results() -> None:
    """Anthropic's tool results come in a user's message; chat completions want them first."""
    blocks = [{"type": "text", "text": "Go on."}, {"type": "tool_result", "tool_use_id": "c1", "content": "one"}]
    assert told({"role": "user", "content": blocks}) == [("result", "one", False), ("user", "Go on.")]


def test_langchain_hosted_tools_are_read_from_blocks_and_extra_fields() -> None:
    item = {"type": "mcp_call", "id": "m1", "name": "get_order", "arguments": "{}", "output": "pending"}
    blocks = [
        {"type": "server_tool_call", "id": "s1", "name": "web_search", "args": ASKED},
        {"type": "server_tool_result", "tool_call_id": "s1", "output": "none", "status": "success"},
        {"type": "non_standard", "value": item},
        {"type": "text", "text": "There is none."},
    ]
    assert told({"type": "ai", "data": {"content": blocks}}) == [
        ("call", "web_search", ASKED),
        ("result", "none", False),
        ("call", "get_order", {}),
        ("result", "pending", False),
        ("assistant", "There is none."),
    ]
    beside = {"content": [blocks[-1]], "additional_kwargs": {"tool_outputs": [item]}}
    assert told({"type": "ai", "data": beside}) == [
        ("call", "get_order", {}),
        ("result", "pending", False),
        ("assistant", "There is none."),
    ]


def test_results_of_any_kind_that_name_their_call_are_results() -> None:
    """Gemini's Interactions API has a kind for each tool."""
    outputs = [
        {"type": "google_search_call", "id": "g1", "arguments": {"queries": ["recall"]}},
        {"type": "google_search_result", "call_id": "g1", "result": [{"url": "https://l.example"}]},
        {"type": "text", "text": "There is none."},
    ]
    assert told({"outputs": outputs}) == [
        ("call", "google_search", {"queries": ["recall"]}),
        ("result", '[{"url":"https://l.example"}]', False),
        ("assistant", "There is none."),
    ]


def test_calls_that_are_named_by_their_type() -> None:
    custom = {"id": "c1", "type": "custom", "custom": {"name": "note", "input": "buy milk"}}
    assert told({"role": "assistant", "content": None, "tool_calls": [custom]}) == [("call", "note", "buy milk")]


def test_the_repr_of_a_list_of_calls_is_those_calls() -> None:
    """CrewAI's answer is the list of calls, which OpenLLMetry writes as text."""
    shown = "ToolCall(function=Function(arguments='{\"n\": %d}', name='get'), id='c%d', type='function')"
    parts = [{"type": "text", "content": f"[{shown % (1, 1)}, {shown % (2, 2)}]"}]
    assert told([{"role": "assistant", "parts": parts}]) == [("call", "get", {"n": 1}), ("call", "get", {"n": 2})]
    for text in ("[see the manual (page 3)]", "Order(W1)", "[Order(id='W1')]"):
        assert told([{"role": "assistant", "parts": [{"type": "text", "content": text}]}]) == [("assistant", text)]
