"""Fast path for messages that are already in the standard's form (semantic-conventions-genai,
gen-ai-input-messages.json).

``shapes`` would give the same result, more slowly. Anything ambiguous (other keys, a text that may be a repr, a result
that is not text) is left to ``shapes``.
"""

from __future__ import annotations

from typing import Any

Part = dict[str, Any]

_MESSAGES = ({"role", "parts"}, {"role", "parts", "finish_reason"})
_PLAIN_TEXT, _CALL, _RESULT = {"type", "content"}, {"type", "id", "name", "arguments"}, {"type", "id", "response"}


def standard_message(x: Any) -> dict[str, Any] | None:
    """Return a message with its parts as ``shapes.read_message`` returns them; None if it is not clearly in the
    standard's form."""
    if type(x) is not dict or x.keys() not in _MESSAGES:
        return None
    role, told = x["role"], x["parts"]
    if type(role) is not str or role not in _READERS or type(told) is not list or not told:
        return None
    parts = [part for p in told if (part := _part(p, role)) is not None]
    if len(parts) < len(told):
        return None
    message = {"role": role, "parts": parts}
    finish = x.get("finish_reason")
    if finish is not None and finish != "":
        message["finish_reason"] = finish
    return message


def _part(x: Any, role: str) -> Part | None:
    if type(x) is not dict:
        return None
    kind = x.get("type")
    reader = _READERS[role].get(kind) if type(kind) is str else None
    return reader(x) if reader else None


def _text(x: Part) -> Part | None:
    text = x["content"] if x.keys() == _PLAIN_TEXT else None
    if type(text) is not str or not text or text[:2] == "{'" or text.endswith((")", ")]")):
        return None
    return {"type": "text", "content": text}


def _call(x: Part) -> Part | None:
    if x.keys() != _CALL or not _is_id(x["id"]):
        return None
    name, arguments = x["name"], x["arguments"]
    if type(name) is not str or not name or type(arguments) is not dict:
        return None
    return {"type": "tool_call", "name": name, "id": x["id"], "arguments": arguments}


def _result(x: Part) -> Part | None:
    if x.keys() != _RESULT or not _is_id(x["id"]) or type(x["response"]) is not str:
        return None
    if x["response"][:8] == '[{"json"':  # Bedrock's blocks, as JSON text
        return None
    return {"type": "tool_call_response", "response": x["response"], "id": x["id"]}


def _is_id(value: Any) -> bool:
    return type(value) is str and value != "" and not value.startswith("<not ")


_SAID = {"text": _text, "tool_call": _call, "tool_call_response": _result}
_READERS = {"system": _SAID, "user": _SAID, "assistant": _SAID, "tool": {"tool_call_response": _result}}
