"""Convert message-like JSON of any vendor, recognised by its shape, to OpenTelemetry GenAI messages.

The normal form is the standard's (semantic-conventions-genai, gen-ai-input-messages.json): a message is ``{"role",
"parts": [...], "finish_reason"?, "name"?}``. ``ingest.messages.parts`` reads the parts. Supported: OTel parts, OpenAI
chat and Responses, Anthropic, Gemini, Bedrock and Strands, LangChain, LlamaIndex, Haystack, Genkit, Vercel AI SDK,
Pydantic AI. An unreadable part does not affect the other parts of its list.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from ingest.messages.kinds import kind_of
from ingest.messages.parts import (
    Part,
    first,
    is_unread,
    json_text,
    named_tool,
    parse,
    parse_any,
    parts_of,
    plain_content,
    read_call,
    read_parts,
    read_result,
    result_part,
    text_part,
    transcript,
)
from ingest.messages.standard import standard_message

NormalMessage = dict[str, Any]

ROLES = {
    "system": "system", "developer": "system", "instructions": "system", "systemmessage": "system",
    "user": "user", "human": "user", "humanmessage": "user", "usermessage": "user",
    "humanmessagechunk": "user",
    "chatbot": "assistant", "assistant": "assistant", "ai": "assistant", "model": "assistant", "aimessage": "assistant",
    "aimessagechunk": "assistant", "assistantmessage": "assistant", "bot": "assistant",
    "tool": "tool", "function": "tool", "toolmessage": "tool", "tool_response": "tool",
    "tool-response": "tool",
    "functionmessage": "tool", "toolmessagechunk": "tool", "ipython": "tool", "functionexecutionresultmessage": "tool",
}  # fmt: skip


def role_of(message: dict[str, Any]) -> str | None:
    """Return the normal role, from ``role`` or from the class name that frameworks write into ``type`` or ``id``."""
    role = first(message, "role", "messageType")
    if isinstance(role, dict):
        role = first(role, "value", "label", "name")
    if not isinstance(role, str):
        role = message.get("type")
    return ROLES.get(role.lower().rsplit(".", 1)[-1]) if isinstance(role, str) else None


def read_message(x: Any, default_role: str = "user") -> NormalMessage | None:
    """Read one message of any vendor; None if the value contains no message."""
    value = parse_any(x)
    if isinstance(x, str) and not isinstance(value, dict):
        value = x
    if isinstance(value, str):
        return {"role": default_role, "parts": read_parts(value)} if value else None
    if not isinstance(value, dict):
        return None
    value = _unwrapped(value)
    role = role_of(value)
    if role is None:
        found = _item(value, default_role)
        is_plain = found is None and isinstance(x, str) and parse(x) is x  # a text that looks like a repr
        return {"role": default_role, "parts": [text_part(x)]} if is_plain else found
    message: NormalMessage = {"role": role, "parts": _message_parts(value, role)}
    if isinstance(value.get("name"), str) and role != "tool":
        message["name"] = value["name"]
    if finish := first(value, "finish_reason", "finishReason", "stop_reason"):
        message["finish_reason"] = finish
    return message


def _unwrapped(x: dict[str, Any]) -> dict[str, Any]:
    """Unwrap LangChain's ``{"lc", "id": [..., "HumanMessage"], "kwargs"}`` and ``{"type": "human", "data"}``, and the
    ``{"message": {...}}`` of OpenInference and OpenAI."""
    if isinstance(x.get("kwargs"), dict) and isinstance(x.get("id"), list) and x["id"]:
        return {"type": str(x["id"][-1]), **x["kwargs"], "role": str(x["id"][-1])}
    if isinstance(x.get("data"), dict) and isinstance(x.get("type"), str) and x["type"] in ROLES:
        return {**x["data"], "role": x["type"]}
    inner = x.get("data")
    if isinstance(inner, dict) and role_of(x) is None and not any(map(is_unread, parts_of(inner))):  # Logfire
        return inner
    inner = x.get("message")
    if isinstance(inner, dict) and "role" not in x and (role_of(inner) or {"content", "kwargs"} & set(inner)):
        finish = first(x, "finish_reason", "finishReason", "stop_reason")
        return {**_unwrapped(inner), **({"finish_reason": finish} if finish else {})}
    inner = x.get("content")
    if isinstance(inner, dict) and isinstance(inner.get("parts"), list):  # Gemini's candidates
        return {**inner, "role": first(inner, "role") or first(x, "role")}
    if isinstance(inner, dict) and isinstance(text := first(inner, "content", "message"), str):  # AgentCore
        return {**x, "content": strict_parts(text, bare=True)}
    return x


_CALL_IDS = ("tool_call_id", "toolCallId", "tool_use_id", "call_id", "id")


def _message_parts(x: dict[str, Any], role: str) -> list[Part]:
    bodies = (x.get(k) for k in ("parts", "content", "contents", "text", "blocks", "message", "items"))
    body = next((b for b in bodies if b not in (None, "", [])), None)
    if role == "tool":
        if results := _listed_results(x):
            return results
        body = strict_parts(body, bare=True)
    if role == "tool" and not _holds_results(body):
        if body is None and not any(k in x for k in ("parts", "content", "error")):
            return []
        error, raised = first(x, "is_error", "isError", "tool_call_error"), x.get("error")
        if error is None and (x.get("status") == "error" or raised):
            error = True
        if body is None and raised:
            body = first(raised, "message", "type") if isinstance(raised, dict) else raised
        extra = x.get("additional_kwargs")
        call_id = first({**extra, **x} if isinstance(extra, dict) else x, *_CALL_IDS)
        return [result_part(_tool_body(body, x), call_id, first(x, "name", "tool_name") or named_tool(x), error)]
    parts = read_parts(body)
    if isinstance(body, dict) and len(parts) == 1 and parts[0]["type"] == "unknown" and not kind_of(body):
        parts = [text_part(json_text(body))]
    parts = [*_beside(x, "before"), *parts]
    if role == "assistant" and not any(p["type"] == "text" for p in parts):
        parts += _beside(x, "instead")
    known = {p.get("id") for p in parts if p["type"] == "tool_call"} - {None}
    for call in _listed_calls(x):
        if call.get("id") not in known:
            parts.append(call)
    for item in _items(x.get("toolInvocations")):  # AI SDK 4's interface messages
        if item.get("toolCallId") not in known:
            parts += parts_of({"type": "tool-invocation", "toolInvocation": item})
    return parts


def _tool_body(body: Any, x: dict[str, Any]) -> Any:
    if body is None:
        return x.get("content", "")
    if isinstance(body, list):
        body = [p for p in body if not (isinstance(p, dict) and p.get("type") == "tool_reference")]
    return plain_content(body)


def _beside(x: dict[str, Any], place: str) -> list[Part]:
    """Return what a message has beside its content: first reasoning and provider-executed tools, which happened before
    the content, then a refusal or an audio transcript, which take the place of the content."""
    extra = x["additional_kwargs"] if isinstance(x.get("additional_kwargs"), dict) else {}  # LangChain
    if place == "instead":
        said = x.get("refusal") or extra.get("refusal") or transcript(x.get("audio") or extra.get("audio"))
        return [text_part(said)] if isinstance(said, str) and said else []
    thought = first(x, "reasoning_content", "reasoning", "tool_plan")
    before: list[Part] = [{"type": "reasoning", "content": thought}] if isinstance(thought, str) else []
    for item in _items(x.get("executed_tools")):  # Groq
        before += parts_of({"name": item.get("type"), **item, "type": "tool.execution"})
    return before + [p for item in _items(extra.get("tool_outputs")) for p in parts_of(item)]


def _items(listed: Any) -> list[dict[str, Any]]:
    listed = parse(listed)
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _listed_results(x: dict[str, Any]) -> list[Part]:
    """Return the results of several calls in one tool message: AG2's ``tool_responses``, Cohere's ``tool_results``,
    Spring AI's ``responses``."""
    listed = parse(first(x, "tool_responses", "tool_results", "responses"))
    if not isinstance(listed, list) or not listed or not all(isinstance(r, dict) for r in listed):
        return []
    return [read_result({**r["call"], **r} if isinstance(r.get("call"), dict) else r) for r in listed]


def strict_parts(text: Any, bare: bool = False) -> Any:
    """Parse a text that some exporters write instead of content blocks; other values are returned unchanged. A text is
    parsed only if every item of it is clearly a block. ``bare`` blocks declare no type (Bedrock)."""
    items = parse(text) if isinstance(text, str) and text[:2] == "[{" else None
    return items if isinstance(items, list) and all(_is_block(i, bare) for i in items) else text


_BLOCKS = {"toolUse", "toolResult", "reasoningContent", "image", "document", "video", "cachePoint", "citationsContent"}


def _is_block(x: Any, bare: bool) -> bool:
    if not isinstance(x, dict):
        return False
    if isinstance(x.get("text"), str) and set(x) <= {"text", "type", "cache_control", "annotations", "citations"}:
        return bare if "type" not in x else x["type"] in ("text", "input_text", "output_text")
    if len(x) == 1:
        return set(x) <= _BLOCKS
    return isinstance(x.get("type"), str) and not any(map(is_unread, parts_of(x)))


def _holds_results(body: Any) -> bool:
    items = body if isinstance(body, list) else [body]
    return any(p["type"] == "tool_call_response" for i in items if isinstance(i, dict) for p in parts_of(i))


def _listed_calls(x: dict[str, Any]) -> list[Part]:
    """Return the calls beside the content: OpenAI's ``tool_calls`` (LangChain keeps a second copy in
    ``additional_kwargs``) and the older ``function_call``."""
    listed = parse(first(x, "tool_calls", "toolCalls"))
    extra = x.get("additional_kwargs")
    if not listed and isinstance(extra, dict):
        listed = extra.get("tool_calls") or ([extra["function_call"]] if extra.get("function_call") else None)
    if not listed and isinstance(x.get("function_call"), dict):
        listed = [x["function_call"]]
    if isinstance(listed, dict):
        listed = [listed]
    listed = listed if isinstance(listed, list) else []
    known = {c.get("id") for c in listed if isinstance(c, dict)}
    listed = [*listed, *(c for c in _items(x.get("invalid_tool_calls")) if c.get("id") not in known)]  # LangChain
    calls = [c.get("tool_call", c) for c in map(parse, listed) if isinstance(c, dict)]
    return [read_call(c) for c in calls if isinstance(c, dict)]


def _item(x: dict[str, Any], default_role: str) -> NormalMessage | None:
    """Read a list item without a role: OpenAI Responses items, single parts, Gemini and Bedrock outputs."""
    if isinstance(x.get("parts"), list):
        return {"role": default_role, "parts": read_parts(x["parts"])}
    parts = parts_of(x)
    if not parts:
        return None
    kinds = {p["type"] for p in parts}
    if kinds & {"tool_call", "reasoning"}:
        return {"role": "assistant", "parts": parts}
    if "tool_call_response" in kinds:
        return {"role": "tool", "parts": parts}
    if "text" in kinds:
        return {"role": default_role, "parts": _message_parts(x, default_role) if x.get("tool_calls") else parts}
    if "content" in x or "tool_calls" in x:
        role = "assistant" if x.get("tool_calls") else default_role
        return {"role": role, "parts": _message_parts(x, role)}
    return None


_CONTAINERS = ("messages", "input_messages", "output_messages", "choices", "contents", "generations",
               "candidates", "replies", "history", "prompt", "completion",
               "input", "output", "outputs", "message", "response", "result", "content")  # fmt: skip


def read_messages(value: Any, default_role: str = "user") -> list[NormalMessage]:
    """Return the messages of a list, of one message, or of a request or response that contains them."""
    if not isinstance(value, str):
        return _told_by(value, default_role)
    shown = parse_any(value)
    if isinstance(shown, dict | list):
        found = _told_by(shown, default_role)
        if found or parse(value) is not value:
            return found
    return [{"role": default_role, "parts": read_parts(value)}] if value else []


def _told_by(value: Any, default_role: str) -> list[NormalMessage]:
    if isinstance(value, list):
        return join_turns([m for item in value for m in messages_of_item(item, default_role)])
    if not isinstance(value, dict):
        return []
    return _from_object(value, default_role)


def messages_of_item(item: Any, default_role: str) -> list[NormalMessage]:
    """Return the messages of one list item. The result is cached, because every call repeats the history, so it is
    shared and must not be changed."""
    try:
        key = (item if isinstance(item, str) else orjson.dumps(item)), default_role
    except (TypeError, ValueError):  # values that JSON cannot represent are not cached
        return _read_item(item, default_role)
    if len(key[0]) > _LONG:
        return _read_item(item, default_role)
    found = _remembered.get(key)
    if found is None:
        if len(_remembered) >= _MOST:
            _remembered.clear()
        if (message := standard_message(item)) is not None:  # an answer is the next call's history
            found = _remembered[key[0], "user"] = _remembered[key[0], "assistant"] = [message]
        else:
            found = _remembered[key] = _read_item(item, default_role)
    return found


_MOST, _LONG = 8192, 32 << 10  # items; and their length, in bytes of JSON
_remembered: dict[tuple[str | bytes, str], list[NormalMessage]] = {}


def _read_item(item: Any, default_role: str) -> list[NormalMessage]:
    item = parse(item)
    if isinstance(item, str) and isinstance(shown := parse_any(item), list):
        item = shown if _told_by(shown, default_role) else item
    if isinstance(item, list):
        return read_messages(item, default_role)
    if isinstance(item, dict) and str(item.get("kind")) in _DIRECTIONS and isinstance(item.get("parts"), list):
        return [m for p in item["parts"] if (m := _pydantic_part(p, _DIRECTIONS[item["kind"]]))]
    message = read_message(item, default_role)
    return [message] if message else []


_DIRECTIONS = {"request": "user", "response": "assistant"}


def _pydantic_part(part: Any, role: str) -> NormalMessage | None:
    """Read a part of Pydantic AI's own messages. The kind of the part determines the role."""
    kind = str(part.get("part_kind")) if isinstance(part, dict) else ""
    if kind in ("system-prompt", "user-prompt"):
        return {"role": kind.split("-")[0], "parts": read_parts(part.get("content"))}
    if kind in ("tool-return", "retry-prompt") and part.get("tool_name"):
        failed = True if kind == "retry-prompt" else None
        result = result_part(part.get("content"), part.get("tool_call_id"), part["tool_name"], failed)
        return {"role": "tool", "parts": [result]}
    parts = read_parts(part)
    return {"role": role, "parts": parts} if parts else None


def join_turns(messages: list[NormalMessage], before: Iterable[NormalMessage] = ()) -> list[NormalMessage]:
    """Join neighbouring assistant items of one turn (a text, then its calls) to one message, as in OTel. ``before`` has
    messages that are already joined."""
    out = [*before]
    for m in messages:
        mergeable = m["role"] == "assistant" and out and out[-1]["role"] == "assistant"
        mergeable = mergeable and m.get(CHOICE) == out[-1].get(CHOICE)
        if mergeable and any(p["type"] in ("tool_call", "reasoning") for p in (*m["parts"], *out[-1]["parts"])):
            out[-1] = {**out[-1], **m, "parts": [*out[-1]["parts"], *m["parts"]]}
        else:
            out.append(m)
    return out


def _from_object(value: dict[str, Any], default_role: str) -> list[NormalMessage]:
    if role_of(value) or (isinstance(value.get("parts"), list)):
        message = read_message(value, default_role)
        return [message] if message else []
    system = first(
        value, "system", "system_prompt", "instructions", "system_instruction", "systemInstruction", "preamble"
    )
    if system is None and isinstance(value.get("config"), dict):
        system = first(value["config"], "system_instruction", "systemInstruction")
    head = [{"role": "system", "parts": parts}] if (parts := system_parts(system)) else []
    if isinstance(told := value.get("chat_history"), list) and told and all(map(_is_cohere, told)):
        return head + read_messages(told, default_role) + read_messages(value.get("message") or "", default_role)
    for key in _CONTAINERS:
        if value.get(key) not in (None, "", [], {}):
            found = choices_of(value[key], default_role) if key in _CHOICES else None
            found = read_messages(value[key], default_role) if found is None else found
            if found and default_role == "assistant" and isinstance(value[key], str) and _is_answer(value, key):
                return []
            if found:
                return head + found
    items = value.get("items")  # LiveKit's chat context
    if isinstance(items, list) and items and all(map(_is_told, items)):
        return head + read_messages(items, default_role)
    message = read_message(value, default_role)
    return head + ([message] if message else [])


def _is_told(x: Any) -> bool:
    """Whether an item declares a role or a kind."""
    return isinstance(x, dict) and (role_of(x) is not None or str(x.get("type")).startswith("function_call"))


def _is_cohere(x: Any) -> bool:
    """Whether a value is a message of Cohere's first API, which has the new message beside the history."""
    return isinstance(x, dict) and isinstance(x.get("role"), str) and ("message" in x or "tool_results" in x)


def _is_answer(value: dict[str, Any], key: str) -> bool:
    """Whether an object with a text under a usual name is itself the structured answer, and not a wrapper of an answer.
    """
    return len(value) > 1 and _ENVELOPE.isdisjoint(k for k in value if k != key)


_ENVELOPE = {"id", "object", "model", "usage", "created", "created_at", "done", "finish_reason", "finishReason",
             "stop_reason", "role", "type", "metadata", "usage_metadata", "usageMetadata", "response_metadata",
             "additional_kwargs", "raw", "logprobs", "status", "index", "messages", "input", "inputs", "tools",
             "tool_calls", "refusal", "reasoning", "reasoning_content", "trajectory", "rationale", "text",
             "generation_id", "response_id", "conversation_id", "sources", "source_nodes", "system", "prompt",
             "error", "kwargs"}  # fmt: skip
CHOICE = "choice"  # which of several answers to one request a message belongs to
_CHOICES = ("choices", "candidates", "generations")


def choices_of(value: Any, default_role: str) -> list[NormalMessage] | None:
    """Return the messages of several answers to one request, each with its number; None if there is only one answer."""
    value = parse(value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):  # LangChain lists them by prompt
        value = value[0]
    if not isinstance(value, list) or len(value) < 2 or any(isinstance(v, list) for v in value):
        return None
    told = [messages_of_item(item, default_role) for item in value]
    return [{**m, CHOICE: number} for number, messages in enumerate(told) for m in messages]


def by_choice(messages: list[NormalMessage]) -> list[list[NormalMessage]]:
    """Split messages into one list per answer, for several answers to one request."""
    if len(messages) < 2:
        return [messages]
    if not any(CHOICE in m for m in messages):
        own = [m.get("finish_reason") for m in messages]
        calls = any(p["type"] == "tool_call" for m in messages for p in m["parts"])
        separate = all(own) and not calls and all(m["role"] == "assistant" for m in messages)
        return [[m] for m in messages] if separate else [messages]
    found: dict[Any, list[NormalMessage]] = {}
    for m in messages:
        found.setdefault(m.get(CHOICE), []).append({k: v for k, v in m.items() if k != CHOICE})
    return list(found.values())


_TASKS = ("question", "query", "task", "prompt", "user_input", "input", "request", "message", "text", "content")
_ANSWERS = ("answer", "final_answer", "final_output", "output", "response", "result", "text", "content")
def _is_aside(key: str) -> bool:
    """Whether a field is about neither the task nor the answer: names, ids, reasoning."""
    return key in _ASIDES or key.endswith(("_name", "_id", "Name", "Id"))


_ASIDES = {"trajectory", "reasoning", "rationale", "thought", "model", "stream"}


def lone_text(value: Any, role: str, is_named: bool = False) -> str | None:
    """Return the input or output text of an agent from an object with other fields: the text under a usual name, or,
    unless ``is_named``, the only text of the object."""
    value = parse_any(value)
    if isinstance(value, dict) and len(value) == 1 and isinstance(inner := parse(next(iter(value.values()))), dict):
        return lone_text(inner, role, is_named)
    if not isinstance(value, dict):
        return value if isinstance(value, str) and value else None
    keys = _TASKS if role == "user" else _ANSWERS
    told = next((value[k] for k in keys if isinstance(value.get(k), dict) and role_of(value[k])), None)
    if told is not None:  # a message (LlamaIndex's response)
        parts = _message_parts(told, role)
        return "\n".join(p["content"] for p in parts if p["type"] == "text") or None
    texts = {k: v for k, v in value.items() if isinstance(v, str) and v and not _is_aside(k)}
    named = first(texts, *keys)
    return named or (next(iter(texts.values())) if len(texts) == 1 and not is_named else None)


def system_parts(value: Any) -> list[Part]:
    """Return the parts of system instructions, given as text, as parts, or as a message with parts."""
    value = parse(value)
    if isinstance(value, dict) and isinstance(value.get("parts"), list):
        value = value["parts"]
    if isinstance(value, list) and value and all(isinstance(v, dict) and "role" in v for v in value):
        return [p for v in value for p in _message_parts(v, "system")]
    return [p for p in read_parts(value) if p["type"] == "text"]
