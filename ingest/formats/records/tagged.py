"""Calls and results between tags in the text of messages, as the Hermes and Qwen chat templates write them:
``<tool_call>{"name": ..., "arguments": ...}</tool_call>`` and ``<tool_response>...</tool_response>``.

Such text is read as calls only if the conversation defines tools or contains a response. Otherwise it stays text.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from ingest.formats.records.message_lists import Message, chat_call, from_text, role_of

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.DOTALL)
_TOOLS = re.compile(r"<tools>\s*(.*?)\s*</tools>", re.DOTALL)
_FUNCTION = re.compile(r"<function=([^>\s]+)>(.*?)</function>", re.DOTALL)  # Qwen3-Coder's form within the tags
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


def untagged(messages: list[Message], tools: Any) -> tuple[list[Message], Any]:
    """The messages with calls and results in the place of their tags, and the tools that a system prompt defines
    between tags, unless there are others."""
    defined = next((found for m in messages if role_of(m) == "system" and (found := _defined(_text(m)))), None)
    answered = any(role_of(m) in ("tool", "user") and _RESPONSE.search(_text(m)) for m in messages)
    if not (defined or answered or tools) or any(m.get("tool_calls") for m in messages):
        return messages, tools
    return [new for m in messages for new in _message(m)], tools or defined


def _text(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _message(m: Message) -> list[Message]:
    text, role = _text(m), role_of(m)
    if role == "assistant" and "<tool_call>" in text:
        calls = [_call(told) for told in _CALL.findall(text)]
        if calls and all(calls):
            said = _CALL.sub("", text).strip()
            return [{**m, "content": said or None, "tool_calls": [chat_call(c) for c in calls if c]}]
    if role in ("tool", "user") and (told := _RESPONSE.findall(text)) and not _RESPONSE.sub("", text).strip():
        return [_result(m, one) for one in told]
    return [m]


def _call(text: str) -> dict[str, Any] | None:
    found = _FUNCTION.fullmatch(text)
    if found:
        return {"name": found[1], "arguments": {k: _typed(v) for k, v in _PARAMETER.findall(found[2])}}
    shown = from_text(text)
    return shown if isinstance(shown, dict) and isinstance(shown.get("name"), str) else None


def _typed(text: str) -> Any:
    """A parameter's value: numbers, true, false, null, objects and lists are written as JSON, texts as they are."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _result(m: Message, text: str) -> Message:
    shown = from_text(text)
    kept = {k: v for k, v in m.items() if k not in ("role", "content")}
    if isinstance(shown, dict) and "content" in shown and set(shown) <= {"name", "content", "tool_call_id", "id"}:
        own = {"name": shown.get("name"), "tool_call_id": shown.get("tool_call_id", shown.get("id"))}
        content = shown["content"]
        told = content if isinstance(content, str) else orjson.dumps(content).decode()
        return {**kept, **{k: v for k, v in own.items() if isinstance(v, str)}, "role": "tool", "content": told}
    return {**kept, "role": "tool", "content": text}


def _defined(text: str) -> list[Any] | None:
    """Tools between tags: a JSON list, or one definition a line."""
    found = _TOOLS.search(text)
    if not found:
        return None
    shown = from_text(found[1])
    if not isinstance(shown, list):
        shown = [from_text(line) for line in found[1].splitlines() if line.strip()]
    return shown if shown and all(isinstance(tool, dict) for tool in shown) else None
