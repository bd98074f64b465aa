"""Conversations that come without telemetry: message lists (chat completions) and ATIF trajectories.

Each becomes one OTLP span in the OpenTelemetry GenAI form, so that everything behind the raw tables needs to
know only spans. Ids come from the content: the same record is the same row, however often it is read. What
has no place in the form is kept as JSON in the attribute ``rehearsal.record``.

ATIF: the Agent Trajectory Interchange Format of the Harbor project, versions 1.x.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson
import xxhash

ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
_IDS = ("conversation_id", "session_id", "trajectory_id", "id", "custom_id")
_SCORES = ("reward", "score")
_OWN_KEYS = {"messages", "tools", "agent", *_IDS, *_SCORES}
SOURCES = {"user": "user", "agent": "assistant", "system": "system"}


def as_request(value: Any) -> dict[str, Any] | None:
    """An OTLP/JSON request with the record's one span, or None if the value is no such record. Raises the
    errors of ``otlp.BAD_VALUE`` for one that is malformed."""
    if isinstance(value, list) and value and all(isinstance(m, dict) and m.get("role") in ROLES for m in value):
        value = {"messages": value}
    if not isinstance(value, dict):
        return None
    if str(value.get("schema_version", "")).startswith("ATIF") and isinstance(value.get("steps"), list):
        return _request(_atif_record(value), value, "atif")
    messages = value.get("messages")
    if isinstance(messages, list) and messages and all(isinstance(m, dict) and "role" in m for m in messages):
        return _request(value, {k: v for k, v in value.items() if k not in _OWN_KEYS}, "messages")
    return None


def _request(record: dict[str, Any], kept: dict[str, Any], scope: str) -> dict[str, Any]:
    identity = xxhash.xxh3_128_hexdigest(orjson.dumps(record, option=orjson.OPT_SORT_KEYS))
    times = [t for m in record["messages"] if (t := _time_ns(m.get("timestamp")))] or [0]
    span = {
        "traceId": identity, "spanId": identity[:16], "name": "chat", "kind": 1,
        "startTimeUnixNano": str(min(times)), "endTimeUnixNano": str(max(times)),
        "attributes": _attributes(record, kept, identity), "events": _evaluations(record, max(times)),
    }  # fmt: skip
    scope_part = {"scope": {"name": f"rehearsal.{scope}"}, "spans": [span]}
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [scope_part]}]}


def _attributes(record: dict[str, Any], kept: dict[str, Any], identity: str) -> list[dict[str, Any]]:
    messages = [{k: v for k, v in m.items() if k != "timestamp"} for m in record["messages"]]
    answered = messages[-1]["role"] == "assistant"
    conversation = next((record[k] for k in _IDS if isinstance(record.get(k), str | int)), identity)
    agent = record.get("agent")
    values = {
        "gen_ai.operation.name": "chat",
        "gen_ai.conversation.id": str(conversation),
        "gen_ai.agent.name": agent.get("name") if isinstance(agent, dict) else agent,
        "gen_ai.request.model": record.get("model"),
        "gen_ai.input.messages": messages[:-1] if answered else messages,
        "gen_ai.output.messages": messages[-1:] if answered else None,
        "gen_ai.tool.definitions": record.get("tools"),
        "rehearsal.record": kept or None,
    }
    return [
        {"key": k, "value": {"stringValue": v if isinstance(v, str) else orjson.dumps(v).decode()}}
        for k, v in values.items()
        if v is not None
    ]


def _evaluations(record: dict[str, Any], at_ns: int) -> list[dict[str, Any]]:
    """A reward or a score beside the messages is an evaluation of the conversation."""
    return [
        {
            "timeUnixNano": str(at_ns), "name": "gen_ai.evaluation.result",
            "attributes": [
                {"key": "gen_ai.evaluation.name", "value": {"stringValue": name}},
                {"key": "gen_ai.evaluation.score.value", "value": {"doubleValue": float(record[name])}},
            ],
        }
        for name in _SCORES
        if isinstance(record.get(name), int | float)
    ]  # fmt: skip


def _time_ns(value: Any) -> int:
    """An ISO 8601 time, or seconds since 1970; 0 for what is neither."""
    if isinstance(value, int | float):
        return int(value * 1e9)
    try:
        return int(datetime.fromisoformat(value).timestamp() * 1_000_000) * 1000
    except (TypeError, ValueError, OverflowError):
        return 0


# ------------------------------------------------------------------------------------------------ ATIF


def _atif_record(trajectory: dict[str, Any]) -> dict[str, Any]:
    agent = trajectory.get("agent") or {}
    return {
        "messages": [message for step in trajectory["steps"] for message in _atif_messages(step)],
        "tools": agent.get("tool_definitions"),
        "agent": agent.get("name"),
        "model": agent.get("model_name"),
        "session_id": trajectory.get("session_id") or trajectory.get("trajectory_id"),
        **{name: (trajectory.get("extra") or {}).get(name) for name in _SCORES},
    }


def _atif_messages(step: dict[str, Any]) -> list[dict[str, Any]]:
    """A step: what was said and called, then one message for each observed result. A step of the agent that
    holds only an observation (its call was the step before) says nothing of its own."""
    calls = [_atif_call(call) for call in step.get("tool_calls") or ()]
    said: dict[str, Any] = {
        "role": SOURCES.get(step.get("source", ""), "assistant"),
        "content": step.get("message"),
        "timestamp": step.get("timestamp"),
    }
    if calls:
        said["tool_calls"] = calls
    if step.get("reasoning_content"):
        said["reasoning_content"] = step["reasoning_content"]
    results = (step.get("observation") or {}).get("results") or ()
    out = [said] if calls or said["content"] or not results else []
    return out + [_atif_result(result, calls, step) for result in results]


def _atif_call(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call.get("arguments")
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
    function = {"name": call["function_name"], "arguments": text}
    return {"id": call.get("tool_call_id"), "type": "function", "function": function}


def _atif_result(result: dict[str, Any], calls: list[dict[str, Any]], step: dict[str, Any]) -> dict[str, Any]:
    """``source_call_id`` may be missing where there is only one call that it can mean."""
    call_id = result.get("source_call_id") or (calls[0]["id"] if len(calls) == 1 else None)
    content = result.get("content")
    if not isinstance(content, str | None):
        content = orjson.dumps(content).decode()
    return {"role": "tool", "tool_call_id": call_id, "content": content, "timestamp": step.get("timestamp")}
