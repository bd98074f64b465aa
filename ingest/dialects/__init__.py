"""Dialects: each module maps one family of spans to the normal form (``ingest.normal.Observed``).

A dialect is a module with ``NAME``, ``detect(span) -> bool`` and ``observe(span, seen) -> None``. The first
whose ``detect`` says yes reads the span; order in ``DIALECTS`` is from the special to the general.
"""

from __future__ import annotations

from typing import Protocol

from ingest.dialects import otel
from ingest.normal import Evaluation, Observed, Span
from ingest.shapes import first


class Dialect(Protocol):
    """What a dialect module offers."""

    NAME: str

    def detect(self, span: Span) -> bool: ...
    def observe(self, span: Span, seen: Observed) -> None: ...


DIALECTS: tuple[Dialect, ...] = (otel,)  # type: ignore[assignment]
EVALUATION = "gen_ai.evaluation.result"
_CONVERSATION = ("gen_ai.conversation.id", "session.id", "langfuse.session.id", "langsmith.trace.session_id")


def observe(span: Span) -> Observed:
    """What a span means, by the first dialect that knows it; ``kind`` "other" if none does."""
    a = span.attributes
    conversation_id = first(a, *_CONVERSATION)
    seen = Observed(
        "other", "", span.trace_id, span.span_id, span.parent_span_id, span.start_ns, span.end_ns,
        conversation_id=None if conversation_id is None else str(conversation_id),
    )  # fmt: skip
    seen.error_type = first(a, "error.type")
    seen.is_error = span.status_code == 2 or seen.error_type is not None
    seen.error_message = span.status_message or None
    if span.dropped:
        seen.flags.append("dropped_attributes")
    for dialect in DIALECTS:
        if dialect.detect(span):
            seen.dialect = dialect.NAME
            dialect.observe(span, seen)
            break
    seen.evaluations = [
        evaluation(e["attributes"], e["time_ns"], span.trace_id, span.span_id, seen.conversation_id)
        for e in span.events
        if e["name"] == EVALUATION
    ]
    return seen


def evaluation(
    a: dict[str, object], time_ns: int, trace_id: str, span_id: str, conversation_id: str | None
) -> Evaluation:
    """A ``gen_ai.evaluation.result`` event, from a span event or a log record."""
    score = first(a, "gen_ai.evaluation.score.value")
    return Evaluation(
        name=str(first(a, "gen_ai.evaluation.name") or "evaluation"),
        score=float(score) if isinstance(score, int | float) else None,
        label=first(a, "gen_ai.evaluation.score.label"),
        explanation=first(a, "gen_ai.evaluation.explanation"),
        response_id=first(a, "gen_ai.response.id"),
        time_ns=time_ns, trace_id=trace_id, span_id=span_id,
        conversation_id=first(a, "gen_ai.conversation.id") or conversation_id,
    )  # fmt: skip
