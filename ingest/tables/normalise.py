"""Normalise raw rows: each span is read by its dialect, then conversations are assembled and written as rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import xxhash

from ingest import dialects
from ingest.conversations.assembly import KINDS, Assembled, Left, assemble
from ingest.conversations.executions import DEMOTED
from ingest.conversations.judgements import Index, Named, identity
from ingest.conversations.links import Link
from ingest.dialects.logs import model_events, sessions
from ingest.messages.chatform import Turn
from ingest.messages.normal import MAPPING_VERSION, Evaluation, LogRecord, Observed, Span
from ingest.messages.parts import Part
from ingest.privacy.conversations import Privacy
from ingest.privacy.screen import Told

RowLists = dict[str, list[tuple[Any, ...]]]
Rows = Iterable[tuple[Any, ...]]  # of a raw table, the columns in the order of ``COLUMNS``
# What is read of the raw tables.
COLUMNS = {
    "spans": ["trace_id", "span_id", "parent_span_id", "name", "kind", "start_ns", "end_ns", "attributes", "events",
              "dropped_attributes_count", "dropped_events_count", "links", "status_code", "status_message",
              "scope_name", "scope_version", "resource", "source"],
    "log_records": ["trace_id", "span_id", "time_ns", "observed_time_ns", "event_name", "body", "attributes",
                    "scope_name", "resource"],
}  # fmt: skip
_TEXTS = pa.list_(pa.string())
NORMALISED = {
    "message_bodies": pa.schema(
        [("message_hash", pa.string()), ("role", pa.string()), ("content", pa.string()),
         ("tool_calls", pa.string()), ("parts", pa.string())]
    ),
    "conversation_messages": pa.schema(
        [("conversation_id", pa.string()), ("position", pa.int64()), ("message_hash", pa.string()),
         ("tool_call_id", pa.string()), ("name", pa.string()), ("is_error", pa.bool_()),
         ("error_class", pa.string()), ("latency_ms", pa.float64()), ("time_ns", pa.int64()),
         ("trace_id", pa.string()), ("span_id", pa.string())]
    ),
    "conversation_facts": pa.schema(
        [("conversation_id", pa.string()), ("agent", pa.string()), ("started_at_ns", pa.int64()),
         ("ended_at_ns", pa.int64()), ("tools", pa.string()), ("tool_count", pa.int64()), ("flags", _TEXTS),
         ("dialects", _TEXTS), ("trace_ids", _TEXTS), ("mapping_version", pa.int64())]
    ),
    "calls": pa.schema(
        [("conversation_id", pa.string()), ("call_index", pa.int64()), ("call_id", pa.string()),
         ("tool", pa.string()), ("arguments", pa.string()), ("call_position", pa.int64()),
         ("result_position", pa.int64()), ("is_error", pa.bool_()), ("error_class", pa.string()),
         ("started_at_ns", pa.int64()), ("execution_trace_id", pa.string()),
         ("execution_span_id", pa.string()), ("repairs", _TEXTS)]
    ),
    "call_arguments": pa.schema(
        [("conversation_id", pa.string()), ("call_index", pa.int64()), ("tool", pa.string()),
         ("argument", pa.string())]
    ),
    "evaluations": pa.schema(
        [("conversation_id", pa.string()), ("name", pa.string()), ("score", pa.float64()),
         ("label", pa.string()), ("explanation", pa.string()), ("time_ns", pa.int64()),
         ("trace_id", pa.string()), ("span_id", pa.string()), ("attributed_by", pa.string())]
    ),
    # Where each model output and tool execution is: the message's position, or the reason why it is nowhere.
    "placements": pa.schema(
        [("conversation_id", pa.string()), ("trace_id", pa.string()), ("span_id", pa.string()),
         ("kind", pa.string()), ("position", pa.int64()), ("reason", pa.string())]
    ),
}  # fmt: skip


@dataclass
class Normalised:
    """The rows of each normalised table, and counts: spans by dialect, items read by kind, and by event name the log
    records that were not understood."""

    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: {k: [] for k in NORMALISED})
    dialect_counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    read_counts: dict[str, int] = field(default_factory=dict)
    unread_records: dict[str, int] = field(default_factory=dict)


def rows_of(batches: Iterable[pa.RecordBatch], name: str) -> Rows:
    """Yield the rows of a raw table."""
    for batch in batches:
        yield from zip(*(_values(batch[column]) for column in COLUMNS[name]), strict=True)


def _values(column: pa.Array) -> list[Any]:
    """Return a column's values like ``to_pylist``; most types without an Arrow scalar for each value."""
    if column.null_count or not (pa.types.is_string(column.type) or pa.types.is_integer(column.type)):
        return column.to_pylist()
    return column.to_numpy(zero_copy_only=False).tolist()


def normalise(spans: Rows, records: Rows, privacy: Privacy | None = None) -> Normalised:
    """Return the normalised rows of raw ``spans`` and ``log_records``. With ``privacy``, personal and secret values are
    replaced by surrogates."""
    out = Normalised()
    observed, judged = read(spans, records, out.dialect_counts, out.read_counts, out.unread_records)
    left, index = Left(), Index()
    conversations = assemble(observed, judged, left)
    add_conversations(out.rows, conversations, privacy)
    for c in conversations:
        index.add(named(c))
    for e in left.judgements:
        out.rows["evaluations"].append(evaluation_row(e, *index.find(e), privacy))
    out.rows["placements"] += left_rows(left)
    return out


def named(c: Assembled) -> Named:
    """Return the ids by which judgements find a conversation."""
    return Named(c.conversation_id, frozenset(c.names), frozenset(c.trace_ids), frozenset(c.thread.response_ids))


def left_rows(left: Left) -> list[tuple[Any, ...]]:
    """Return the rows of ``placements`` for spans that are in no conversation."""
    told = dict.fromkeys(left.spans)
    return [(None, trace_id, span_id, _KINDS.get(kind, kind), None, reason) for trace_id, span_id, kind, reason in told]


_KINDS = {DEMOTED: "inference"}
_PLACED = {*KINDS, DEMOTED}


def read(
    spans: Rows,
    records: Rows,
    dialect_counts: dict[str, int],
    read_counts: dict[str, int] | None = None,
    unread_records: dict[str, int] | None = None,
) -> tuple[list[Observed], list[Evaluation]]:
    """Read raw rows. Return the meaning of each span, and the judgements of log records.

    Adds to the counts: spans by dialect; model calls, executions and judgements; log records that were not
    understood, by name. The log records must be all those of the spans.
    """
    by_span, judged = _records(records)
    observed: list[Observed] = []
    met: set[tuple[str, str]] = set()
    kinds: dict[str, set[Any]] = {kind: set() for kind in KINDS}
    judgements = set(map(identity, judged))
    loose = [r for (trace_id, _), told in by_span.items() if not trace_id for r in told]
    for span in chain(_spans(spans, by_span, met), _spans_of(by_span, met), model_events.spans_of(loose)):
        seen = _observed(span)
        dialect_counts[seen.dialect or "none"] = dialect_counts.get(seen.dialect or "none", 0) + 1
        if (outputs := kinds.get(seen.kind)) is not None:
            if seen.alternatives:
                outputs.update(seen.output_keys)
            else:
                outputs.add((seen.trace_id, seen.span_id))
        if seen.evaluations:
            judgements.update(map(identity, seen.evaluations))
        observed.append(seen)
        if seen.kind != "other" and span.records:
            for record in span.records:
                record.is_read = True
    rest = [r for told in by_span.values() for r in told if not r.is_read and r.event_name != dialects.EVALUATION]
    if rest:
        told_traces = {o.trace_id for o in observed if o.input or o.output or o.arguments is not None}
        found, unread = sessions.read_sessions(rest, told_traces)
        observed += found
        for seen in found:
            if seen.kind in kinds:
                kinds[seen.kind].update(seen.output_keys)
        if unread_records is not None:
            unread_records.update(unread)
    if read_counts is not None:
        for kind, told in {**kinds, "judgement": judgements}.items():
            read_counts[kind] = read_counts.get(kind, 0) + len(told)
    return observed, judged


def add_conversations(rows: RowLists, conversations: Iterable[Assembled], privacy: Privacy | None) -> None:
    """Add the rows of conversations. Each message body is added once."""
    for c in conversations:
        turns = [_written(turn) for turn in c.thread.turns]
        tools = _json(c.thread.tools)
        told = privacy.conversation(c, Told([*map(_told, c.thread.turns, turns)], tools)) if privacy else c
        if told is not c:
            both = zip(told.thread.turns, c.thread.turns, turns, strict=True)
            turns = [written if new is old else _written(new) for new, old, written in both]
            tools = tools if told.thread.tools is c.thread.tools else _json(told.thread.tools)
        places = _add_conversation(rows, told, turns, tools)
        if told is not c:
            places = {id(turn): position for position, turn in enumerate(c.thread.turns)}
        rows["placements"] += [
            (told.conversation_id, trace_id, span_id, _KINDS.get(kind, kind), places.get(id(turn)), None)
            for trace_id, span_id, kind, turn in c.placed
            if kind in _PLACED
        ]
        rows["evaluations"] += [evaluation_row(e, c.conversation_id, "span", privacy) for e in c.judged]
    rows["message_bodies"] = list({row[0]: row for row in rows["message_bodies"]}.values())


def evaluation_row(
    e: Evaluation, conversation_id: str | None, by: str | None, privacy: Privacy | None
) -> tuple[Any, ...]:
    """Return the row of a judgement. ``by`` is the rule that found its conversation."""
    if privacy:
        conversation_id, e = privacy.evaluation(e, conversation_id)
    return conversation_id, e.name, e.score, e.label, e.explanation, e.time_ns, e.trace_id, e.span_id, by


Records = dict[tuple[str, str], list[LogRecord]]


def _observed(span: Span) -> Observed:
    """Read a span. If a dialect raises an error on it, return a span without content and with a flag."""
    try:
        return dialects.observe(span)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        where = (span.trace_id, span.span_id, span.parent_span_id, span.start_ns, span.end_ns)
        return Observed("other", "unreadable", *where, flags=["unreadable"])


def _spans(rows: Rows, records: Records, met: set[tuple[str, str]]) -> Iterator[Span]:
    for (trace_id, span_id, parent_span_id, name, kind, start_ns, end_ns, attributes, events, dropped_attributes,
         dropped_events, links, status, status_message, scope, scope_version, resource, source) in rows:  # fmt: skip
        identity = trace_id, span_id
        met.add(identity)
        yield Span(
            trace_id, span_id, parent_span_id, name, kind, start_ns, end_ns,
            orjson.loads(attributes), orjson.loads(events) if events != "[]" else [],
            status, status_message, scope, scope_version,
            _resource(resource), dropped_attributes + dropped_events,
            orjson.loads(links) if links != "[]" else [], records.get(identity, []), source,
        )  # fmt: skip


@lru_cache(maxsize=512)
def _resource(told: str) -> dict[str, Any]:
    """Parse a resource. Many spans share the object, so it must not be changed."""
    resource: dict[str, Any] = orjson.loads(told)
    return resource


def _spans_of(records: Records, met: set[tuple[str, str]]) -> Iterator[Span]:
    """Yield spans that only log records name: they were sampled out, are late, or were never exported."""
    for (trace_id, span_id), told in records.items():
        times = [r.time_ns for r in told]
        if trace_id and (trace_id, span_id) not in met and any(r.event_name.startswith("gen_ai.") for r in told):
            first = min(told, key=lambda r: (r.time_ns, r.scope))  # whatever arrived first
            yield Span(
                trace_id, span_id, "", "", 0, min(times), max(times), {}, [], 0, "", first.scope, "",
                first.resource, records=told,
            )  # fmt: skip


def _records(rows: Rows) -> tuple[Records, list[Evaluation]]:
    by_span: dict[tuple[str, str], list[LogRecord]] = defaultdict(list)
    evaluations: list[Evaluation] = []
    for trace_id, span_id, time_ns, observed_time_ns, event_name, body_text, told, scope, resource in rows:
        attributes = orjson.loads(told)
        record = LogRecord(
            trace_id, span_id, time_ns or observed_time_ns, event_name or str(attributes.get("event.name", "")),
            orjson.loads(body_text), attributes, scope, orjson.loads(resource),
        )  # fmt: skip
        by_span[(record.trace_id, record.span_id)].append(record)
        if record.event_name == dialects.EVALUATION:
            body = record.body if isinstance(record.body, dict) else {}
            evaluations.append(
                dialects.evaluation({**body, **attributes}, record.time_ns, record.trace_id, record.span_id, None)
            )
    for key, told in by_span.items():
        if len(told) > 1:
            by_span[key] = [r for r in told if r.body or not any(_is_fuller(other, r) for other in told)]
    return by_span, evaluations


def _is_fuller(other: LogRecord, record: LogRecord) -> bool:
    """Whether another copy of a record has all of its fields and more."""
    if other is record or (other.time_ns, other.event_name) != (record.time_ns, record.event_name):
        return False
    return bool(other.body or len(other.attributes) > len(record.attributes)) and (
        record.attributes.items() <= other.attributes.items()
        if all(isinstance(v, str | int | float | bool) for v in record.attributes.values())
        else False
    )


def _json(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "replace"))


class _Written(NamedTuple):
    """The JSON texts of a turn: its calls, its parts, and the arguments of each call."""

    calls: str | None
    parts: str
    arguments: list[str]


def _written(turn: Turn) -> _Written:
    calls = turn.message.get("tool_calls")
    if not calls:
        return _Written(None, _json(turn.parts), [])
    return _Written(_json(calls), _json(turn.parts), [_json(call.get("arguments")) for call in calls])


def _told(turn: Turn, written: _Written) -> list[str]:
    """Return the texts of a turn for ``Told``. The parts are added only if they have more than the message."""
    m = turn.message
    content, call_id = m.get("content"), m.get("tool_call_id")
    told = [content or "", str(call_id or "")]
    known: list[Part] = []
    if call_id:
        known.append({"type": "tool_call_response", "id": call_id, "response": content})
    elif content is not None:
        known.append({"type": "text", "content": content})
    for call, arguments in zip(m.get("tool_calls") or (), written.arguments, strict=True):
        known.append({"type": "tool_call", **call})
        told += (str(call["id"]), str(call["name"]), arguments)
    if turn.parts != known:
        told.append(written.parts)
    return told


def _add_conversation(rows: RowLists, c: Assembled, turns: list[_Written], tools: str) -> dict[int, int]:
    """Add the rows of one conversation. Return the position of each turn by its ``id``."""
    places: dict[int, int] = {}
    arguments: dict[int, str] = {}
    bodies, messages = rows["message_bodies"], rows["conversation_messages"]
    for position, (turn, written) in enumerate(zip(c.thread.turns, turns, strict=True)):
        m = turn.message
        role, content, calls, parts = m["role"], m.get("content"), written.calls, written.parts
        places[id(turn)] = position
        for call, text in zip(m.get("tool_calls") or (), written.arguments, strict=True):
            arguments[id(call)] = text
        digest = _digest(f"{role}\0{content}\0{calls}\0{parts}")
        bodies.append((digest, role, content, calls, parts))
        messages.append(
            (c.conversation_id, position, digest, m.get("tool_call_id"), m.get("name"), m.get("is_error"),
             m.get("error_class"), m.get("latency_ms"), turn.start_ns, turn.trace_id, turn.span_id)
        )  # fmt: skip
    rows["conversation_facts"].append(
        (c.conversation_id, c.agent, c.started_at_ns, c.ended_at_ns, tools, len(c.thread.tools),
         sorted(c.flags), sorted(c.dialects - {""}), sorted(c.trace_ids), MAPPING_VERSION)
    )  # fmt: skip
    for index, x in enumerate(c.links):
        _add_call(rows, c, index, x, places, arguments)
    return places


def _add_call(
    rows: RowLists, c: Assembled, index: int, x: Link, places: dict[int, int], written: dict[int, str]
) -> None:
    answer = x.answer
    started_at_ns, trace_id, span_id = x.ran or (x.call_turn.start_ns, None, None)
    arguments = x.call.get("arguments")
    rows["calls"].append(
        (c.conversation_id, index, x.call["id"], x.call["name"], written[id(x.call)], places[id(x.call_turn)],
         places[id(answer)] if answer else None, x.is_error,
         answer.message.get("error_class", "") if answer else "", started_at_ns, trace_id, span_id,
         sorted(set(x.repairs)) if x.repairs else [])
    )  # fmt: skip
    if isinstance(arguments, dict):
        rows["call_arguments"] += [(c.conversation_id, index, x.call["name"], key) for key in arguments]
