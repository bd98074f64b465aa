"""Sessions of command-line agents. Their log records become model calls and tool executions, without spans.

If requests and responses were logged whole, they are the model calls. Otherwise one model call holds the whole session:
prompts, logged answers, and tools with their arguments and results. What the agent did not log is missing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import xxhash

from ingest.dialects.logs.events import (
    ANSWER,
    PROMPT,
    REQUEST,
    RESPONSE,
    TOOL,
    Call,
    Event,
    read_event,
    sub_agent,
    vendor,
)
from ingest.messages.normal import LogRecord, Observed
from ingest.messages.parts import Part, call_part, first, parse, parse_any, result_part, text_part
from ingest.messages.shapes import NormalMessage, read_messages
from ingest.messages.tool_definitions import listed_tools, read_tools
from ingest.session_ids import TRACE

NAME = "session-logs"
FLAG = "session_log"


def read_sessions(records: Iterable[LogRecord], told: set[str]) -> tuple[list[Observed], Counter[str]]:
    """The model calls and executions of sessions, except in traces whose spans were read (``told``); and the number of
    records that were not understood, by name."""
    sessions: dict[tuple[str, str, str], list[Event]] = defaultdict(list)
    unread: Counter[str] = Counter()
    for record in records:
        event = read_event(record)
        if event is None:
            unread[str(record.attributes.get("event.name") or record.event_name or "")] += 1
        elif record.trace_id not in told:
            sessions[record.trace_id or TRACE + event.session, event.session, sub_agent(record)].append(event)
    found: list[Observed] = []
    for (trace_id, session, agent), events in sessions.items():
        for o in _session(trace_id, events):
            o.conversation_id = f"{session}/{agent}" if agent else session
            found.append(o)
    return found, unread


def _session(trace_id: str, events: list[Event]) -> Iterator[Observed]:
    events = sorted(events, key=lambda e: e.order)
    calls = [e for e in events if e.kind == TOOL and isinstance(e.content, Call)]
    whole = list(_exchanges(events))
    if whole:
        yield from (_inference(trace_id, *pair) for pair in whole)
    else:
        yield from _told(trace_id, events)
    for number, e in enumerate(calls):
        yield _execution(trace_id, e, number)


def _observed(kind: str, trace_id: str, e: Event, mark: str) -> Observed:
    span_id = xxhash.xxh3_64_hexdigest(f"{trace_id}\0{mark}\0{e.order}\0{e.content}".encode("utf-8", "replace"))
    seen = Observed(kind, NAME, trace_id, span_id, "", e.time_ns, e.time_ns, conversation_id=e.session)
    seen.emitter = f"{e.record.scope}\0{vendor(e.record)}"
    seen.agent = vendor(e.record) or None
    model = first(e.record.attributes, "model", "gen_ai.request.model")
    seen.model = model if isinstance(model, str) else None
    seen.flags = [FLAG]
    return seen


# ------------------------------------------------------------------------------- whole requests and responses


def _exchanges(events: list[Event]) -> Iterator[tuple[Event, Event | None]]:
    """Logged requests with their responses. A response answers the oldest open request of its purpose."""
    waiting: dict[tuple[Any, ...], list[Event]] = defaultdict(list)
    for e in events:
        key = tuple(first(e.record.attributes, name) for name in ("query_source", "prompt_id"))
        if e.kind == REQUEST and _messages(e, "user"):
            waiting[key].append(e)
        elif e.kind == RESPONSE and waiting[key] and _messages(e, "assistant"):
            yield waiting[key].pop(0), e
    yield from ((e, None) for left in waiting.values() for e in left)


def _messages(e: Event, role: str) -> list[NormalMessage]:
    """The messages of a request or a response. The pieces of a stream are joined into one message."""
    if not isinstance(e.content, str | dict | list) or not e.content:
        return []
    told = parse(e.content)
    pieces = told if isinstance(told, list) and all(isinstance(x, dict) and "candidates" in x for x in told) else [told]
    found = [m for piece in pieces for m in read_messages(piece, role)]
    if role == "user" or len(found) < 2 or any(m["role"] != "assistant" for m in found):
        return found
    parts: list[Part] = []
    for part in (p for m in found for p in m["parts"]):
        if parts and part["type"] == "text" and parts[-1]["type"] == "text":
            parts[-1] = text_part(parts[-1]["content"] + part["content"])
        else:
            parts.append(part)
    return [{"role": "assistant", "parts": parts}]


def _inference(trace_id: str, asked: Event, answered: Event | None) -> Observed:
    seen = _observed("inference", trace_id, asked, "call")
    seen.input = _messages(asked, "user")
    seen.tools = read_tools(listed_tools(parse_any(asked.content)))
    seen.is_cut = _is_cut(asked)
    if answered is not None:
        seen.output, seen.end_ns = _messages(answered, "assistant"), max(seen.start_ns, answered.time_ns)
        response = parse_any(answered.content)
        told = response.get("id") if isinstance(response, dict) else None
        seen.response_id = told if isinstance(told, str) else None
    if seen.is_cut or (answered is not None and _is_cut(answered)):
        seen.flags.append("truncated:body")
    return seen


def _is_cut(e: Event) -> bool:
    return str(e.record.attributes.get("body_truncated")).lower() == "true"


# ------------------------------------------------------------------------------------- what there is


def _told(trace_id: str, events: list[Event]) -> Iterator[Observed]:
    """One model call that holds the session: everything before the last answer is its input."""
    told: list[NormalMessage] = []
    flags: list[str] = []
    number = 0
    for e in events:
        if e.is_redacted:
            flags.append("redacted")
        elif e.kind in (PROMPT, ANSWER) and isinstance(e.content, str) and e.content:
            told.append({"role": "user" if e.kind == PROMPT else "assistant", "parts": [text_part(e.content)]})
        elif e.kind == RESPONSE:  # of a request that was not logged; the tools tell its calls
            texts = [p for m in _messages(e, "assistant") for p in m["parts"] if p["type"] == "text"]
            told += [{"role": "assistant", "parts": texts}] if texts else []
        elif e.kind == TOOL and isinstance(e.content, Call):
            told += _exchange(e, number, trace_id)
            number += 1
    if not told:
        return
    seen = _observed("inference", trace_id, events[0], "session")
    answered = told[-1]["role"] == "assistant"
    seen.input, seen.output = (told[:-1], told[-1:]) if answered else (told, [])
    seen.end_ns, seen.rebuilt = events[-1].time_ns, True
    seen.also = [(*seen.key, seen.kind)]  # it stands for itself
    seen.model = next((o.model for o in (_observed("", trace_id, e, "") for e in events) if o.model), None)
    seen.flags += flags
    yield seen


def _exchange(e: Event, number: int, trace_id: str) -> list[NormalMessage]:
    """A call and its result. The agent logs them in one record, after the tool has ended."""
    call: Call = e.content
    call_id = call.call_id or _made_id(trace_id, e, number)
    made = call_part(call.name, call.arguments, call_id)
    answer = result_part(call.result, call_id, call.name, call.is_error)
    return [{"role": "assistant", "parts": [made]}, {"role": "tool", "parts": [answer]}]


def _execution(trace_id: str, e: Event, number: int) -> Observed:
    call: Call = e.content
    seen = _observed("execution", trace_id, e, f"tool {number}")
    seen.tool_name, seen.call_id = call.name, call.call_id or _made_id(trace_id, e, number)
    seen.arguments, seen.result = call.arguments, call.result
    seen.is_error, seen.error_type = bool(call.is_error), call.error_type
    seen.error_message = str(call.result) if call.is_error and call.result is not None else None
    if call.duration_ns is None:
        seen.end_ns = seen.start_ns - 1  # how long it took is not known
    else:
        seen.start_ns = max(0, e.time_ns - call.duration_ns)
    return seen


def _made_id(trace_id: str, e: Event, number: int) -> str:
    return "log_" + xxhash.xxh3_64_hexdigest(f"{trace_id}\0{number}\0{e.order}".encode("utf-8", "replace"))
