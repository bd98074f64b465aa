"""Pydantic AI (all instrumentation versions) and Logfire: ``events`` and ``all_messages_events`` lists,
``request_data`` and ``response_data``, ``tool_arguments`` and ``tool_response``."""

from __future__ import annotations

from typing import Any

from ingest.dialects.mapping import Mapping, either, has, looks
from ingest.dialects.otel import split_events
from ingest.messages.normal import Span
from ingest.messages.parts import parse


def _kind(span: Span, values: dict[str, Any]) -> str:
    if "tool_arguments" in values or "tool_response" in values:
        return "execution"
    if "all_messages_events" in values or "pydantic_ai.all_messages" in values:
        return "agent"
    return "inference" if "events" in values or "request_data" in values else "other"


def _prepare(span: Span, values: dict[str, Any]) -> dict[str, Any]:
    out = {**values}
    for key in ("events", "all_messages_events"):
        events = parse(values.get(key))
        if isinstance(events, list):
            named = [(str(e.get("event.name", "")), e) for e in events if isinstance(e, dict)]
            out[key], out["output"] = split_events(named)
    return out


MAPPING = Mapping(
    name="pydantic-ai",
    detect=either(
        has("request_data", "all_messages_events", "pydantic_ai.all_messages", "tool_arguments"),
        looks(lambda s: s.scope.startswith(("pydantic-ai", "logfire")), at="events"),
    ),
    kind_of=_kind,
    input=("events", "all_messages_events", "pydantic_ai.all_messages", "request_data"),
    output=("output", "response_data"),
    tools=("model_request_parameters", "request_data"),
    agent=("agent_name",),
    model=("gen_ai.response.model", "gen_ai.request.model", "model_name"),
    response_id=("gen_ai.response.id",),
    tool_name=("gen_ai.tool.name",),
    call_id=("gen_ai.tool.call.id",),
    arguments=("tool_arguments",),
    result=("tool_response",),
    prepare=_prepare,
)
