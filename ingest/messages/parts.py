"""Convert message parts of any vendor, recognised by their shape, to parts of the OpenTelemetry standard.

Recognised parts become ``text``, ``reasoning``, ``tool_call {id, name, arguments}`` and ``tool_call_response {id,
name?, response, is_error?}``. Any other part is left unchanged.
"""

from __future__ import annotations

from typing import Any

import orjson

from ingest import half_characters
from ingest.messages import hosted
from ingest.messages.kinds import QUIET, REASONING, SPEECH, TEXT, is_call, is_hosted, is_result, kind_of
from ingest.messages.reprs import read_repr
from ingest.messages.salvage import is_cut as cut_json
from ingest.messages.salvage import salvage

Part = dict[str, Any]

_OPENINGS = frozenset("{[")


def parse(value: Any) -> Any:
    """Parse JSON text. Other values, and text that is not a JSON object or list, are returned unchanged."""
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
        return half_characters.loads_or(value)


def parse_any(value: Any) -> Any:
    """Like ``parse``, but also read Python reprs, and the readable beginning of truncated JSON."""
    parsed = parse(value)
    if not isinstance(parsed, str):
        return parsed
    if is_cut(parsed) and (saved := salvage(parsed)) is not None:
        return saved
    shown = read_repr(parsed)
    if shown is None:
        return parsed
    return half_characters.encodable(shown) if half_characters.may_have(parsed) else shown


def is_cut(value: Any) -> bool:
    """Whether text starts like JSON but cannot be parsed, because an attribute length limit truncated it. SDKs do not
    count such truncations."""
    looks = isinstance(value, str) and value[:1] in ("{", "[") and parse(value) is value
    return looks and cut_json(value)


def first(source: dict[str, Any], *keys: str) -> Any:
    """Return the value of the first key that is present and neither None nor an empty text."""
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


def id_text(call_id: Any) -> str | None:
    """A call's id as text: some exporters number their calls. None for what is no id."""
    if isinstance(call_id, int) and not isinstance(call_id, bool):
        return str(call_id)
    return call_id if isinstance(call_id, str) and call_id and not call_id.startswith("<not ") else None


def call_part(name: Any, arguments: Any, call_id: Any = None) -> Part:
    """Return a tool call. Arguments given as JSON text are parsed; other arguments are left unchanged."""
    part: Part = {"type": "tool_call", "name": str(name or "")}
    if (told := id_text(call_id)) is not None:
        part["id"] = told
    if arguments is not None and arguments != "N/A":
        part["arguments"] = {} if arguments == "" else parse(arguments)
    return part


def result_part(response: Any, call_id: Any = None, name: Any = None, is_error: Any = None) -> Part:
    """Return a tool result."""
    part: Part = {"type": "tool_call_response", "response": response}
    if (told := id_text(call_id)) is not None:
        part["id"] = told
    if name:
        part["name"] = str(name)
    if is_error is not None:
        part["is_error"] = bool(is_error)
    return part


def read_call(x: dict[str, Any]) -> Part:
    function = x.get("function", x.get(str(x.get("type"))))  # {"type": "custom", "custom": {...}}
    inner: dict[str, Any] = function if isinstance(function, dict) else x
    name = first(inner, *_NAMES, "recipient_name") or first(x, *_NAMES) or named_tool(x)
    arguments = first_not_none(inner, "arguments", "args", "input", "parameters", "args_json", "tool_kwargs")
    hosting = x.get("server_tool_call")
    if isinstance(hosting, dict):  # the standard's form: the arguments are beside the kind of tool
        name = name or hosting.get("type")
        arguments = {k: v for k, v in hosting.items() if k != "type"} if arguments is None else arguments
    call_id = first(x, "call_id", "tool_call_id", "toolCallId", "tool_use_id", "toolUseId", "id", "ref")
    return call_part(name or (inner is not x and x.get("type")), arguments, call_id)


def named_tool(x: dict[str, Any]) -> str | None:
    """The tool of a call or a result that is named by its kind: ``{"function": "look_up", ...}`` (Inspect AI)."""
    return next((x[k] for k in ("function", "tool", "function_name") if isinstance(x.get(k), str) and x[k]), None)


# Types of AI SDK's tool outputs; "content" is a list of parts.
_TYPED = ("error-", "text", "json", "content", "execution-denied")


def read_result(x: dict[str, Any]) -> Part:
    if isinstance(x.get("origin"), dict):  # Haystack keeps the call there
        x = {**{k: v for k, v in x["origin"].items() if k in ("id", "tool_name", "name")}, **x}
    response = first_not_none(x, *_RESPONSES)
    if isinstance(response, str) and response.startswith('[{"json"'):  # Bedrock's blocks, as JSON text
        response = parse(response)
    if isinstance(hosting := x.get("server_tool_call_response"), dict) and response is hosting:
        response = {k: v for k, v in hosting.items() if k != "type"}
        response = next(iter(response.values())) if len(response) == 1 else response
    call_id = first(x, "call_id", "tool_call_id", "toolCallId", "tool_use_id", "toolUseId", "callId", "id", "ref")
    is_error = _says_failed(x)
    if isinstance(response, dict) and (said := str(response.get("type", ""))):
        if said.startswith(_TYPED):  # AI SDK 5+: {"type", "value"}
            is_error = True if said.startswith(("error-", "execution-denied")) else is_error
            response = first_not_none({**response, "whole": response}, "value", "text", "reason", "whole")
        elif said.endswith("_error") and is_error is None:  # Anthropic: {"type": "..._tool_result_error", "error_code"}
            is_error = True
    return result_part(plain_content(response), call_id, first(x, "name", "tool_name", "toolName"), is_error)


_RESPONSES = ("response", "result", "output", "content", "return_value", "error", "server_tool_call_response", "tools",
              "outputs", "responseData", "exception")  # fmt: skip


def _says_failed(x: dict[str, Any]) -> Any:
    """Whether a result declares an error; None if it does not say."""
    said = first(x, "is_error", "isError")
    if said is None and isinstance(x.get("error"), bool):
        return x["error"]
    if said is None and x.get("exception") and x.get("result") is None:  # Microsoft's agent framework
        return True
    return True if x.get("status") in ("error", "failed", "failure") or kind_of(x) == "toolerror" else said


def plain_content(value: Any) -> Any:
    """Join content blocks that are all text to one text; other values are returned unchanged."""
    if isinstance(value, list) and value and all(_is_text_block(v) for v in value):
        return "\n".join(_block_text(v) for v in value)
    only = value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) else {}
    if set(only) == {"json"}:
        return only["json"]
    inner = only.get("document") if only.get("type") == "document" else None
    return inner["data"] if isinstance(inner, dict) and "data" in inner and set(inner) <= {"id", "data"} else value


def _is_text_block(x: Any) -> bool:
    if not isinstance(x, dict):
        return False
    if (kind_of(x) or "text") not in TEXT:
        return False
    return isinstance(x.get("text", x.get("content")), str) and (kind_of(x) != "" or set(x) == {"text"})


def _block_text(x: dict[str, Any]) -> str:
    return x["text"] if isinstance(x.get("text"), str) else x["content"]


def _spoken(text: str) -> list[Part]:
    """Return the parts of a text: one text part, or, if the text is the repr of calls, results or text parts, these
    parts. JSON text stays text."""
    shown = read_repr(text) if text.endswith((")", ")]")) or text.startswith("{'") else None
    items = shown if isinstance(shown, list) else [shown]
    if items and all(isinstance(x, dict) for x in items):
        parts = [p for x in items if x for p in parts_of({k: v for k, v in x.items() if v is not None})]
        if parts and all(p["type"] in READ for p in parts):
            return parts
    return [text_part(text)]


READ = {"text", "reasoning", "tool_call", "tool_call_response"}


def is_unread(part: Part) -> bool:
    """Whether a part was left unchanged because its kind is unknown. Images and files are known kinds."""
    return part["type"] not in READ and kind_of(part) not in QUIET


def read_part(x: Any) -> Part | None:
    """Return the first part of one part of any vendor; None if it has no content (an empty text)."""
    return next(iter(parts_of(x)), None)


def parts_of(x: Any) -> list[Part]:
    """Return the standard's parts of one part of any vendor: usually one, none if it has no content, and two if one
    item holds a call and its result."""
    if isinstance(x, str):
        return _spoken(x) if x else []
    if not isinstance(x, dict):
        return [{"type": "unknown", "content": x}]
    kind = kind_of(x)
    if kind in TEXT:
        return _text_parts(x)
    if kind in REASONING or x.get("thought") is True:
        thought = first(x, "content", "thinking", "text", "summary", "reasoning")
        return [{"type": "reasoning", "content": thought or ""}]
    if is_call(kind) and (first(x, *_NAMES) or isinstance(x.get("function", x.get("server_tool_call")), dict)):
        return [read_call(x)]
    if is_result(kind) or (kind.endswith(_ANSWERS) and first(x, *_ASKED)):
        return [read_result(x)]
    if kind == "nonstandard" and isinstance(x.get("value"), dict):  # LangChain
        return parts_of(x["value"])
    if kind in SPEECH and (said := transcript(x)):
        return [text_part(said)]
    if (item := hosted.interface_part(x)) or (is_hosted(kind) and (x.get("id") or x.get("call_id") or x.get("name"))):
        return _hosted_parts(item or x)
    if kind == "" and "content" in x and first(x, "call_id", "tool_call_id") and "arguments" not in x:
        return [read_result(x)]
    return _untyped_parts(x)


_NAMES = ("name", "tool_name", "toolName")
_ANSWERS, _ASKED = ("result", "output"), ("call_id", "tool_call_id", "tool_use_id", "toolCallId", "toolUseId")


def _text_parts(x: dict[str, Any]) -> list[Part]:
    text = first(x, "content", "text", "refusal")
    if isinstance(text, dict) and isinstance(text.get("value"), str):  # OpenAI's Assistants
        text = text["value"]
    return _spoken(text) if isinstance(text, str) else [] if text is None else [text_part(json_text(text))]


def json_text(value: Any) -> str:
    """Return a structured answer as JSON text, as the model wrote it."""
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _hosted_parts(x: dict[str, Any]) -> list[Part]:
    name, asked, call_id, told = hosted.read_hosted(x)
    call = call_part(name, asked, call_id)
    if told is None:
        return [{**call, "hosted": True}]
    return [call, result_part(plain_content(told[0]), call_id, name, told[1])]


def transcript(x: Any, depth: int = 3) -> str | None:
    """Return the transcript of an audio part or message, if it has one."""
    if not isinstance(x, dict):
        return None
    if isinstance(x.get("transcript"), str):
        return x["transcript"] or None
    inner = (transcript(v, depth - 1) for v in x.values() if isinstance(v, dict)) if depth else ()
    return next((said for said in inner if said), None)


_NESTED_CALLS = ("toolUse", "functionCall", "function_call", "tool_call", "toolRequest", "toolCall")
_NESTED_RESULTS = ("toolResult", "functionResponse", "function_response", "tool_response", "tool_call_result",
                   "toolResponse")  # fmt: skip


def _untyped_parts(x: dict[str, Any]) -> list[Part]:
    if None in x.values():  # Gemini's objects, dumped with all their fields
        x = {k: v for k, v in x.items() if v is not None}
    for key in _NESTED_CALLS:
        if isinstance(x.get(key), dict):
            return [read_call(x[key])]
    for key in _NESTED_RESULTS:
        if isinstance(x.get(key), dict):
            return [read_result(x[key])]
    if code := hosted.code_part(x):
        return parts_of(code)
    if "reasoningContent" in x:
        return [{"type": "reasoning", "content": x["reasoningContent"]}]
    if isinstance(x.get("text"), str) and "type" not in x and (set(x) <= _BESIDE_TEXT or _OF_ANSWERS & set(x)):
        return [text_part(x["text"])] if x["text"] else []
    if not x or (set(x) <= {"text", "type"} and not x.get("text")):
        return []
    if not isinstance(x.get("type", ""), str) or x.get("type") in READ:  # not of its declared type
        return [{"type": "unknown", "content": x}]
    return [{"type": "unknown", **x}]


# Fields beside the text of a block without a type (Gemini, Bedrock). A text beside other fields is not a block.
_BESIDE_TEXT = {"text", "thought", "thoughtSignature", "thought_signature", "signature", "cache_control", "cachePoint",
                "annotations", "citations", "id", "index", "partMetadata", "part_metadata", "finish_reason", "logprobs",
                "finishReason", "generation_info", "role", "mediaResolution", "videoMetadata"}  # fmt: skip
_OF_ANSWERS = {"generation_id", "response_id", "finish_reason", "finishReason", "stop_reason", "usage"}  # Cohere 1


def read_parts(content: Any) -> list[Part]:
    """Return the parts of a content value: a text, a block, or a list of these."""
    if content is None or content == "" or content == []:
        return []
    items = content if isinstance(content, list) else [content]
    return [p for item in items for p in parts_of(item)]
