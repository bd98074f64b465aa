"""Reads spans that no dialect maps, by the shape of their values.

Roles and typed parts decide whether a value is a list of messages. The attribute's name decides only the direction:
``output``, ``response``, ``completion`` and similar words mean that the model wrote it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from ingest.dialects.mapping import called_with, completeness, is_redacted, unflatten, unquoted
from ingest.messages.kinds import is_silent
from ingest.messages.normal import Observed, Span
from ingest.messages.parts import parse_any, text_part
from ingest.messages.shapes import ROLES, NormalMessage, read_messages, role_of, system_parts
from ingest.messages.tool_definitions import listed_tools, read_tools

NAME = "inferred"
MAX_DEPTH = 6
MAX_PREFIXES = 64
_WORDS = re.compile(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]+")
_OUT = {"out", "output", "outputs", "response", "responses", "completion", "completions", "result", "results", "reply",
        "replies", "answer", "generation", "generations", "choices", "choice", "candidates"}  # fmt: skip
_CHOICES = {"choices", "candidates"}
_ARGUMENTS = {"arguments", "args", "input", "inputs", "kwargs"}
_FORMS = {"json", "value", "raw", "text", "string"}  # args_json and input.value are args and input
_RESULT = {"result", "results", "output", "outputs", "response", "return"}
_TOOL = {"tool", "function"}
_SYSTEM = {"system", "instructions"}
_TEXTS = {"text", "content", "message", "output", "completion", "response", "answer", "reply"}
_SESSIONS = tuple((what, "id") for what in ("conversation", "session", "thread", "chat"))
_NAMED = {*_TOOL, "entity"}
_SAYS = (("kind",), ("type",), ("operation",), ("op",))  # where a span says what it is
_FLAT = re.compile(r"^(.*?)\.\d{1,6}\.")
_PARTS = {"tool_call", "tool_use", "tool_result", "tool-call", "tool-result", "function_call",
          "function_call_output", "tool_call_response"}  # fmt: skip


def read(span: Span, seen: Observed) -> bool:
    """Reads a span that no dialect maps. Returns whether anything was found."""
    values = _values(span)
    if any(isinstance(v, str) and words(k)[-1:] in _SAYS and is_silent(v) for k, v in values):
        return False  # embeddings, reranking, ...
    if seen.kind in ("other", "execution") and _execution(span, values, seen):
        return True
    if seen.kind == "execution":
        return False
    if not _messages(values, seen):
        return False
    if seen.kind == "other":
        seen.kind = "inference"
    named = {words(k)[-2:]: v for k, v in values if isinstance(v, str) and v}
    seen.conversation_id = seen.conversation_id or next((named[k] for k in _SESSIONS if k in named), None)
    seen.model = seen.model or next((v for k, v in named.items() if "model" in k), None)
    return True


def _values(span: Span) -> list[tuple[str, Any]]:
    """All attributes, with flattened ones nested, then the fields of events and log records."""
    out: list[tuple[str, Any]] = []
    prefixes: dict[str, None] = {}
    for key, value in span.attributes.items():
        flat = _FLAT.match(key)
        if flat:
            prefixes.setdefault(flat.group(1))
        else:
            out.append((key, parse_any(value)))
    for prefix in list(prefixes)[:MAX_PREFIXES]:
        out.append((prefix, unflatten(span.attributes, prefix)[0]))
    told = [(e["name"], e["attributes"]) for e in span.events if e["name"] != "exception"]
    for record in span.records:
        body = parse_any(record.body)
        told.append((record.event_name, body if isinstance(body, dict) else record.attributes))
    messages = [m for name, fields in told if (m := _message_of(name, fields))]
    choices = [parse_any(fields.get("message", fields)) for name, fields in told if words(name)[-1:] == ("choice",)]
    out += [(key, found) for key, found in (("messages", messages), ("output", choices)) if found]
    for name, fields in told:
        if not _message_of(name, fields) and words(name)[-1:] != ("choice",):
            out += [(f"{name}.{k}", parse_any(v)) for k, v in fields.items()]
    return out


def _message_of(name: str, fields: dict[str, Any]) -> dict[str, Any] | None:
    """An event that is one message: its role in a field, or in a name like ``acme.user.message``."""
    named = next((w for w in words(name) if w in ROLES), None) if words(name)[-1:] == ("message",) else None
    role = fields.get("role") if isinstance(fields.get("role"), str) else named
    return {**fields, "role": role} if role and {"content", "tool_calls", "parts"} & set(fields) else None


@lru_cache(maxsize=4096)
def words(key: str) -> tuple[str, ...]:
    """The words of an attribute's name: ``acme.toolCall.args_json`` is acme, tool, call, args, json."""
    return tuple(w.lower() for w in _WORDS.findall(key))


def _messages(values: list[tuple[str, Any]], seen: Observed) -> bool:
    sent: list[NormalMessage] = []
    said: list[NormalMessage] = []
    for key, value in values:
        if not seen.tools:
            named = value if _TOOL & {w.rstrip("s") for w in words(key)} else listed_tools(value)
            seen.tools = [t for t in read_tools(named) if "parameters" in t]
        if not looks_like_messages(value):
            continue
        is_out = bool(_OUT & set(words(key)))
        found = read_messages(value, "assistant" if is_out else "user")
        if found and all(map(is_redacted, found)):
            seen.flags.append("redacted")
            continue
        if is_out and any(m["role"] == "user" for m in found):
            is_out = False  # a whole conversation, the answer at its end
        elif found and isinstance(value, dict) and not _CHOICES.isdisjoint(value):
            is_out = True  # a model's response, under whatever name
        if is_out:
            said = max(said, found, key=completeness)
        else:
            sent = max(sent, found, key=completeness)
    said = [m for m in said if m["role"] != "system"]
    if not sent and not said:
        return False
    _add_texts(values, sent, said)
    if said and sent[-len(said) :] == said:
        said = []
    seen.input, seen.output = sent, said
    return True


def _add_texts(values: list[tuple[str, Any]], sent: list[NormalMessage], said: list[NormalMessage]) -> None:
    """Adds a system prompt and an answer that are separate attributes, as text or parts."""
    for key, value in values:
        name = words(key)
        is_vendor = isinstance(value, str) and " " not in value  # gen_ai.system = openai
        if _SYSTEM & set(name) and not is_vendor and not any(m["role"] == "system" for m in sent):
            sent[:0] = [{"role": "system", "parts": p} for p in [system_parts(value)] if p]
        if isinstance(value, str) and value and not said and _OUT & set(name) and name[-1] in _TEXTS:
            said.append({"role": "assistant", "parts": [text_part(value)]})


def looks_like_messages(value: Any, depth: int = 0) -> bool:
    """Whether a value is, or contains under usual names, a message with a role or a typed call or result."""
    if depth > MAX_DEPTH:
        return False
    if isinstance(value, list):
        return any(looks_like_messages(v, depth + 1) for v in value[:50])
    if not isinstance(value, dict):
        return False
    if role_of(value) and (isinstance(value.get("role"), str) or "kwargs" in value or "content" in value):
        return True
    if str(value.get("type")) in _PARTS:
        return True
    return any(looks_like_messages(v, depth + 1) for v in value.values() if isinstance(v, dict | list))


def _execution(span: Span, values: list[tuple[str, Any]], seen: Observed) -> bool:
    """Reads a tool execution: a name with arguments or a result, in a span or in attributes named after a tool."""
    about_tool = bool(_TOOL & set(words(span.name))) or any(
        isinstance(v, str) and v.lower() in _TOOL for k, v in values if words(k)[-1:] in (("kind",), ("type",))
    )
    told: dict[str, Any] = {}
    for key, value in values:
        name = words(key)
        if name and (about_tool or _TOOL & set(name)):
            _tell(told, name, value)
    if isinstance(told.get("parameters"), dict) and not {"type", "properties"} & set(told["parameters"]):
        told.setdefault("arguments", told["parameters"])
    if not ("arguments" in told or "result" in told) or not (told.get("name") or about_tool):
        return False
    if not told.get("name") and any(looks_like_messages(told.get(k)) for k in ("arguments", "result")):
        return False  # a step of a graph that is called "tools"
    seen.kind = "execution"
    seen.tool_name = seen.tool_name or told.get("name") or re.split(r"[\s/:]+", span.name.strip())[-1]
    seen.call_id = seen.call_id or told.get("id")
    seen.arguments = called_with(told.get("arguments"))
    seen.result = unquoted(told.get("result"))
    return True


def _tell(told: dict[str, Any], name: tuple[str, ...], value: Any) -> None:
    last = next((w for w in reversed(name) if w not in _FORMS), "")
    if last in _ARGUMENTS:
        told.setdefault("arguments", value)
    elif last in ("parameters", "params"):  # a schema, as a rule; arguments where there are no others
        told.setdefault("parameters", value)
    elif last in _RESULT:
        told.setdefault("result", value)
    elif last == "id" and isinstance(value, str) and {"call", "use"} & set(name):
        told.setdefault("id", value)
    elif isinstance(value, str) and (last in _TOOL or (last == "name" and (len(name) == 1 or _NAMED & set(name)))):
        told.setdefault("name", value)
