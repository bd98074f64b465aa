"""What proves that turns of two spans are the same turn. Turns without content are all equal and prove nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice

from ingest.messages.chatform import Turn

_RANDOM = re.compile(r"(?=[A-Za-z0-9]*\d)[A-Za-z0-9]{8,}")


def is_random(call_id: str | None) -> bool:
    """Whether an id looks random. ``call_0``, ``look_up`` and ``functions.look_up:0`` are counters or tool names, and
    occur in many conversations."""
    return bool(call_id) and _RANDOM.search(str(call_id)) is not None


def says(turn: Turn) -> bool:
    """Whether a turn has content: a text, a tool's result, or the arguments of a call. An empty value written as text
    (``null``, ``{}``) and a redaction marker are no content."""
    m = turn.message
    content = m.get("content")
    if content and not content.isspace() and not _is_placeholder(content):
        return True
    return any(call.get("arguments") for call in m.get("tool_calls") or ())


# An empty value as JSON or Python writes it, and the markers of redaction.
_PLACEHOLDERS = {"", "null", "none", "undefined", '""', "''", "{}", "redacted", "elided", "filtered", "removed"}
_LONGEST_PLACEHOLDER = 16  # characters


def _is_placeholder(text: str) -> bool:
    text = text.strip()
    return len(text) <= _LONGEST_PLACEHOLDER and text.strip("<[_]>").lower() in _PLACEHOLDERS


def ids_of(turn: Turn) -> set[str]:
    """Return the ids of the calls that a turn makes or answers."""
    m = turn.message
    ids = {call["id"] for call in m.get("tool_calls") or () if call.get("id")}
    return ids | ({m["tool_call_id"]} if m.get("tool_call_id") else set())


def share_evidence(a: Sequence[Turn], b: Iterable[Turn], count: int, any_id: bool = False) -> bool:
    """Whether the first ``count`` turns of ``a`` and ``b``, which must be equal, are evidence: one of them has content,
    or both name the same call by a random id (with ``any_id``, by any id)."""
    for x, y in zip(islice(a, count), b, strict=False):
        if says(x):
            return True
        if any(any_id or is_random(call_id) for call_id in ids_of(x) & ids_of(y)):
            return True
    return False


def say_something(turns: Iterable[Turn]) -> bool:
    """Whether turns are evidence by themselves: one has content or a random call id."""
    return any(says(t) or any(map(is_random, ids_of(t))) for t in turns)


def model_spoke(turns: Iterable[Turn]) -> bool:
    """Whether an assistant or tool turn has content. A user may send the same text to several agents."""
    return any(t.message["role"] in ("assistant", "tool") and says(t) for t in turns)
