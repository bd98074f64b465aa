"""Conversations without telemetry, as OTLP spans. Start here; ``chats`` and ``atif`` read the forms.

Each conversation becomes one span in the OpenTelemetry GenAI form, so later stages handle only spans. Ids are hashes of
the content, so a record that is read twice is one row. Fields without a place in that form are kept as JSON in the
attribute ``rehearsal.record``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import xxhash

from ingest.formats.records import atif, chats
from ingest.formats.records.outcomes import Outcome
from ingest.formats.records.trajectory import Trajectory

Requests = Callable[[str], dict[str, Any] | None]


def as_request(value: Any, batch_requests: Requests | None = None) -> dict[str, Any] | None:
    """An OTLP/JSON request with a span for each conversation in a JSON value, or None if there is none.

    ``batch_requests`` gives the request body of a batch by its ``custom_id``. Raises the errors of ``otlp.BAD_VALUE``
    for a conversation that is malformed."""
    told = atif.trajectories_of(value)
    scope = "atif"
    if told is None:
        told, scope = chats.trajectories_of(value, batch_requests), "messages"
    return None if told is None else request_of(told, scope)


def request_of(told: list[Trajectory], scope: str) -> dict[str, Any]:
    """An OTLP/JSON request with a span for each trajectory; ``scope`` names the form that they came in."""
    scope_part = {"scope": {"name": f"rehearsal.{scope}"}, "spans": _spans(told)}
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [scope_part]}]}


def _spans(told: list[Trajectory]) -> list[dict[str, Any]]:
    spans: list[dict[str, Any]] = []
    for t in told:
        above = spans[t.parent] if t.parent is not None else None
        spans.append(_span(t, above))
    return spans


def _span(t: Trajectory, above: dict[str, Any] | None) -> dict[str, Any]:
    identity = xxhash.xxh3_128_hexdigest(orjson.dumps(t.identity(), option=orjson.OPT_SORT_KEYS))
    start, end = t.times()
    link = [{"traceId": above["traceId"], "spanId": above["spanId"]}] if above else []
    return {
        "traceId": identity, "spanId": identity[:16], "name": "chat", "kind": 1,
        "startTimeUnixNano": str(start), "endTimeUnixNano": str(end), "links": link,
        "attributes": _attributes(t, identity), "events": [_evaluation(o, end) for o in t.outcomes],
        "status": {"code": 2, "message": t.error} if t.error else {},
    }  # fmt: skip


def _attributes(t: Trajectory, identity: str) -> list[dict[str, Any]]:
    values = {
        "gen_ai.operation.name": "chat",
        "gen_ai.conversation.id": t.conversation_id or identity,
        "gen_ai.agent.name": t.agent,
        "gen_ai.request.model": t.model,
        "gen_ai.response.id": t.response_id,
        "gen_ai.system_instructions": t.system or None,
        "gen_ai.input.messages": [chats.without_time(m) for m in t.asked] or None,
        "gen_ai.output.messages": _output([chats.without_time(m) for m in t.said if _says_something(m)]),
        "gen_ai.tool.definitions": t.tools or None,
        "error.type": "batch_error" if t.error else None,
        "rehearsal.record": t.kept or None,
    }
    return [
        {"key": k, "value": {"stringValue": v if isinstance(v, str) else orjson.dumps(v).decode()}}
        for k, v in values.items()
        if v is not None
    ]


def _output(said: list[Any]) -> Any:
    """Answers of an API: several choices or candidates are alternatives, several messages are one answer."""
    if len(said) > 1 and all(isinstance(m, dict) and isinstance(m.get("message"), dict) for m in said):
        return {"choices": said}
    if len(said) > 1 and all(isinstance(m, dict) and isinstance(m.get("content"), dict) for m in said):
        return {"candidates": said}
    return said or None


def _says_something(message: Any) -> bool:
    """Whether a message holds more than its role."""
    told = {k: v for k, v in message.items() if k not in ("role", "timestamp", "weight", "name", "type", "id")}
    return any(v not in (None, "", [], {}) for v in told.values())


def _evaluation(o: Outcome, at_ns: int) -> dict[str, Any]:
    values: dict[str, dict[str, Any]] = {
        "name": {"stringValue": o.name},
        "score.value": {"doubleValue": o.score},
        "score.label": {"stringValue": o.label},
        "explanation": {"stringValue": o.explanation},
    }
    return {
        "timeUnixNano": str(at_ns), "name": "gen_ai.evaluation.result",
        "attributes": [
            {"key": f"gen_ai.evaluation.{k}", "value": v} for k, v in values.items() if None not in v.values()
        ],
    }  # fmt: skip
