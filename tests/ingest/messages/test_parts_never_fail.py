"""Any JSON is read without an error, keeps what it says in words, and tells the same however often it is asked."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.messages.chatform import to_turns
from ingest.messages.parts import parts_of
from ingest.messages.shapes import read_messages

KEYS = [
    "type", "role", "content", "text", "parts", "name", "arguments", "input", "output", "outputs", "result", "error",
    "status", "id", "call_id", "tool_call_id", "tool_use_id", "toolCallId", "state", "action", "sources", "function",
    "function_call", "tool_calls", "refusal", "audio", "transcript", "executed_tools", "tool_responses", "info",
    "additional_kwargs", "executableCode", "codeExecutionResult", "choices", "candidates", "generations", "message",
    "data", "value", "block_type", "part_kind", "kind", "server_tool_call", "custom", "toolInvocation", "document",
]  # fmt: skip
WORDS = [
    "assistant", "user", "tool", "text", "tool_call", "mcp_call", "web_search_call", "tool_result", "server_tool_use",
    "code_interpreter_call", "tool-x", "dynamic-tool", "output-available", "output-error", "failed", "reasoning",
    "tool.execution", "refusal", "audio", "custom", "non_standard", "hologram", "", "[]", "{}", "[{", "A(b='c')", "hi",
]  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(WORDS)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)
MANY = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(VALUES, st.sampled_from(["user", "assistant"]))
def test_any_json_is_read(value: Any, role: str) -> None:
    for told in (value, orjson.dumps(value).decode()):
        turns = [t for m in read_messages(told, role) for t in to_turns(m)]
        assert all(isinstance(t.message["role"], str) and isinstance(t.key, bytes) for t in turns)
        again = [t for m in read_messages(told, role) for t in to_turns(m)]
        assert [t.message for t in again] == [t.message for t in turns]


@MANY
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_any_value_gives_at_most_valid_parts(value: dict[str, Any]) -> None:
    assert all(isinstance(p["type"], str) for p in parts_of(value))


@MANY
@given(st.lists(st.sampled_from(["said", "called", "answered"]), max_size=8))
def test_the_order_of_an_assistants_parts_is_kept(kinds: list[str]) -> None:
    """Texts, calls and results come out in the order in which they went in."""
    made = {
        "said": lambda n: {"type": "text", "text": f"t{n}"},
        "called": lambda n: {"type": "server_tool_use", "id": f"i{n}", "name": f"c{n}", "input": {}},
        "answered": lambda n: {"type": "web_search_tool_result", "tool_use_id": f"i{n}", "content": f"r{n}"},
    }
    parts = [made[kind](n) for n, kind in enumerate(kinds)]
    got: list[str] = []
    for message in (t.message for m in read_messages([{"role": "assistant", "content": parts}]) for t in to_turns(m)):
        said = [] if message["role"] == "tool" else (message.get("content") or "").split()
        called = [c["name"] for c in message.get("tool_calls") or ()]
        got += sorted([*said, *called], key=lambda word: int(word[1:]))  # within one message they stand side by side
        got += [message["content"] or ""] if message["role"] == "tool" else []
    assert got == [f"{kind[0] if kind != 'answered' else 'r'}{n}".replace("s", "t") for n, kind in enumerate(kinds)]
