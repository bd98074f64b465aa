"""Convert normal messages to chat-completions messages, with a key by which repeated history is recognised."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import orjson
import xxhash

from ingest.messages.parts import Part, parse
from ingest.messages.shapes import NormalMessage
from ingest.records import Message


@dataclass(slots=True)
class Turn:
    """One chat message of a conversation, and the span that it was first seen in. ``key`` does not include ids, because
    instrumentations make their own, so equal messages have equal keys."""

    message: Message
    key: bytes
    parts: list[Part]
    start_ns: int = 0
    span_id: str = ""
    trace_id: str = ""
    sent: bool = False  # seen in a model's output, not only in a history
    flags: list[str] = field(default_factory=list)
    is_lent: bool = False  # the message is shared and must not be changed

    def seen(self, time_ns: int, span_id: str, trace_id: str, sent: bool) -> Turn:
        """Return the turn as seen in a span. The message is shared."""
        return Turn(self.message, self.key, self.parts, time_ns, span_id, trace_id, sent, [], True)

    def saying(self, message: Message, parts: list[Part]) -> Turn:
        """Return the turn with another message and other parts."""
        return Turn(
            message, self.key, parts, self.start_ns, self.span_id, self.trace_id, self.sent, self.flags, self.is_lent
        )

    def keep(self) -> None:
        """Copy a shared message, so that it can be changed."""
        if self.is_lent:
            self.message, self.is_lent = self.message.copy(), False
            if calls := self.message.get("tool_calls"):
                self.message["tool_calls"] = [call.copy() for call in calls]


def canonical(value: Any) -> Any:
    """Return a value in canonical form: JSON text parsed, text stripped, whole floats as integers."""
    if isinstance(value, str):
        parsed = parse(value)
        return value.strip() if parsed is value else canonical(parsed)
    if isinstance(value, dict):
        return {k: canonical(v) for k, v in value.items()}
    if isinstance(value, list):
        return [canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def key_of(value: Any) -> bytes:
    """Return a hash of a value's canonical JSON."""
    try:
        told = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError):
        told = b""
    if not 0 < len(told) <= _SHORT or _NOT_CANONICAL.search(told):
        told = orjson.dumps(canonical(value), option=_ANY_KEYS, default=str)
    return xxhash.xxh3_64_digest(told)


_ANY_KEYS = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
# What ``canonical`` may change: a text that begins or ends with space (or with what is escaped, as tabs are, or is not
# ASCII), one that begins as JSON does, and a whole float. In a long text it is quicker to try than to look for these.
_NOT_CANONICAL = re.compile(rb'"[\s\\{\[\x80-\xff]|[\s\x80-\xff]"|\\u?\w{1,4}"|\d\.0(?:[,\]}]|$)')
_SHORT = 512


def as_text(value: Any) -> str | None:
    """Return a tool's result as the text that the model saw: JSON minified, text unchanged."""
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value, default=str).decode()


def _content(parts: list[Part]) -> str | None:
    texts = [p["content"] for p in parts if p["type"] == "text" and isinstance(p.get("content"), str)]
    return "\n".join(texts) if texts else None


def to_turns(message: NormalMessage) -> list[Turn]:
    """Return the chat messages of one normal message. Each tool result is a message of its own. An assistant message is
    split at results, in order; for other roles the text comes after the results. The turns are cached, because every
    call repeats the history, and must not be changed; use ``Turn.seen``."""
    known = _told.get(id(message))
    if known is None or known[0] is not message:
        if len(_told) >= _MOST:
            _told.clear()
        known = _told[id(message)] = message, _read_turns(message)
    return known[1]


_MOST = 4096
_told: dict[int, tuple[NormalMessage, list[Turn]]] = {}


def _read_turns(message: NormalMessage) -> list[Turn]:
    parts = message["parts"]
    if len(parts) == 1 and parts[0]["type"] in ("text", "tool_call") and message["role"] != "tool":  # as most are
        return [_spoken_turn(message["role"], parts)]
    if message["role"] == "assistant":
        return _in_order(parts)
    turns = [_tool_turn(p) for p in parts if p["type"] == "tool_call_response"]
    rest = [p for p in parts if p["type"] != "tool_call_response"]
    if message["role"] != "tool" and any(p["type"] != "reasoning" for p in rest):
        turns.append(_spoken_turn(message["role"], rest))
    return turns


def _in_order(parts: list[Part]) -> list[Turn]:
    """Split an assistant message at the results of provider-executed tools. A message without parts is one turn without
    content."""
    if not parts:
        return [_spoken_turn("assistant", [])]
    turns: list[Turn] = []
    said: list[Part] = []
    for part in parts:
        if part["type"] != "tool_call_response":
            if said and "hosted" in said[-1] and part["type"] == "text":  # the provider ran it, and told no answer
                turns.append(_spoken_turn("assistant", said))
                said = []
            said.append(part)
            continue
        if said:
            turns.append(_spoken_turn("assistant", said))
            said = []
        turns.append(_tool_turn(part))
    if said:
        turns.append(_spoken_turn("assistant", said))
    return turns


def _spoken_turn(role: str, parts: list[Part]) -> Turn:
    out: Message = {"role": role, "content": _content(parts)}  # type: ignore[typeddict-item]
    calls = [p for p in parts if p["type"] == "tool_call"]
    if calls:
        out["tool_calls"] = [_chat_call(c) for c in calls]
    facts = [role, out["content"] or "", [[c["name"], c.get("arguments")] for c in calls]]
    return Turn(out, key_of(facts), parts)


def _chat_call(part: Part) -> Any:
    call: dict[str, Any] = {"id": part.get("id", ""), "name": part["name"]}
    if "arguments" in part:
        call["arguments"] = part["arguments"]
    return call


def _tool_turn(part: Part) -> Turn:
    out: Message = {"role": "tool", "content": as_text(part["response"])}
    if part.get("id"):
        out["tool_call_id"] = part["id"]
    if part.get("name"):
        out["name"] = part["name"]
    if "is_error" in part:
        out["is_error"] = part["is_error"]
    return Turn(out, key_of(["tool", out["content"]]), [part])
