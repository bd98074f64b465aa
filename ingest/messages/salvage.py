"""Read the complete members of JSON that an attribute length limit truncated.

SDKs truncate in the middle of a string and do not count it (OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT). Without this module,
all messages of a truncated list would be lost.
"""

from __future__ import annotations

from typing import Any

import orjson

TRIES = 64
_CLOSES = {"{": "}", "[": "]"}


def is_cut(text: str) -> bool:
    """Whether the text is a JSON object or list that ends before its last bracket."""
    return text[:1] in _CLOSES and _scan(text)[1]


def salvage(text: str) -> Any:
    """Return the value without everything after its last complete member; None if no member is complete."""
    for end, closers in reversed(_scan(text)[0][-TRIES:]):
        try:
            return orjson.loads(text[:end] + closers)
        except orjson.JSONDecodeError:
            continue
    return None


def _scan(text: str) -> tuple[list[tuple[int, str]], bool]:
    """Return the positions before a comma or after a bracket, outside strings, each with the brackets that are open
    there; and whether a bracket is still open at the end."""
    ends: list[tuple[int, str]] = []
    stack: list[str] = []
    in_string = escaped = False
    for at, c in enumerate(text):
        if in_string:
            escaped, in_string = c == "\\" and not escaped, c != '"' or escaped
        elif c == '"':
            in_string = True
        elif c in _CLOSES:
            stack.append(_CLOSES[c])
        elif c in "}]":
            if stack.pop() != c or not stack:
                return ends, False
            ends.append((at + 1, "".join(reversed(stack))))
        elif c == ",":
            ends.append((at, "".join(reversed(stack))))
    return ends, bool(stack)
