"""Conversations written as one text, a speaker before each paragraph: ``Human: ... Assistant: ...`` (Anthropic's first
data sets), ``USER: ... ASSISTANT: <functioncall> ... FUNCTION RESPONSE: ...`` (Glaive)."""

from __future__ import annotations

import re
from typing import Any

import orjson

_SPEAKER = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant|System|USER|ASSISTANT|SYSTEM|FUNCTION RESPONSE): ?")
_ROLES = {"human": "user", "user": "user", "assistant": "assistant", "system": "system", "function response": "tool"}
_END = "<|endoftext|>"
_CALL = re.compile(r"<functioncall>\s*(\{.*\})\s*\Z", re.DOTALL)
# A call whose arguments are JSON in single quotes, which is no JSON.
_QUOTED = re.compile(r"""\{\s*"name":\s*"([^"]+)"\s*,\s*"arguments":\s*'(.*)'\s*\}""", re.DOTALL)


def messages_of(text: str) -> list[dict[str, Any]] | None:
    """The messages of a transcript that has at least two speakers; None for another text."""
    pieces = _SPEAKER.split(text) if _SPEAKER.match(text) else []
    if len(pieces) < 5:
        return None
    said = zip(pieces[1::2], pieces[2::2], strict=True)
    return [_message(_ROLES[speaker.lower()], content.replace(_END, "").strip()) for speaker, content in said]


def _message(role: str, content: str) -> dict[str, Any]:
    found = _CALL.search(content) if role == "assistant" else None
    call = _call(found[1]) if found else None
    if found is None or call is None:
        return {"role": role, "content": content}
    return {"role": role, "content": content[: found.start()].strip() or None, "tool_calls": [call]}


def _call(text: str) -> dict[str, Any] | None:
    quoted = _QUOTED.fullmatch(text)
    try:
        told = {"name": quoted[1], "arguments": orjson.loads(quoted[2])} if quoted else orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(told, dict) or not isinstance(told.get("name"), str):
        return None
    return {"type": "function", "function": {"name": told["name"], "arguments": told.get("arguments", {})}}
