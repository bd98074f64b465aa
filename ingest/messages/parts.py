"""Parts of messages of any vendor, recognised by their shape, become the standard's.

Read here are ``text``, ``reasoning``, ``tool_call {id, name, arguments}`` and ``tool_call_response {id, name?,
response, is_error?}``. Any other part stays as it came.
"""

from __future__ import annotations

from typing import Any

import orjson

from ingest.messages.reprs import read_repr
from ingest.messages.salvage import is_cut as cut_json
from ingest.messages.salvage import salvage

Part = dict[str, Any]

_TEXT = {"text", "input_text", "output_text", "refusal", "summary_text", "text-delta", "textcontent"}
_REASONING = {"reasoning", "thinking", "redacted_thinking", "redacted-reasoning", "reasoning_text",
              "reasoningcontent"}  # fmt: skip
_CALLS = {"tool_call", "tool_use", "function_call", "tool-call", "toolcall", "function", "tool_use_block",
          "functioncall", "custom_tool_call", "mcp_call", "responsefunctiontoolcall"}  # fmt: skip
_RESULTS = {"tool_call_response", "tool_result", "function_call_output", "tool-result", "toolresult",
            "custom_tool_call_output", "tool_response", "functionresponse", "function_result", "tool_return",
            "tool-return", "tool-error", "toolcallresult", "tool_call_result", "functionexecutionresult"}  # fmt: skip

_SHOWN = {"output_text", "responsefunctiontoolcall", "toolcall", "functioncall", *_RESULTS}  # told as reprs


_OPENINGS = frozenset("{[")


def parse(value: Any) -> Any:
    """JSON text as its value; anything else, and text that is no JSON object or list, as it is."""
    if not isinstance(value, str):
        return value
    head = value[:1]
    if head.isspace():
        head = value[:64].lstrip()[:1]
    if head not in _OPENINGS:
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def parse_any(value: Any) -> Any:
    """Like ``parse``; text that is a Python repr as what it shows, and cut JSON as far as it goes."""
    parsed = parse(value)
    if not isinstance(parsed, str):
        return parsed
    if is_cut(parsed) and (saved := salvage(parsed)) is not None:
        return saved
    shown = read_repr(parsed)
    return parsed if shown is None else shown


def is_cut(value: Any) -> bool:
    """Whether text starts like JSON and is none: an attribute length limit cut it, nothing counts those."""
    looks = isinstance(value, str) and value[:1] in ("{", "[") and parse(value) is value
    return looks and cut_json(value)


def first(source: dict[str, Any], *keys: str) -> Any:
    """The first of the keys whose value is neither missing, None nor empty text."""
    for key in keys:
        value = source.get(key)
        if value is not None and value != "":
            return value
    return None


def first_not_none(source: dict[str, Any], *keys: str) -> Any:
    return next((source[k] for k in keys if source.get(k) is not None), None)


# --------------------------------------------------------------------------------------------- parts


def text_part(text: str) -> Part:
    return {"type": "text", "content": text}


def call_part(name: Any, arguments: Any, call_id: Any = None) -> Part:
    """A tool call; arguments that are JSON text are parsed, others stay as they came."""
    part: Part = {"type": "tool_call", "name": str(name or "")}
    if isinstance(call_id, str) and call_id and not call_id.startswith("<not "):
        part["id"] = call_id
    if arguments is not None and arguments != "N/A":
        part["arguments"] = {} if arguments == "" else parse(arguments)
    return part


def result_part(response: Any, call_id: Any = None, name: Any = None, is_error: Any = None) -> Part:
    """What a tool answered."""
    part: Part = {"type": "tool_call_response", "response": response}
    if isinstance(call_id, str) and call_id and not call_id.startswith("<not "):
        part["id"] = call_id
    if name:
        part["name"] = str(name)
    if is_error is not None:
        part["is_error"] = bool(is_error)
    return part


def read_call(x: dict[str, Any]) -> Part:
    function = x.get("function")
    inner: dict[str, Any] = function if isinstance(function, dict) else x
    name = first(inner, "name", "tool_name", "toolName", "recipient_name")
    arguments = first_not_none(inner, "arguments", "args", "input", "parameters", "args_json", "tool_kwargs")
    call_id = first(x, "call_id", "tool_call_id", "toolCallId", "tool_use_id", "toolUseId", "id", "ref")
    return call_part(name, arguments, call_id)


# Types of AI SDK's tool outputs; "content" is a list of parts.
_TYPED = ("error-", "text", "json", "content", "execution-denied")


def read_result(x: dict[str, Any]) -> Part:
    if isinstance(x.get("origin"), dict):  # Haystack keeps the call there
        x = {**{k: v for k, v in x["origin"].items() if k in ("id", "tool_name", "name")}, **x}
    response = first_not_none(x, "response", "result", "output", "content", "return_value", "error")
    call_id = first(x, "call_id", "tool_call_id", "toolCallId", "tool_use_id", "toolUseId", "callId", "id", "ref")
    is_error = _says_failed(x)
    if isinstance(response, dict) and str(response.get("type", "")).startswith(_TYPED):  # AI SDK 5+: {"type", "value"}
        is_error = True if response["type"].startswith(("error-", "execution-denied")) else is_error
        response = first_not_none({**response, "whole": response}, "value", "text", "reason", "whole")
    return result_part(plain_content(response), call_id, first(x, "name", "tool_name", "toolName"), is_error)


def _says_failed(x: dict[str, Any]) -> Any:
    """Whether a result says that it is an error; None if it says nothing."""
    said = first(x, "is_error", "isError")
    if said is None and isinstance(x.get("error"), bool):
        return x["error"]
    return True if x.get("status") == "error" or x.get("type") == "tool-error" else said


def plain_content(value: Any) -> Any:
    """Content blocks that are all text are that text; other values stay as they are."""
    if isinstance(value, list) and value and all(_is_text_block(v) for v in value):
        return "\n".join(_block_text(v) for v in value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and set(value[0]) == {"json"}:
        return value[0]["json"]
    return value


def _is_text_block(x: Any) -> bool:
    if not isinstance(x, dict):
        return False
    if (kind_of(x) or "text") not in _TEXT:
        return False
    return isinstance(x.get("text", x.get("content")), str) and (kind_of(x) != "" or set(x) == {"text"})


def kind_of(x: dict[str, Any]) -> str:
    """What a part says that it is, in lower case; "" if it says nothing."""
    return str(x.get("type") or x.get("kind") or x.get("part_kind") or x.get("block_type") or "").lower()


def _block_text(x: dict[str, Any]) -> str:
    return x["text"] if isinstance(x.get("text"), str) else x["content"]


def _spoken(text: str) -> Part:
    """Text; what is the repr of a call, a result or a text part is that part."""
    shown = read_repr(text) if text[:1] in ("{", "[") or text[-1:] == ")" else None
    if isinstance(shown, dict) and str(shown.get("type", "")).lower() in _SHOWN:
        part = read_part(shown)
        if part is not None and part["type"] != "unknown":
            return part
    return text_part(text)


def read_part(x: Any) -> Part | None:
    """One part of any vendor; None for what says nothing (an empty text)."""
    if isinstance(x, str):
        return _spoken(x) if x else None
    if not isinstance(x, dict):
        return {"type": "unknown", "content": x}
    kind = kind_of(x)
    if kind in _TEXT:
        text = first(x, "content", "text", "refusal")
        return _spoken(text) if isinstance(text, str) else None if text is None else {**x}
    if kind in _REASONING or x.get("thought") is True:
        thought = first(x, "content", "thinking", "text", "summary", "reasoning")
        return {"type": "reasoning", "content": thought or ""}
    if kind in _CALLS and (first(x, "name", "tool_name", "toolName") or isinstance(x.get("function"), dict)):
        return read_call(x)
    if kind in _RESULTS:
        return read_result(x)
    return _untyped_part(x)


_NESTED_CALLS = ("toolUse", "functionCall", "function_call", "tool_call", "toolRequest")
_NESTED_RESULTS = ("toolResult", "functionResponse", "function_response", "tool_response", "tool_call_result",
                   "toolResponse")  # fmt: skip


def _untyped_part(x: dict[str, Any]) -> Part | None:
    for key in _NESTED_CALLS:
        if isinstance(x.get(key), dict):
            return read_call(x[key])
    for key in _NESTED_RESULTS:
        if isinstance(x.get(key), dict):
            return read_result(x[key])
    if "reasoningContent" in x:
        return {"type": "reasoning", "content": x["reasoningContent"]}
    if isinstance(x.get("text"), str) and "type" not in x:
        return text_part(x["text"]) if x["text"] else None
    if not x or (set(x) <= {"text", "type"} and not x.get("text")):
        return None
    if str(x.get("type")) in _NORMAL:  # it says that it is one and is none
        return {"type": "unknown", "content": x}
    return {"type": "unknown", **x}


_NORMAL = {"text", "reasoning", "tool_call", "tool_call_response"}


def read_parts(content: Any) -> list[Part]:
    """The parts of a content value: text, a block, or a list of them."""
    if content is None or content == "" or content == []:
        return []
    items = content if isinstance(content, list) else [content]
    return [p for p in map(read_part, items) if p is not None]
