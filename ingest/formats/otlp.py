"""Convert OTLP requests, protobuf or JSON, to rows of the raw tables, without loss.

A row is a tuple in the order of ``SPAN_SCHEMA`` or ``LOG_SCHEMA``. Attributes, events and links are JSON text. Values
that JSON cannot represent are written as an object with one ``$`` key: ``{"$bytes": base64}``, ``{"$double": "NaN"}``.
A real map whose only key starts with ``$`` is wrapped as ``{"$map": ...}``. Source: opentelemetry-proto,
docs/specification.md (v1.11) and trace.proto, logs.proto.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from operator import is_
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import xxhash
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ingest import half_characters

INT64_MAX = 2**63 - 1
_SCOPE = [
    ("resource", pa.string()), ("resource_dropped_attributes_count", pa.int64()),
    ("resource_schema_url", pa.string()), ("scope_name", pa.string()), ("scope_version", pa.string()),
    ("scope_attributes", pa.string()),
    ("scope_dropped_attributes_count", pa.int64()), ("scope_schema_url", pa.string()),
]  # fmt: skip
_ARRIVAL = [
    ("oddities", pa.string()),  # what was repaired: "duplicate_key zero_span_id ..." or ""
    ("row_hash", pa.binary(16)),  # xxh3-128 of everything that was sent: the identity of a row
    ("arrived_at_ns", pa.int64()),
    ("source", pa.string()),
]
SPAN_SCHEMA = pa.schema(
    [
        ("trace_id", pa.string()), ("span_id", pa.string()), ("parent_span_id", pa.string()),
        ("trace_state", pa.string()), ("flags", pa.int64()), ("name", pa.string()), ("kind", pa.int32()),
        ("start_ns", pa.int64()), ("end_ns", pa.int64()), ("attributes", pa.string()),
        ("dropped_attributes_count", pa.int64()), ("events", pa.string()),
        ("dropped_events_count", pa.int64()), ("links", pa.string()),
        ("dropped_links_count", pa.int64()), ("status_code", pa.int32()),
        ("status_message", pa.string()), *_SCOPE, *_ARRIVAL,
    ]
)  # fmt: skip
LOG_SCHEMA = pa.schema(
    [
        ("trace_id", pa.string()), ("span_id", pa.string()), ("time_ns", pa.int64()),
        ("observed_time_ns", pa.int64()), ("severity_number", pa.int32()), ("severity_text", pa.string()),
        ("event_name", pa.string()), ("body", pa.string()), ("attributes", pa.string()),
        ("dropped_attributes_count", pa.int64()), ("flags", pa.int64()), *_SCOPE, *_ARRIVAL,
    ]
)  # fmt: skip
SCHEMAS = {"spans": SPAN_SCHEMA, "log_records": LOG_SCHEMA}

# Exceptions of decoding a value of the wrong shape (orjson raises TypeError and ValueError).
BAD_VALUE = (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError)
EMPTY = "{}"
NONE = "[]"


class NotOtlp(ValueError):
    """The bytes are not an OTLP request of the expected kind."""


@dataclass
class Rows:
    """Rows read so far, and the counts of what was refused, such as spans without a valid trace or span id."""

    spans: list[tuple[Any, ...]] = field(default_factory=list)
    log_records: list[tuple[Any, ...]] = field(default_factory=list)
    rejected: int = 0
    metrics: int = 0
    unreadable: int = 0

    def __len__(self) -> int:
        return len(self.spans) + len(self.log_records)

    def take(self) -> Rows:
        """Return all rows and counts as a batch, and start again empty."""
        batch = replace(self)
        self.spans, self.log_records = [], []
        self.rejected = self.metrics = self.unreadable = 0
        return batch

    def extend(self, other: Rows) -> None:
        """Add the rows and counts of another object."""
        self.spans += other.spans
        self.log_records += other.log_records
        self.rejected += other.rejected
        self.metrics += other.metrics
        self.unreadable += other.unreadable


def to_table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Return rows as an Arrow table."""
    if not rows:
        return schema.empty_table()
    columns: Iterable[Sequence[Any]] = zip(*rows, strict=True)
    return pa.table([_column(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return one column. Many columns hold one value, usually the same object; these are built without a loop over
    their values."""
    if len(values) > 1 and values[0] is values[-1] and all(map(is_, values, repeat(values[0]))):
        return pa.repeat(pa.scalar(values[0], kind), len(values))
    if kind == _STRING and isinstance(values[0], str) and len(values[0]) >= _LONG and None not in values:
        return _texts(values)
    return pa.array(values, kind)


_STRING = pa.string()
_LONG = 256  # characters


def _texts(values: Sequence[str]) -> pa.Array:
    """Return a column of long texts, built from one joined buffer. Arrow's own builder copies the texts each time its
    buffer grows."""
    told = "".join(values)
    if told.isascii():
        data, sizes = told.encode(), map(len, values)
    else:
        encoded = [value.encode() for value in values]
        data, sizes = b"".join(encoded), map(len, encoded)
    if len(data) > _MOST:
        return pa.array(values, _STRING)
    ends = np.zeros(len(values) + 1, np.int32)
    np.cumsum(np.fromiter(sizes, np.int32, len(values)), out=ends[1:])
    return pa.Array.from_buffers(_STRING, len(values), [None, pa.py_buffer(ends), pa.py_buffer(data)])


_MOST = 2**31 - 1  # bytes in one array


def _dumps(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except (orjson.JSONEncodeError, TypeError):
        return orjson.dumps(_printable(value)).decode()


def _printable(value: Any) -> Any:
    """Return values that orjson refuses as text: integers beyond 64 bits and lone surrogates."""
    if isinstance(value, dict):
        return {_printable(k): _printable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_printable(v) for v in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return {"$int": str(value)}
    return value


def _hash(row: tuple[Any, ...]) -> bytes:
    return xxhash.xxh3_128_digest("\x1f".join(map(str, row)).encode("utf-8", "replace"))


def _map(pairs: Iterable[tuple[str, Any]], odd: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            odd.append("duplicate_key")
        out[key] = value
    if len(out) == 1 and next(iter(out)).startswith("$"):
        return {"$map": out}
    return out


def _double(value: float) -> Any:
    if math.isfinite(value):
        return value
    return {"$double": "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"}


def _ns(value: int, odd: list[str]) -> int:
    if 0 <= value <= INT64_MAX:
        return value
    odd.append("time_overflow")
    return INT64_MAX if value > 0 else 0


# ------------------------------------------------------------------------------------------ protobuf


def _pb_value(value: Any, odd: list[str]) -> Any:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value
    if kind == "int_value":
        return value.int_value
    if kind == "bool_value":
        return value.bool_value
    if kind == "double_value":
        return _double(value.double_value)
    if kind == "array_value":
        return [_pb_value(v, odd) for v in value.array_value.values]
    if kind == "kvlist_value":
        return _pb_map(value.kvlist_value.values, odd)
    if kind == "bytes_value":
        return {"$bytes": base64.b64encode(value.bytes_value).decode()}
    return None  # unset, or string_value_strindex, which is only defined for profiles


def _pb_map(attributes: Any, odd: list[str]) -> dict[str, Any]:
    """Return a map. Most values are texts and most keys differ; the fast path needs no function call for them."""
    out: dict[str, Any] = {}
    for a in attributes:
        value = a.value
        out[a.key] = value.string_value or _pb_value(value, odd)
    if len(out) < len(attributes) or len(out) == 1:
        return _map(((a.key, _pb_value(a.value, [])) for a in attributes), odd)
    return out


def _pb_json(attributes: Any, odd: list[str]) -> str:
    return _dumps(_pb_map(attributes, odd)) if attributes else EMPTY


def _pb_scope(resource: Any, outer: Any, scope_part: Any) -> tuple[Any, ...]:
    odd: list[str] = []
    scope = scope_part.scope
    return (
        _pb_json(resource.attributes, odd), resource.dropped_attributes_count, outer.schema_url,
        scope.name, scope.version, _pb_json(scope.attributes, odd), scope.dropped_attributes_count,
        scope_part.schema_url,
    )  # fmt: skip


def _pb_events(events: Any, odd: list[str]) -> str:
    return _dumps([
        {"time_ns": _ns(e.time_unix_nano, odd), "name": e.name, "attributes": _pb_map(e.attributes, odd),
         "dropped_attributes_count": e.dropped_attributes_count}
        for e in events
    ])  # fmt: skip


def _pb_links(links: Any, odd: list[str]) -> str:
    return _dumps([
        {"trace_id": x.trace_id.hex(), "span_id": x.span_id.hex(), "trace_state": x.trace_state,
         "attributes": _pb_map(x.attributes, odd), "dropped_attributes_count": x.dropped_attributes_count,
         "flags": x.flags}
        for x in links
    ])  # fmt: skip


def _pb_span(s: Any, scope: tuple[Any, ...]) -> tuple[Any, ...]:
    odd: list[str] = []
    return (
        s.trace_id.hex(), s.span_id.hex(), s.parent_span_id.hex(), s.trace_state, s.flags, s.name, s.kind,
        _ns(s.start_time_unix_nano, odd), _ns(s.end_time_unix_nano, odd), _pb_json(s.attributes, odd),
        s.dropped_attributes_count, _pb_events(s.events, odd) if s.events else NONE, s.dropped_events_count,
        _pb_links(s.links, odd) if s.links else NONE, s.dropped_links_count, s.status.code, s.status.message,
        *scope, " ".join(sorted(set(odd))),
    )  # fmt: skip


def _pb_log(r: Any, scope: tuple[Any, ...]) -> tuple[Any, ...]:
    odd: list[str] = []
    return (
        r.trace_id.hex(), r.span_id.hex(), _ns(r.time_unix_nano, odd), _ns(r.observed_time_unix_nano, odd),
        r.severity_number, r.severity_text, r.event_name, _dumps(_pb_value(r.body, odd)),
        _pb_json(r.attributes, odd), r.dropped_attributes_count, r.flags, *scope, " ".join(sorted(set(odd))),
    )  # fmt: skip


def parse_request(signal: str, payload: bytes | bytearray) -> Any:
    """Parse a protobuf ExportTraceServiceRequest or ExportLogsServiceRequest. Raises ``NotOtlp``."""
    kind = ExportTraceServiceRequest if signal == "traces" else ExportLogsServiceRequest
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise NotOtlp(f"no protobuf {kind.DESCRIPTOR.name}: {error}") from None


def count_protobuf(signal: str, payload: bytes | bytearray) -> tuple[int, int]:
    """Return the number of accepted and of rejected spans or log records of a request, without making rows."""
    request = parse_request(signal, payload)
    if signal == "logs":
        return sum(len(s.log_records) for r in request.resource_logs for s in r.scope_logs), 0
    good = bad = 0
    for resource_part in request.resource_spans:
        for scope_part in resource_part.scope_spans:
            for span in scope_part.spans:
                if span.trace_id.strip(b"\0") and span.span_id.strip(b"\0"):
                    good += 1
                else:
                    bad += 1
    return good, bad


def read_protobuf(signal: str, payload: bytes, rows: Rows, arrived_at_ns: int, source: str) -> None:
    """Add the rows of one protobuf request. Spans with an empty or all-zero id are counted as rejected."""
    request = parse_request(signal, payload)
    tail = (arrived_at_ns, source)
    for resource_part in request.resource_spans if signal == "traces" else ():
        for scope_part in resource_part.scope_spans:
            scope = _pb_scope(resource_part.resource, resource_part, scope_part)
            _add(rows, rows.spans, scope_part.spans, _pb_span, scope, tail, True)
    for resource_part in request.resource_logs if signal == "logs" else ():
        for scope_part in resource_part.scope_logs:
            scope = _pb_scope(resource_part.resource, resource_part, scope_part)
            _add(rows, rows.log_records, scope_part.log_records, _pb_log, scope, tail, False)


def _add(
    rows: Rows,
    out: list[tuple[Any, ...]],
    items: Iterable[Any],
    decode: Callable[[Any, tuple[Any, ...]], tuple[Any, ...]],
    scope: tuple[Any, ...],
    tail: tuple[int, str],
    needs_ids: bool,
) -> None:
    for item in items:
        try:
            row = decode(item, scope)
        except BAD_VALUE:
            rows.unreadable += 1
            continue
        if needs_ids and not (row[0].strip("0") and row[1].strip("0")):
            rows.rejected += 1
        else:
            out.append((*row, _hash(row), *tail))


# ---------------------------------------------------------------------------------------------- JSON


def _int(value: Any) -> int:
    return int(value) if value else 0


def _fit(value: Any, bits: int = 63) -> int:
    """Return an integer that fits into the column; integers in JSON have no size limit."""
    return max(-(2**bits), min(_int(value), 2**bits - 1))


def _text(value: Any) -> str:
    """Return a string; any other value is returned as JSON text."""
    return value if isinstance(value, str) else "" if value is None else _dumps(value)


def _js_id(value: Any, size: int, odd: list[str]) -> str:
    """Return an id in lower-case hex. Base64 ids, which generic protobuf-to-JSON converters write, are converted. Ids
    of another length are kept and recorded as an oddity."""
    text: str = (value or "").lower()
    if len(text) == 2 * size or not text:
        return text
    if len(text) == -(-size // 3) * 4:
        try:
            raw = base64.b64decode(value, validate=True)
        except ValueError:
            raw = b""
        if len(raw) == size:
            odd.append("base64_id")
            return raw.hex()
    odd.append("odd_id")
    return text


def _js_value(value: Any, odd: list[str]) -> Any:
    if not value:
        return None
    for kind, v in value.items():
        if kind in ("stringValue", "boolValue"):
            return v
        if kind == "intValue":
            return int(v)
        if kind == "doubleValue":
            return _double(float(v))
        if kind == "arrayValue":
            return [_js_value(x, odd) for x in v.get("values") or ()]
        if kind == "kvlistValue":
            return _js_map(v.get("values"), odd)
        if kind == "bytesValue":
            return {"$bytes": v}
    return None


def _js_map(attributes: Any, odd: list[str]) -> dict[str, Any]:
    return _map(((a["key"], _js_value(a.get("value"), odd)) for a in attributes or ()), odd)


def _js_json(attributes: Any, odd: list[str]) -> str:
    return _dumps(_js_map(attributes, odd)) if attributes else EMPTY


def _js_scope(resource_part: dict[str, Any], scope_part: dict[str, Any]) -> tuple[Any, ...]:
    odd: list[str] = []
    resource = resource_part.get("resource") or {}
    scope = scope_part.get("scope") or scope_part.get("instrumentationLibrary") or {}
    return (
        _js_json(resource.get("attributes"), odd), _fit(resource.get("droppedAttributesCount")),
        _text(resource_part.get("schemaUrl")), _text(scope.get("name")), _text(scope.get("version")),
        _js_json(scope.get("attributes"), odd), _fit(scope.get("droppedAttributesCount")),
        _text(scope_part.get("schemaUrl")),
    )  # fmt: skip


def _js_events(events: list[dict[str, Any]], odd: list[str]) -> str:
    return _dumps([
        {"time_ns": _ns(_int(e.get("timeUnixNano")), odd), "name": _text(e.get("name")),
         "attributes": _js_map(e.get("attributes"), odd),
         "dropped_attributes_count": _fit(e.get("droppedAttributesCount"))}
        for e in events
    ])  # fmt: skip


def _js_links(links: list[dict[str, Any]], odd: list[str]) -> str:
    return _dumps([
        {"trace_id": _js_id(x.get("traceId"), 16, odd), "span_id": _js_id(x.get("spanId"), 8, odd),
         "trace_state": _text(x.get("traceState")), "attributes": _js_map(x.get("attributes"), odd),
         "dropped_attributes_count": _fit(x.get("droppedAttributesCount")), "flags": _fit(x.get("flags"))}
        for x in links
    ])  # fmt: skip


def _js_span(s: dict[str, Any], scope: tuple[Any, ...]) -> tuple[Any, ...]:
    odd: list[str] = []
    get = s.get
    status, events, links = get("status") or {}, get("events"), get("links")
    return (
        _js_id(get("traceId"), 16, odd), _js_id(get("spanId"), 8, odd), _js_id(get("parentSpanId"), 8, odd),
        _text(get("traceState")), _fit(get("flags")), _text(get("name")), _fit(get("kind"), 31),
        _ns(_int(get("startTimeUnixNano")), odd), _ns(_int(get("endTimeUnixNano")), odd),
        _js_json(get("attributes"), odd), _fit(get("droppedAttributesCount")),
        _js_events(events, odd) if events else NONE, _fit(get("droppedEventsCount")),
        _js_links(links, odd) if links else NONE, _fit(get("droppedLinksCount")), _fit(status.get("code"), 31),
        _text(status.get("message")), *scope, " ".join(sorted(set(odd))),
    )  # fmt: skip


def _js_log(r: dict[str, Any], scope: tuple[Any, ...]) -> tuple[Any, ...]:
    odd: list[str] = []
    get = r.get
    return (
        _js_id(get("traceId"), 16, odd), _js_id(get("spanId"), 8, odd), _ns(_int(get("timeUnixNano")), odd),
        _ns(_int(get("observedTimeUnixNano")), odd), _fit(get("severityNumber"), 31), _text(get("severityText")),
        _text(get("eventName")), _dumps(_js_value(get("body"), odd)), _js_json(get("attributes"), odd),
        _fit(get("droppedAttributesCount")), _fit(get("flags")), *scope, " ".join(sorted(set(odd))),
    )  # fmt: skip


_BEFORE_2022 = {"scopeSpans": "instrumentationLibrarySpans", "scopeLogs": "instrumentationLibraryLogs"}
SIGNALS = frozenset(("resourceSpans", "resourceLogs", "resourceMetrics"))


def read_json(payload: bytes | bytearray | str, rows: Rows, arrived_at_ns: int, source: str) -> None:
    """Add the rows of one OTLP/JSON object (traces, logs, or both). Raises ``NotOtlp``.

    Metrics are counted and not stored. An empty object is an empty request.
    """
    try:
        request = half_characters.loads(payload)
    except orjson.JSONDecodeError as error:
        raise NotOtlp(f"no JSON: {error}") from None
    check_json_request(request)
    add_json_request(request, rows, arrived_at_ns, source)


def check_json_request(request: Any) -> None:
    """Raise ``NotOtlp`` if the value is not a request."""
    if not isinstance(request, dict) or (request and SIGNALS.isdisjoint(request)):
        raise NotOtlp("a JSON value without resourceSpans, resourceLogs or resourceMetrics")


def add_json_request(request: dict[str, Any], rows: Rows, arrived_at_ns: int, source: str) -> None:
    """Add the rows of a parsed request: all of them, or, with ``NotOtlp``, none."""
    found = Rows()
    try:
        _add_json(request, found, (arrived_at_ns, source))
    except BAD_VALUE as error:
        raise NotOtlp(f"a resource or a scope is malformed: {type(error).__name__}: {error}") from None
    rows.extend(found)


def _add_json(request: dict[str, Any], rows: Rows, tail: tuple[int, str]) -> None:
    rows.metrics += len(request.get("resourceMetrics") or ())
    for part, inner, items, out, decode, needs_ids in (
        ("resourceSpans", "scopeSpans", "spans", rows.spans, _js_span, True),
        ("resourceLogs", "scopeLogs", "logRecords", rows.log_records, _js_log, False),
    ):
        for resource_part in request.get(part) or ():
            for scope_part in resource_part.get(inner) or resource_part.get(_BEFORE_2022[inner]) or ():
                scope = _js_scope(resource_part, scope_part)
                _add(rows, out, scope_part.get(items) or (), decode, scope, tail, needs_ids)
