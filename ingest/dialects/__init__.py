"""Dialects. Each module holds one table (``mapping.Mapping``) that maps the spans of one family of instrumentations to
the normal form.

Every dialect whose ``detect`` matches reads the span, the standard first. Each one fills in only what the earlier ones
left empty. A span that no dialect matches is read by the shape of its values (``inferred``). docs/dialects.md shows how
to add a dialect.
"""

from __future__ import annotations

import math
import sys
from functools import lru_cache
from typing import Any

from ingest.dialects import (
    adk,
    claude_code,
    inferred,
    langfuse,
    langsmith,
    mcp,
    mlflow,
    openinference,
    openllmetry,
    otel,
    pydantic_ai,
    vercel,
)
from ingest.dialects.mapping import Look, Mapping, apply, finish
from ingest.formats import references
from ingest.messages.kinds import is_silent, kind_names
from ingest.messages.normal import Evaluation, Observed, Span
from ingest.messages.parts import first
from ingest.messages.stateful import Places, note_ids, places_of

DIALECTS = tuple(
    module.MAPPING
    for module in (
        otel, openinference, pydantic_ai, vercel, adk, langfuse, mlflow, langsmith, openllmetry, claude_code, mcp,
    )
)  # fmt: skip
EVALUATION = "gen_ai.evaluation.result"
_CONVERSATION = (
    "gen_ai.conversation.id", "session.id", "langfuse.session.id", "langsmith.metadata.session_id",
    "langsmith.metadata.thread_id", "langsmith.metadata.conversation_id", "langsmith.trace.session_id",
    "ai.telemetry.metadata.sessionId", "gcp.vertex.agent.session_id", "mlflow.trace.session",
    "traceloop.association.properties.session_id", "traceloop.association.properties.thread_id",
    "traceloop.association.properties.conversation_id", "langfuse.trace.metadata.session_id",
    "gen_ai.thread.id", "conversation_id", "session_id", "thread_id",
)  # fmt: skip
_INPUT_TOKENS = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt",
                 "ai.usage.inputTokens", "ai.usage.promptTokens")  # fmt: skip


def observe(span: Span) -> Observed:
    """The normal form of a span, from all dialects that match it; ``kind`` is "other" if none does."""
    is_missing = _dereference(span)
    a = span.attributes
    conversation_id = first(a, *_among(_CONVERSATION, a))
    seen = Observed(
        "other", "", span.trace_id, span.span_id, span.parent_span_id, span.start_ns, span.end_ns,
        conversation_id=None if conversation_id is None else str(conversation_id),
    )  # fmt: skip
    _note_error(span, seen)
    tokens = first(a, *_among(_INPUT_TOKENS, a))
    seen.input_tokens = tokens if isinstance(tokens, int) else None
    seen.emitter = _emitter(span.scope, span.resource)
    if span.dropped:
        seen.flags.append("dropped_attributes")
    if is_missing:
        seen.flags.append(references.FLAG)
    _read(span, seen)
    if span.events:
        seen.evaluations = [
            evaluation(e["attributes"], e["time_ns"], span.trace_id, span.span_id, seen.conversation_id)
            for e in span.events
            if e["name"] == EVALUATION
        ]
    return seen


def _among(keys: tuple[str, ...], attributes: dict[str, Any]) -> tuple[str, ...]:
    """Those of some keys that a span has. Usually there are none or few."""
    there = _SETS[keys].intersection(attributes)
    return keys if len(there) > 1 else tuple(there)


_SETS: dict[tuple[str, ...], frozenset[str]] = {keys: frozenset(keys) for keys in (_CONVERSATION, _INPUT_TOKENS)}


def _emitter(scope: str, resource: dict[str, Any]) -> str:
    """The process and the instrumentation of a span. Cached by the resource, which many spans share."""
    known = _emitters.get((scope, id(resource)))
    if known is None or known[0] is not resource:
        if len(_emitters) >= _MOST:
            _emitters.clear()
        told = sys.intern(f"{scope}\0{sorted(map(str, resource.items()))}")
        known = _emitters[scope, id(resource)] = resource, told
    return known[1]


_MOST = 1024
_emitters: dict[tuple[str, int], tuple[dict[str, Any], str]] = {}


def _dereference(span: Span) -> bool:
    """Replaces references by their content. Returns whether some content could not be found."""
    span.attributes, missing = references.with_references(span.attributes, span.source)
    for event in span.events:
        event["attributes"], gone = references.with_references(event["attributes"], span.source)
        missing = missing or gone
    for record in span.records:
        record.attributes, gone = references.with_references(record.attributes, span.source)
        missing = missing or gone
    return missing


def _note_error(span: Span, seen: Observed) -> None:
    """Sets the error's class and text. The text of the exception is preferred to the status message."""
    named = first(span.attributes, "error.type")
    seen.error_type = None if named is None else str(named)
    seen.is_error = span.status_code == 2 or seen.error_type is not None
    if seen.is_error:
        raised: dict[str, object] = next((e["attributes"] for e in span.events if e["name"] == "exception"), {})
        kind = str(raised.get("exception.type") or "")
        seen.error_type = seen.error_type or kind.rsplit(".", 1)[-1] or None
        message = first(raised, "exception.message") or span.status_message
        seen.error_message = str(message) if message else None


def _read(span: Span, seen: Observed) -> None:
    """Applies every dialect that matches the span. The first one that finds content names the dialect."""
    told, known = "", list[Mapping]()
    candidates, kinds, places = _candidates(tuple(span.attributes), DIALECTS)
    for key in kinds:
        if isinstance(said := span.attributes[key], str) and is_silent(said):
            seen.dialect = next((d.name for d, looks in candidates if looks is None), "")
            return
    for dialect, looks in candidates:
        if looks is None or any(look(span) for look in looks):
            known.append(dialect)
            before = _content(seen)
            apply(dialect, span, seen)
            told = told or (dialect.name if _content(seen) != before else "")
            seen.dialect = seen.dialect or (dialect.name if seen.kind != "other" else "")
    may_infer = seen.kind in ("inference", "execution") or all(d is otel.MAPPING for d in known)
    if not told and may_infer and inferred.read(span, seen):
        told = inferred.NAME
    seen.dialect = told or seen.dialect
    if seen.kind == "inference":
        note_ids(places, span.attributes, seen)
        finish(known, span, seen)


Candidates = tuple[tuple[Mapping, tuple[Look, ...] | None], ...]


@lru_cache(maxsize=1024)
def _candidates(names: tuple[str, ...], of: tuple[Mapping, ...]) -> tuple[Candidates, tuple[str, ...], Places]:
    """The dialects that may match a span with these attribute names, each with the checks that need the span itself
    (None if the names suffice); the attributes that name the kind of the span; and those that may name what it
    continues. Cached, because the spans of one instrumentation have few different sets of names."""
    found: list[tuple[Mapping, tuple[Look, ...] | None]] = []
    for dialect in of:
        looks = tuple(look for at, look in dialect.detect.looks if not at or at in names)
        if dialect.detect.by_names(names):
            found.append((dialect, None))
        elif looks:
            found.append((dialect, looks))
    return tuple(found), kind_names(names), places_of(names)


def _content(seen: Observed) -> tuple[bool, ...]:
    return bool(seen.input), bool(seen.output), seen.arguments is not None, seen.result is not None


def evaluation(
    a: dict[str, object], time_ns: int, trace_id: str, span_id: str, conversation_id: str | None
) -> Evaluation:
    """A ``gen_ai.evaluation.result`` event, from a span event or a log record."""
    score, told = read_score(first(a, "gen_ai.evaluation.score.value"))
    return Evaluation(
        name=str(first(a, "gen_ai.evaluation.name") or "evaluation"),
        score=score,
        label=first(a, "gen_ai.evaluation.score.label") or told,
        explanation=first(a, "gen_ai.evaluation.explanation"),
        response_id=first(a, "gen_ai.response.id"),
        time_ns=time_ns, trace_id=trace_id, span_id=span_id,
        conversation_id=first(a, "gen_ai.conversation.id") or conversation_id,
    )  # fmt: skip


def read_score(value: object) -> tuple[float | None, str | None]:
    """A score as (number, label). Text may be a number, per cent, true or false; other text is a label. A number that
    is not finite gives no score."""
    if isinstance(value, str):
        text = value.strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            return _VERDICTS.get(text.lower()), text or None
    elif isinstance(value, int | float):
        number = float(value)
    else:
        return None, None
    return (number, None) if math.isfinite(number) else (None, None)


_VERDICTS = {"true": 1.0, "false": 0.0}
