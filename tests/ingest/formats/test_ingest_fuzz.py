"""Whatever is sent, the decoders answer, in bounded time and memory: rows that fit the tables, or a refusal."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import resource
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from dialect_samples import SAMPLES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from ingest.formats import otlp
from ingest.receiver.http_server import HttpServer
from ingest.receiver.intake import Intake, Options, decompressed
from ingest.receiver.otlp_http import OtlpHttp
from ingest.refusals import Refused

LIMIT = 1 << 20
MANY = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def tables(rows: otlp.Rows) -> list[dict[str, Any]]:
    """The rows as the lake would store them; raises if one does not fit its columns."""
    made = [otlp.to_table(getattr(rows, name), schema) for name, schema in otlp.SCHEMAS.items()]
    return made[0].to_pylist()


# --------------------------------------------------------------------------------------- coverage-guided


@pytest.mark.slow
def test_the_decoders_survive_coverage_guided_fuzzing(tmp_path: Path) -> None:
    """A bounded run; `python tests/ingest/formats/fuzz_decoders.py CORPUS` goes on for as long as wanted."""
    pytest.importorskip("atheris")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, sample in enumerate(SAMPLES.values()):
        (corpus / f"json-{number}").write_bytes(b"\0" + json.dumps(sample()).encode())
    made = request("n", 1, 2.0, 3, b"\1" * 16).SerializeToString()
    (corpus / "protobuf").write_bytes(b"\1" + made)
    (corpus / "framed").write_bytes(b"\3" + len(made).to_bytes(4, "big") + made)
    (corpus / "gzip").write_bytes(b"\4" + gzip.compress(made))
    limits = ["-max_total_time=20", "-rss_limit_mb=2048", "-timeout=5", f"-artifact_prefix={tmp_path}/"]
    command = [sys.executable, str(Path(__file__).with_name("fuzz_decoders.py")), str(corpus), *limits]
    # A process inherits the peak memory of the one that starts it, and this one may have run a large model before: so
    # a shell starts it.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr[-3000:]


# ------------------------------------------------------------------------------------------------ JSON

KEYS = (
    "resourceSpans resource attributes scopeSpans scope spans key value stringValue intValue doubleValue arrayValue"
    " values kvlistValue bytesValue traceId spanId parentSpanId startTimeUnixNano endTimeUnixNano name kind status"
    " code events links flags resourceLogs scopeLogs logRecords body severityNumber droppedAttributesCount"
).split()
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
    st.sampled_from(["0" * 32, "a" * 16, "NaN", "-9223372036854775808", "9" * 5000, "\0", "AAAAAAAAAAAAAAAAAAAAAA=="]),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)
SPAN = st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=8).map(
    lambda span: {"traceId": "1" * 32, "spanId": "2" * 16, **span}
)


@MANY
@given(ANYTHING)
def test_any_json_is_rows_or_no_otlp(value: Any) -> None:
    rows = otlp.Rows()
    try:
        otlp.read_json(json.dumps(value), rows, 0, "")
    except otlp.NotOtlp:
        assert len(rows) == 0
    tables(rows)


@MANY
@given(st.lists(SPAN, max_size=3), ANYTHING, ANYTHING)
def test_malformed_spans_lose_no_other(spans: list[Any], resource: Any, scope: Any) -> None:
    good = {"traceId": "a" * 32, "spanId": "b" * 16, "name": "good"}
    part = {"resource": resource, "scopeSpans": [{"scope": scope, "spans": [*spans, good]}]}
    request, rows = {"resourceSpans": [part]}, otlp.Rows()
    try:
        otlp.read_json(json.dumps(request), rows, 0, "")
    except otlp.NotOtlp:
        return
    assert tables(rows)[-1]["name"] == "good"
    assert len(rows.spans) + rows.rejected + rows.unreadable == len(spans) + 1


@pytest.mark.parametrize("depth", [50, 100, 240, 300, 1_000, 100_000])
def test_deep_json_is_rows_or_a_refusal(depth: int) -> None:
    body = '{"kvlistValue":{"values":[{"key":"k","value":' * depth + '{"intValue":1}' + "}]}}" * depth
    span = f'{{"traceId":"{"1" * 32}","spanId":"{"2" * 16}","attributes":[{{"key":"a","value":{body}}}]}}'
    for text in (
        f'{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{span}]}}]}}]}}',
        f'{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"a","value":{body}}}]}},'
        f'"scopeSpans":[{{"spans":[]}}]}}]}}',
    ):
        rows = otlp.Rows()
        try:
            otlp.read_json(text, rows, 0, "")
        except otlp.NotOtlp:
            assert depth > 100
        tables(rows)


# -------------------------------------------------------------------------------------------- protobuf

INTS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 2**63 - 1, 0])
TEXT = st.text(max_size=10) | st.just("nul\0inside")


@MANY
@given(st.binary(max_size=200), st.sampled_from(["traces", "logs"]))
def test_any_bytes_are_rows_or_no_otlp(data: bytes, signal: str) -> None:
    rows = otlp.Rows()
    try:
        otlp.read_protobuf(signal, data, rows, 0, "")
    except otlp.NotOtlp:
        assert len(rows) == 0
    tables(rows)


def request(name: str, number: int, double: float, start: int, trace: bytes) -> ExportTraceServiceRequest:
    made = ExportTraceServiceRequest()
    span = made.resource_spans.add().scope_spans.add().spans.add(
        name=name, trace_id=trace, span_id=b"\2" * 8, start_time_unix_nano=start
    )
    span.attributes.add(key=name).value.int_value = number
    span.attributes.add(key="double").value.double_value = double
    return made


@MANY
@given(TEXT, INTS, st.floats(), st.integers(0, 2**64 - 1) | st.just(0), st.sampled_from([b"\1" * 16, b"", bytes(16)]))
def test_extreme_values_are_unchanged(name: str, number: int, double: float, start: int, trace: bytes) -> None:
    rows = otlp.Rows()
    data = request(name, number, double, start, trace).SerializeToString()
    otlp.read_protobuf("traces", data, rows, 0, "")
    assert otlp.count_protobuf("traces", data) == (len(rows.spans), rows.rejected)
    if not trace.strip(b"\0"):
        assert (len(rows.spans), rows.rejected) == (0, 1)
        return
    (row,) = tables(rows)
    attributes = json.loads(row["attributes"])
    assert row["name"] == name and row["start_ns"] == min(start, 2**63 - 1)
    assert name == "double" or attributes[name] == number
    assert attributes["double"] == (double if math.isfinite(double) else attributes["double"])
    assert math.isfinite(double) or float(attributes["double"]["$double"]) == double or double != double


@MANY
@given(st.data())
def test_damaged_requests_are_rows_or_no_otlp(data: st.DataObject) -> None:
    whole = bytearray(request("name", 5, 0.5, 7, b"\1" * 16).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    rows = otlp.Rows()
    for signal in ("traces", "logs"):
        try:
            counted = otlp.count_protobuf(signal, bytes(whole))
            found = otlp.Rows()
            otlp.read_protobuf(signal, bytes(whole), found, 0, "")
        except otlp.NotOtlp:
            continue
        assert counted == (len(found), found.rejected), "what was acknowledged is what is read"
        rows.extend(found)
    tables(rows)


def test_deep_protobuf_is_refused_quickly() -> None:
    deep = AnyValue(string_value="x")
    for _ in range(40):  # three messages a level: beyond protobuf's own limit of 100
        outer = AnyValue()
        outer.kvlist_value.values.add(key="k").value.CopyFrom(deep)
        deep = outer
    logs = ExportLogsServiceRequest()
    logs.resource_logs.add().scope_logs.add().log_records.add().body.CopyFrom(deep)
    with pytest.raises(otlp.NotOtlp):
        otlp.count_protobuf("logs", logs.SerializeToString())


# ---------------------------------------------------------------------------------------- compression


@MANY
@given(st.binary(max_size=100), st.sampled_from(["gzip", "deflate", "zstd", "br", ""]), st.booleans())
def test_any_compressed_body_is_bytes_or_a_refusal(data: bytes, how: str, packed: bool) -> None:
    pack = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.compress}.get(how, bytes)
    body = (pack(data) if packed else b"") + data
    try:
        assert len(decompressed(body, how, LIMIT)) <= LIMIT
    except Refused as no:
        assert no.http in (400, 413, 415) and no.retry_after is None


@pytest.mark.parametrize("how", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("members", [1, 2000])
def test_decompression_stops_at_the_limit(how: str, members: int) -> None:
    pack = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.compress}[how]
    bomb = pack(bytes((1 << 30) // members)) * members
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(Refused, match="after decompression"):
        decompressed(bomb, how, LIMIT)
    assert time.process_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "in KiB"


@pytest.mark.parametrize("how", ["gzip", "deflate", "zstd"])
def test_truncated_bodies_are_refused_and_concatenated_ones_read(how: str) -> None:
    pack = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.compress}[how]
    data = bytes(range(256)) * 20
    assert decompressed(pack(data) + pack(b"more"), how, LIMIT) == data + b"more"
    for cut in range(1, len(pack(data)), 7):
        with pytest.raises(Refused):
            decompressed(pack(data)[:cut], how, LIMIT)


# ------------------------------------------------------------------------------------------------ HTTP


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A receiver's HTTP side in a thread."""
    options = Options(tmp_path_factory.mktemp("fuzz") / "journal", max_body=100_000, request_seconds=0.5)
    sock = socket.create_server(("127.0.0.1", 0))
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def run() -> None:
        intake = Intake(options)
        http = HttpServer(OtlpHttp(intake).service())
        await http.start(sock)
        await stop.wait()
        await http.drain(5)
        assert intake.held == 0, "every byte that was held was released"
        await intake.commits.close()

    failed: list[BaseException] = []

    def main() -> None:
        try:
            loop.run_until_complete(run())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=main)
    thread.start()
    yield sock.getsockname()[1]
    loop.call_soon_threadsafe(stop.set)
    thread.join(20)
    assert not failed and not thread.is_alive()


def exchange(port: int, *parts: bytes, read: bool = True) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        try:
            for part in parts:
                sock.sendall(part)
            return sock.recv(1 << 16) if read else b""
        except ConnectionError:
            return b""


def alive(port: int) -> bool:
    return exchange(port, b"GET /healthz HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


PIECES = st.sampled_from([
    b"POST /v1/traces HTTP/1.1\r\n", b"GET /metrics HTTP/1.1\r\n", b"host: x\r\n", b"content-length: 5\r\n",
    b"content-length: 99999999999\r\n", b"content-length: -1\r\n", b"transfer-encoding: chunked\r\n", b"\r\n",
    b"hello", b"content-type: application/json\r\n", b"5\r\nhello\r\n", b"ffffffffff\r\n", b"0\r\n\r\n",
    b"expect: 100-continue\r\n", b"content-encoding: gzip\r\n", b"upgrade: h2c\r\nconnection: upgrade\r\n", b"{}",
    b"\0", b"PRI * HTTP/2.0\r\n\r\n",
])  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(PIECES | st.binary(max_size=20), min_size=1, max_size=10))
def test_the_server_survives_any_bytes(port: int, parts: list[bytes]) -> None:
    exchange(port, *parts, read=False)
    assert alive(port)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ([b"nonsense\r\n\r\n"], b"HTTP/1.1 400"),
        ([b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000], b"HTTP/1.1 431"),
        ([b"POST /v1/traces HTTP/1.1\r\ncontent-length: 100001\r\n\r\n"], b"HTTP/1.1 413"),
        ([b"POST /v1/traces HTTP/1.1\r\ncontent-type: application/x-protobuf\r\ntransfer-encoding: chunked\r\n\r\n",
          *[b"8000\r\n" + bytes(0x8000) + b"\r\n"] * 4], b"HTTP/1.1 413"),
        ([b"POST /v1/traces HTTP/1.1\r\ncontent-type: application/x-protobuf\r\ncontent-length: 9\r\n\r\nslow"],
         b"HTTP/1.1 503"),
        ([b"GET /v1/traces HTTP/1.1\r\n\r\n"], b"HTTP/1.1 405"),
        ([b"HEAD /healthz HTTP/1.1\r\n\r\n"], b"HTTP/1.1 200"),
        ([b"GET /metrics HTTP/1.1\r\n\r\n"], b"HTTP/1.1 200"),
        ([b"POST /v1/traces HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 2\r\n"
          b"content-type: application/json\r\n\r\n{}"], b"HTTP/1.1 200"),
        ([b"GET /healthz HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"], b"HTTP/1.1 200"),
        ([b"POST /v1/traces HTTP/1.1\r\nexpect: 100-continue\r\ncontent-type: application/x-protobuf\r\n"
          b"content-length: 5\r\n\r\n"], b"HTTP/1.1 100"),
    ],
)  # fmt: skip
def test_protocol_errors_get_their_specified_answers(port: int, sent: list[bytes], answer: bytes) -> None:
    got = exchange(port, *sent)
    assert got.startswith(answer)
    if answer.endswith((b"413", b"503")):
        assert b"retry-after" in got or answer.endswith(b"413")
    assert alive(port)


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\n\r\nGET /nowhere HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n")
        got = b""
        while got.count(b"HTTP/1.1") < 3 or not got.endswith(b"ok\n"):
            more = sock.recv(1 << 16)
            assert more, got
            got += more
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


def test_a_half_closed_connection_gets_its_answer(port: int) -> None:
    body = bytes(70_000)
    head = b"POST /v1/traces HTTP/1.1\r\ncontent-type: application/x-protobuf\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall((head % len(body) + body) * 2)
        sock.shutdown(socket.SHUT_WR)
        got = b""
        while more := sock.recv(1 << 16):
            got += more
    assert got.count(b"HTTP/1.1 400") == 2, "zeros are no protobuf"
    assert alive(port)
