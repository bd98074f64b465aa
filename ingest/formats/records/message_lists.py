"""Converts lists of messages from common dataset forms to forms that ``ingest.messages`` reads.

Converted are ShareGPT's ``from`` and ``value`` and similar keys, other names of roles, messages and lists given as
JSON text, choices that hold a message, the parts of AI SDK's UI messages, and transcripts. Messages of an API (OpenAI
chat and Responses, Anthropic, Gemini, LangChain) are not changed.
"""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

import orjson

from ingest.formats.records import transcripts

Message = dict[str, Any]

ROLES = {
    "human": "user", "prompter": "user", "customer": "user",
    "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "claude": "assistant",
    "bot": "assistant", "chatbot": "assistant", "ai": "assistant", "model": "assistant", "gemini": "assistant",
    "agent": "assistant",
    "function_call": "call", "function-call": "call", "tool_call": "call", "tool-call": "call",
    "observation": "tool", "function_response": "tool", "function-response": "tool", "function_result": "tool",
    "tool_response": "tool", "tool-response": "tool", "tool_result": "tool", "tool_results": "tool",
    "environment": "tool",
}  # fmt: skip
_KNOWN = {"system", "developer", "user", "assistant", "tool", "function"}
_LANGCHAIN = {"human", "ai", "system", "tool", "function", "humanmessage", "aimessage", "systemmessage", "toolmessage"}
# Items of OpenAI's Responses API that are no messages.
_ITEMS = {"function_call", "function_call_output", "reasoning", "custom_tool_call", "custom_tool_call_output",
          "mcp_call", "web_search_call", "file_search_call", "code_interpreter_call", "computer_call",
          "computer_call_output", "local_shell_call", "local_shell_call_output"}  # fmt: skip


_SPEAKERS, _SAYINGS = ("from", "speaker", "sender", "author"), ("value", "text", "message", "utterance", "content")
# Python's repr of a dict or of a list of them, as a data frame writes it into a CSV file.
_REPR = re.compile(r"\s*\[?\s*\{\s*'")


def listed(value: Any) -> list[Any] | None:
    """A list of messages, also where the list or its items are given as text (JSON, or Python's repr); None for another
    value."""
    if isinstance(value, str):
        value = transcripts.messages_of(value) or from_text(value)
    if not isinstance(value, list) or not value:
        return None
    items = [from_text(item) if isinstance(item, str) else item for item in value]
    return items if all(map(is_message, items)) else None


def from_text(text: str) -> Any:
    """The object or list that a text represents, or the text itself."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    if not _REPR.match(text):
        return text
    try:
        with warnings.catch_warnings(action="ignore"):  # escapes that Python does not know
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def is_message(item: Any) -> bool:
    """Whether an item of a list that is said to hold messages is one."""
    if not isinstance(item, dict):
        return False
    if isinstance(item.get("role"), str):
        return True
    if any(isinstance(item.get(k), str) for k in _SPEAKERS) and any(k in item for k in _SAYINGS):
        return True
    kind = str(item.get("type", "")).lower()
    if kind in _ITEMS or (kind in _LANGCHAIN and ("content" in item or "data" in item)):
        return True
    if isinstance(item.get("message"), dict):
        return is_message(item["message"])
    return isinstance(item.get("kwargs"), dict) and isinstance(item.get("id"), list)  # LangChain's dumps


def is_conversation(value: Any) -> bool:
    """Whether a bare list is a conversation: every item is a message with a known role."""
    items = listed(value) if isinstance(value, list) else None
    return items is not None and all(role_of(item) for item in items)


def role_of(item: Any) -> str:
    """The role of a message, "call" for one that is only a call; "" if there is no known role."""
    if not isinstance(item, dict):
        return ""
    told = item.get("role", next((item[k] for k in _SPEAKERS if isinstance(item.get(k), str)), None))
    if told is None and isinstance(item.get("message"), dict):
        return role_of(item["message"])
    if told is None:
        kind = str(item.get("type", "")).lower()
        if kind in _ITEMS:
            return "tool" if kind.endswith("_output") else "assistant"
        told = kind.removesuffix("message")
        if isinstance(item.get("id"), list) and item["id"]:
            told = str(item["id"][-1]).lower().removesuffix("chunk").removesuffix("message")
    name = str(told).lower()
    return ROLES.get(name, name if name in _KNOWN else "")


def read(items: list[Any]) -> list[Message]:
    """The messages of a list that ``listed`` gave."""
    return [message for item in items for message in _read(item)]


def _read(item: Message) -> list[Message]:
    item = {k: v for k, v in item.items() if v is not None or k == "content"}
    inner = item.get("message")
    if isinstance(inner, dict) and "role" not in item and is_message(inner):
        return _read(inner)
    item = _with_role(item)
    role = role_of(item)
    if role == "call":
        return [_call_alone(item)]
    if "role" in item and role and role != str(item["role"]).lower():
        item = {**item, "role": role}
    parts = item.get("parts")
    if isinstance(parts, list) and any(map(_is_ui_call, parts)):
        return _ui_messages(item, parts)
    return [item]


def _with_role(item: Message) -> Message:
    """A message with its role and content under the keys ``role`` and ``content``."""
    speaker = next((k for k in _SPEAKERS if isinstance(item.get(k), str)), None) if "role" not in item else None
    is_empty = item.get("content") in (None, "", []) and not {"parts", "tool_calls", "type"} & item.keys()
    saying = next((k for k in _SAYINGS if isinstance(item.get(k), str)), None) if is_empty or speaker else None
    if not speaker and (not saying or "role" not in item):
        return item
    told = {k: v for k, v in item.items() if k not in (speaker, saying)}
    told["role"] = item["role"] if speaker is None else item[speaker]
    return {**told, "content": item[saying]} if saying and (is_empty or "content" not in told) else told


def _call_alone(item: Message) -> Message:
    """A message that is a call: ``{"name", "arguments"}``, or several, as JSON."""
    told = item.get("content")
    shown = from_text(told) if isinstance(told, str) else told
    listed_calls = shown if isinstance(shown, list) else [shown]
    calls = [c for c in listed_calls if isinstance(c, dict) and isinstance(c.get("name"), str)]
    kept = {k: v for k, v in item.items() if k not in ("role", "content")}
    if not calls or len(calls) < len(listed_calls):
        return {**kept, "role": "assistant", "content": told}
    return {**kept, "role": "assistant", "content": None, "tool_calls": [chat_call(c) for c in calls]}


def chat_call(call: dict[str, Any]) -> dict[str, Any]:
    """A call from a text, in the form of chat completions."""
    arguments = call.get("arguments", call.get("parameters", call.get("args", {})))
    out: dict[str, Any] = {"type": "function", "function": {"name": call["name"], "arguments": arguments}}
    return {"id": call["id"], **out} if isinstance(call.get("id"), str) else out


def _is_ui_call(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    kind = str(part.get("type", ""))
    return "toolCallId" in part and (kind.startswith("tool-") or kind == "dynamic-tool") and "state" in part


def _ui_messages(item: Message, parts: list[Any]) -> list[Message]:
    """A UI message of AI SDK holds a whole run: texts, calls and their results, step by step."""
    out: list[Message] = []
    said: list[Any] = []
    results: list[Message] = []
    kept = {k: v for k, v in item.items() if k != "parts"}

    def close() -> None:
        if said:
            out.append({**kept, "content": [*said]})
        out.extend(results)
        said.clear()
        results.clear()

    for part in parts:
        if _is_ui_call(part):
            name = part.get("toolName") or str(part["type"]).removeprefix("tool-")
            call = {"type": "tool-call", "toolCallId": part["toolCallId"], "toolName": name, "input": part.get("input")}
            said.append(call)
            results += _ui_result(part, name)
        elif not isinstance(part, dict) or part.get("type") != "step-start":
            if results:
                close()
            said.append(part)
    close()
    return out


def _ui_result(part: dict[str, Any], name: str) -> list[Message]:
    state = part["state"]
    if state not in ("output-available", "output-error", "output-denied"):
        return []
    failed = state != "output-available"
    output = part.get("errorText", part.get("output")) if failed else part.get("output")
    result = {"type": "tool-result", "toolCallId": part["toolCallId"], "toolName": name, "result": output}
    return [{"role": "tool", "content": [{**result, "isError": True} if failed else result]}]
