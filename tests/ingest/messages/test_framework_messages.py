"""Calls and results as frameworks dump their own messages: none is lost, and each keeps its id, name and outcome."""

from __future__ import annotations

from typing import Any

import pytest

from ingest.messages.shapes import read_messages

RAW = [{"id": "c", "type": "function", "function": {"name": "find", "arguments": "{bad"}}]
INVOKED = {"state": "result", "toolCallId": "c", "toolName": "find", "args": {"n": 1}, "result": "ok"}
CALL, OK, FAILED = ("find", "c", {"n": 1}), ("c", "ok", None), ("c", "boom", True)
MESSAGES: dict[str, tuple[list[dict[str, Any]], list[Any]]] = {
    "numbered calls": (
        [{"role": "assistant", "tool_calls": [{"id": 7, "function": {"name": "find", "arguments": '{"n": 1}'}}]},
         {"role": "tool", "tool_call_id": 7, "content": "ok"}],
        [("find", "7", {"n": 1}), ("7", "ok", None)],
    ),
    "AI SDK 4, interface messages": ([{"role": "assistant", "content": "", "toolInvocations": [INVOKED]}], [CALL, OK]),
    "AI SDK 4, told in parts as well": (
        [{"role": "assistant", "parts": [{"type": "tool-invocation", "toolInvocation": INVOKED}],
          "toolInvocations": [INVOKED]}],
        [CALL, OK],
    ),
    "LangChain, arguments that are no JSON": (
        [{"type": "ai", "content": "", "invalid_tool_calls": [{"id": "c", "name": "find", "args": "{bad"}]}],
        [("find", "c", "{bad")],
    ),
    "LangChain, the same beside the raw calls": (
        [{"type": "ai", "content": "", "invalid_tool_calls": [{"id": "c", "name": "find", "args": "{bad"}],
          "additional_kwargs": {"tool_calls": RAW}}],
        [("find", "c", "{bad")],
    ),
    "Semantic Kernel": (
        [{"role": "assistant", "items": [{"content_type": "function_call", "id": "c", "name": "find",
                                          "arguments": '{"n": 1}'}]},
         {"role": "tool", "items": [{"content_type": "function_result", "id": "c", "name": "find", "result": "ok"}]}],
        [CALL, OK],
    ),
    "Agno": ([{"role": "tool", "tool_call_id": "c", "tool_call_error": True, "content": "boom"}], [FAILED]),
    "Spring AI": (
        [{"messageType": "TOOL", "responses": [{"id": "c", "name": "find", "responseData": "ok"},
                                               {"id": "d", "name": "find", "responseData": "no"}]}],
        [OK, ("d", "no", None)],
    ),
    "Microsoft's agent framework": (
        [{"role": "tool", "contents": [{"type": "function_result", "call_id": "c", "result": None,
                                        "exception": "boom"}]}],
        [FAILED],
    ),
    "AutoGen": (
        [{"type": "FunctionExecutionResultMessage",
          "content": [{"content": "boom", "name": "find", "call_id": "c", "is_error": True}]}],
        [FAILED],
    ),
}  # fmt: skip


def told(messages: list[dict[str, Any]]) -> list[Any]:
    out = []
    for part in (p for m in messages for p in m["parts"]):
        if part["type"] == "tool_call":
            out.append((part["name"], part.get("id"), part["arguments"]))
        else:
            out.append((part.get("id"), part.get("response"), part.get("is_error")))
    return out


@pytest.mark.parametrize("framework", MESSAGES)
def test_no_call_and_no_result_is_lost(framework: str) -> None:
    messages, expected = MESSAGES[framework]
    assert told(read_messages(messages)) == expected
