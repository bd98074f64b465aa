"""Whatever a line holds: it is read, or refused with a message; nothing else is raised, and nothing is half read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.formats import files, otlp, recognise
from ingest.formats.exports import OTHERS, TRACES
from ingest.formats.records import chats, outcomes

KEYS = sorted({
    *chats.MESSAGES, *chats.IDS, *outcomes.KEYS, *outcomes.FLAGS, *outcomes.NESTED, "body", "params", "result", "error",
    "response", "completion", "chosen", "rejected", "preferred_output", "non_preferred_output", "schema_version",
    "steps", "agent", "tools", "system", "choices", "candidates", "output", "role", "content", "from", "value", "parts",
    "type", "message", "tool_calls", "function", "name", "arguments", "toolCallId", "state", "mapping", "current_node",
    "author", "resourceSpans", "resourceLogs", "scopeSpans", "spans", "batches", "observation", "results",
    "tool_call_id",
    *(key for mark in (*TRACES, *OTHERS) for key in mark.keys.replace("|", " ").split()),
})  # fmt: skip
WORDS = st.sampled_from([
    "user", "assistant", "human", "gpt", "function_call", "ATIF-v1.7", "tool", "[{'a': 1}]", "{", "[1", "tool-x",
    "1.5", "",
    '[{"role": "user", "content": "x"}]', "<tool_call>\n{}\n</tool_call>", "Human: a\n\nAssistant: b", "nan", "\ud800",
    "output-available",
])  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8) | WORDS
VALUES = st.recursive(
    SCALARS,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(KEYS), x, max_size=4),
    max_leaves=14,
)


def added(value: Any) -> otlp.Rows | None:
    rows = otlp.Rows()
    try:
        files.Adder(rows, 7, Path("/nowhere/x.jsonl"))(value)
    except otlp.NotOtlp as error:
        assert str(error) and not len(rows)
        return None
    return rows


@settings(deadline=None, max_examples=400)
@given(VALUES)
def test_any_value_is_read_or_refused(value: Any) -> None:
    first, again = added(value), added(value)
    assert first == again
    guess = recognise.of_value(value)
    assert guess.what and guess.then and "\n" not in guess.what + guess.then
    for row in first.spans if first else ():
        orjson.loads(row[9])  # its attributes


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200) | st.lists(VALUES, max_size=3).map(lambda x: repr(x).encode("utf-8", "replace")))
def test_any_bytes_are_read_or_refused(tmp_path_factory: Any, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "x.jsonl"
    path.write_bytes(data)
    try:
        list(files.read(path, 7))
    except files.BadFile as problem:
        assert str(path) in str(problem) and "\n" not in str(problem)
