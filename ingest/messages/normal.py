"""The normal form of spans and log records, between dialects and tables, in the standard's terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ingest.messages.shapes import NormalMessage

# Bump when a mapping changes what the same raw rows mean; `rehearsal ingest` then rebuilds the tables.
MAPPING_VERSION = 5
SpanKey = tuple[str, str]  # trace id, span id


@dataclass(slots=True)
class Span:
    """One raw span as a dialect reads it: attributes and events are parsed JSON."""

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: list[dict[str, Any]]
    status_code: int
    status_message: str
    scope: str
    scope_version: str
    resource: dict[str, Any]
    dropped: int = 0
    links: list[dict[str, Any]] = field(default_factory=list)
    records: list[LogRecord] = field(default_factory=list)  # log records that name this span
    source: str = ""  # the file that it was read from


@dataclass(slots=True)
class LogRecord:
    """One raw log record. ``event_name`` may come from the old attribute ``event.name``."""

    trace_id: str
    span_id: str
    time_ns: int
    event_name: str
    body: Any
    attributes: dict[str, Any]
    scope: str
    resource: dict[str, Any]
    is_read: bool = False  # its content was read with its span


@dataclass(slots=True)
class Evaluation:
    """One judgement: an evaluation event, a score, feedback."""

    name: str
    score: float | None
    label: str | None
    explanation: str | None
    response_id: str | None
    time_ns: int
    trace_id: str = ""
    span_id: str = ""
    conversation_id: str | None = None
    anchors: tuple[tuple[SpanKey, ...], ...] = ()  # spans of the judged thread, nearest first (``judgements``)


@dataclass(slots=True)
class Observed:
    """The meaning of one span. ``kind`` is ``inference`` (a model call), ``execution`` (a tool execution), ``agent``
    (an agent or workflow run) or ``other``."""

    kind: str
    dialect: str
    trace_id: str
    span_id: str
    parent_span_id: str
    start_ns: int
    end_ns: int
    conversation_id: str | None = None
    agent: str | None = None
    model: str | None = None
    response_id: str | None = None
    previous_response_id: str | None = None
    state_id: str | None = None  # the conversation that the API stores; calls send only new messages
    input: list[NormalMessage] = field(default_factory=list)
    output: list[NormalMessage] = field(default_factory=list)
    alternatives: list[list[NormalMessage]] = field(default_factory=list)  # other answers to the same input (n > 1)
    is_cut: bool = False  # a length limit truncated the history
    tools: list[dict[str, Any]] = field(default_factory=list)
    tool_name: str | None = None
    is_display_name: bool = False  # the tool's name is that of a span or a class
    call_id: str | None = None
    arguments: Any = None
    result: Any = None
    is_error: bool = False
    error_type: str | None = None
    error_message: str | None = None
    flags: list[str] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    input_tokens: int | None = None
    emitter: str = ""  # the process and the instrumentation in it
    rebuilt: bool = False  # made of a whole run (ingest.conversations.runs)
    also: list[tuple[str, str, str]] = field(default_factory=list)  # merged spans: trace, span, kind

    @property
    def key(self) -> SpanKey:
        """The trace id and the span id."""
        return self.trace_id, self.span_id

    def output_key(self, number: int) -> tuple[str, str]:
        """Return the key of one of a model call's answers: the span's, with a number for alternatives (n > 1)."""
        return self.trace_id, f"{self.span_id}#{number}" if number else self.span_id

    @property
    def output_keys(self) -> list[tuple[str, str]]:
        """The keys of all answers of a model call; of any other span its own."""
        return [self.output_key(number) for number in range(1 + len(self.alternatives))]
