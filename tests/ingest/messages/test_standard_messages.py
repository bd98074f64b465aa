"""Messages in the standard's form are read straight, and come out as the guess at their shape would make them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ingest.messages.shapes import read_message
from ingest.messages.standard import standard_message

WORDS = st.text("ab{)[ ", min_size=1, max_size=4)
ODD = WORDS | st.sampled_from(["", "N/A", '{"a": 1}', "[1]", "Call(x='1')", "<not set>"])
LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | ODD
JSON = st.recursive(LEAVES, lambda values: st.dictionaries(ODD, values, max_size=2))
KEYS = st.sampled_from(["type", "content", "id", "name", "arguments", "response", "text", "result", "is_error"])
Part = dict[str, st.SearchStrategy[Any]]


def parts(text: st.SearchStrategy[Any], value: st.SearchStrategy[Any], arguments: st.SearchStrategy[Any]) -> list[Part]:
    """The fields of the standard's parts, with such values."""
    return [
        {"type": st.just("text"), "content": text},
        {"type": st.just("tool_call"), "id": text, "name": text, "arguments": arguments},
        {"type": st.just("tool_call_response"), "id": text, "response": value},
    ]


def odd(fields: Part) -> st.SearchStrategy[Any]:
    """A part that may lack some of its fields, or have one that is not its own."""
    some, other = st.fixed_dictionaries({}, optional=fields), st.dictionaries(KEYS, JSON, max_size=1)
    return st.tuples(some, other).map(lambda both: both[0] | both[1])


PLAIN = st.one_of(*map(st.fixed_dictionaries, parts(WORDS, WORDS, st.dictionaries(WORDS, JSON, max_size=2))))
OTHERS = st.one_of(*map(odd, parts(ODD, JSON, JSON)), JSON)
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
MESSAGES = st.fixed_dictionaries(
    {"role": ROLES | st.sampled_from(["model", "User", None, 1]),
     "parts": st.lists(PLAIN, min_size=1, max_size=3) | st.lists(PLAIN | OTHERS, max_size=3) | JSON},
    optional={"finish_reason": st.sampled_from(["stop", "", None]), "name": ODD},
)  # fmt: skip


@given(MESSAGES, st.sampled_from(["user", "assistant"]))
def test_the_fast_path_gives_the_same_messages(message: dict[str, Any], role: str) -> None:
    read = standard_message(message)
    assert read is None or json.dumps(read) == json.dumps(read_message(message, role))


def test_a_standard_conversation_takes_the_fast_path() -> None:
    told = [
        {"role": "system", "parts": [{"type": "text", "content": "Be kind."}]},
        {"role": "user", "parts": [{"type": "text", "content": "cancel W1"}]},
        {"role": "assistant", "finish_reason": "tool_calls",
         "parts": [{"type": "tool_call", "id": "a", "name": "cancel", "arguments": {"id": "W1"}}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "a", "response": '{"id": "W1"}'}]},
    ]  # fmt: skip
    assert all(standard_message(m) is not None for m in told)
    assert standard_message({"role": "tool", "parts": [{"type": "text", "content": "no result"}]}) is None
