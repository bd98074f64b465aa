"""Which call a tool's answer belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, Any]]
NO_CALL: Mapping[str, Any] = {}


def with_calls(messages: Messages) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Every message, and the call that it answers; NO_CALL for a message that is no answer. RULER's prompt has no call
    ids, so answers are taken in the order of the calls before them."""
    called: list[Mapping[str, Any]] = []
    for message in messages:
        answers = message["role"] == "tool" and bool(called)
        yield message, called.pop(0) if answers else NO_CALL
        if message.get("tool_calls"):
            called = list(message["tool_calls"])
