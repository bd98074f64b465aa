"""Protobuf telemetry in files, which mark neither the end of a message nor its signal.

For ``format: proto`` and for any compression, the Collector's file exporter writes every message after its length (4
bytes, big-endian), each compressed with zstd separately. An S3 object or a Kafka message is one bare message.
(opentelemetry-collector-contrib, exporter/fileexporter README; awss3exporter; kafkaexporter.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import zstandard
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from ingest.formats import otlp

ZSTD = b"\x28\xb5\x2f\xfd"
MAX_MESSAGE = 1 << 30
_LENGTH = struct.Struct(">I")


class Torn(ValueError):
    """The file ends within a message; ``whole`` messages came before it."""

    def __init__(self, whole: int) -> None:
        super().__init__(f"it ends within message {whole + 1}")
        self.whole = whole


def is_framed(head: bytes) -> bool:
    """Whether a file that starts with these 12 bytes is a row of length-prefixed messages. The bare forms cannot
    be mistaken for it: as a length they would begin with a brace, or with 0x0a, which is beyond 160 MB."""
    if len(head) < 5 or head[0] > 0x08:
        return False
    (length,) = _LENGTH.unpack_from(head)
    body = head[4:]
    starts = body[: len(ZSTD)] == ZSTD[: len(body)] or body[:1] in (b"{", b"\x0a")
    return 0 < length <= MAX_MESSAGE and starts


def frames(file: BinaryIO) -> Iterator[bytes]:
    """The messages, decompressed. Raises ``Torn`` at a torn end and ``NotOtlp`` for a frame that is none."""
    whole = 0
    while head := file.read(_LENGTH.size):
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else MAX_MESSAGE
        if length > MAX_MESSAGE:
            raise otlp.NotOtlp(f"message {whole + 1} says it has {length} bytes")
        body = file.read(length) if len(head) == _LENGTH.size else b""
        if len(body) < length:
            raise Torn(whole)
        yield _unpacked(body)
        whole += 1


def _unpacked(body: bytes) -> bytes:
    if not body.startswith(ZSTD):
        return body
    try:
        with zstandard.ZstdDecompressor().stream_reader(body) as stream:
            out = stream.read(MAX_MESSAGE + 1)
    except zstandard.ZstdError as error:
        raise otlp.NotOtlp(f"no zstd: {error}") from None
    if len(out) > MAX_MESSAGE:
        raise otlp.NotOtlp(f"a message has more than {MAX_MESSAGE} bytes after decompression")
    return out


def read_message(payload: bytes, rows: otlp.Rows, arrived_at_ns: int, source: str) -> None:
    """Adds one message, JSON or protobuf, of whichever signal it is; raises ``NotOtlp``."""
    if payload.lstrip()[:1] == b"{":
        otlp.read_json(payload, rows, arrived_at_ns, source)
    elif payload:
        signal = signal_of(payload)
        if signal == "metrics":
            rows.metrics += 1
        else:
            otlp.read_protobuf(signal, payload, rows, arrived_at_ns, source)


def signal_of(payload: bytes) -> str:
    """traces, logs or metrics. Each parses as the others, too, with nonsense in its fields; what tells them apart
    are fields whose wire types differ: a span's start time and 16-byte trace id, a log record's times."""
    for signal, is_it in (("traces", _has_spans), ("logs", _has_records), ("metrics", _has_metrics)):
        try:
            if is_it(payload):
                return signal
        except (otlp.NotOtlp, DecodeError):
            continue
    raise otlp.NotOtlp("no Export*ServiceRequest in protobuf")


def _has_spans(payload: bytes) -> bool:
    request = otlp.parse_request("traces", payload)
    spans = (s for r in request.resource_spans for part in r.scope_spans for s in part.spans)
    return any(s.start_time_unix_nano or s.end_time_unix_nano or len(s.trace_id) == 16 for s in spans)


def _has_records(payload: bytes) -> bool:
    request = otlp.parse_request("logs", payload)
    records = (x for r in request.resource_logs for part in r.scope_logs for x in part.log_records)
    return any(x.time_unix_nano or x.observed_time_unix_nano or x.severity_number or x.body.ByteSize() for x in records)


def _has_metrics(payload: bytes) -> bool:
    request = ExportMetricsServiceRequest.FromString(payload)
    return any(m.WhichOneof("data") for r in request.resource_metrics for part in r.scope_metrics for m in part.metrics)
