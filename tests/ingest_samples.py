"""Small OTLP requests for the ingest tests: conversations in OpenTelemetry's GenAI form."""

from __future__ import annotations

import json
from typing import Any

SECOND = 1_000_000_000
START = 1_748_736_000 * SECOND


def value(v: Any) -> dict[str, Any]:
    """A Python value as an OTLP/JSON AnyValue."""
    if isinstance(v, bool):
        return {"boolValue": v}
    if isinstance(v, int):
        return {"intValue": str(v)}
    if isinstance(v, float):
        return {"doubleValue": v}
    if isinstance(v, dict):
        return {"kvlistValue": {"values": attributes(v)}}
    if isinstance(v, list):
        return {"arrayValue": {"values": [value(x) for x in v]}}
    return {"stringValue": v}


def attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": k, "value": value(v)} for k, v in values.items()]


def span(
    trace: int, number: int, name: str, values: dict[str, Any], *, at: float = 0.0, took: float = 0.5,
    parent: int = 1, events: list[dict[str, Any]] | None = None, status: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One span; ``at`` and ``took`` are seconds after START."""
    return {
        "traceId": f"{trace:032x}", "spanId": f"{number:016x}",
        "parentSpanId": "" if parent == number else f"{parent:016x}", "name": name, "kind": 1,
        "startTimeUnixNano": str(START + int(at * SECOND)),
        "endTimeUnixNano": str(START + int((at + took) * SECOND)),
        "attributes": attributes(values), "events": events or [], "status": status or {},
    }  # fmt: skip


def event(name: str, values: dict[str, Any], at: float = 0.0) -> dict[str, Any]:
    return {"timeUnixNano": str(START + int(at * SECOND)), "name": name, "attributes": attributes(values)}


def request(
    *spans: dict[str, Any], scope: str = "sample", resource: dict[str, Any] | None = None
) -> dict[str, Any]:
    """An ExportTraceServiceRequest in OTLP/JSON."""
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": attributes(resource or {"service.name": "shop"})},
                "scopeSpans": [{"scope": {"name": scope, "version": "1"}, "spans": list(spans)}],
            }
        ]
    }


def text(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": content}]}


def call(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    part = {"type": "tool_call", "id": call_id, "name": name, "arguments": arguments}
    return {"role": "assistant", "parts": [part]}


def answer(call_id: str, response: Any, key: str = "response") -> dict[str, Any]:
    return {"role": "tool", "parts": [{"type": "tool_call_response", "id": call_id, key: response}]}


def chat(
    trace: int, number: int, at: float, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]],
    cid: str | None, structured: bool = False, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """A chat span; ``structured`` sends the messages as kvlists, not as JSON text."""
    values: dict[str, Any] = {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "m",
        "gen_ai.input.messages": inputs if structured else json.dumps(inputs),
        "gen_ai.output.messages": outputs if structured else json.dumps(outputs), **more,
    }  # fmt: skip
    if cid:
        values["gen_ai.conversation.id"] = cid
    return span(trace, number, "chat m", values, at=at)


def tool(
    trace: int, number: int, at: float, call_id: str, name: str, arguments: Any, result: str,
    error: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """An execute_tool span of 40 ms."""
    values = {
        "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name, "gen_ai.tool.call.id": call_id,
        "gen_ai.tool.call.arguments": json.dumps(arguments), "gen_ai.tool.call.result": result,
    }  # fmt: skip
    if error:
        values["error.type"] = error
    status = {"code": 2} if error else {}
    return span(trace, number, f"execute_tool {name}", values, at=at, took=0.04, status=status)


TOOLS = [
    {
        "type": "function",
        "function": {"name": "cancel", "description": "Cancel.", "parameters": {"type": "object"}},
    },
    {"type": "function", "name": "find", "parameters": {"type": "object"}},
]


def conversation(
    trace: int = 1, cid: str | None = "c-1", score: float | None = 1.0, tools: Any = TOOLS
) -> dict[str, Any]:
    """One whole conversation: a failing call, a repaired one, thanks; judged by a span event."""
    ask = text("user", "cancel W1 please")
    first, second = call("a", "cancel", {"id": "W1"}), call("b", "cancel", '{"id": "W1", "why": "mistake"}')
    failed, done = "Error: order W1 needs a reason", '{"id": "W1", "status": "cancelled"}'
    system = {"gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be kind."}])}
    if tools:
        system["gen_ai.tool.definitions"] = json.dumps(tools)
    judged = event(
        "gen_ai.evaluation.result",
        {"gen_ai.evaluation.name": "ok", "gen_ai.evaluation.score.value": score},
        9,
    )
    root = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "desk"}
    if cid:
        root["gen_ai.conversation.id"] = cid
    return request(
        span(trace, 1, "invoke_agent desk", root, took=9, events=[judged] if score is not None else []),
        chat(trace, 2, 1, [ask], [first], cid, **system),
        tool(trace, 3, 2, "a", "cancel", {"id": "W1"}, failed, "tool_error"),
        chat(trace, 4, 3, [ask, first, answer("a", failed, "result")], [second], cid, **system),
        tool(trace, 5, 4, "b", "cancel", {"id": "W1", "why": "mistake"}, done),
        chat(trace, 6, 5, [ask, first, answer("a", failed), second, answer("b", done)],
             [text("assistant", "Done.")], cid, **system),
    )  # fmt: skip
