"""The receiver answers as the OTLP specification says, and what it said yes to survives SIGKILL."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from google.rpc.status_pb2 import Status
from ingest_samples import conversation
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from ingest.lake import Lake

PROTOBUF = {"content-type": "application/x-protobuf"}


class Server:
    """A receiver in a process of its own."""

    def __init__(self, lake: Path, *options: str, port: int = 0) -> None:
        command = [
            sys.executable,
            "-m",
            "ingest",
            "receive",
            "--lake",
            str(lake),
            "--http",
            str(port),
            *options,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "http://" in line, line
        self.url = line.split("http://")[1].split()[0]
        self.url = f"http://{self.url}"
        self.port = int(self.url.rsplit(":", 1)[1])

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def lake_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("received") / "lake"


@pytest.fixture(scope="module")
def server(lake_path: Path) -> Iterator[Server]:
    it = Server(lake_path)
    for _ in range(100):
        try:
            httpx.get(it.url + "/healthz")
            break
        except httpx.TransportError:
            time.sleep(0.05)
    yield it
    it.stop()


def protobuf(count: int = 1, trace: bytes = b"\1" * 16) -> bytes:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for i in range(count):
        spans.add(trace_id=trace, span_id=(i + 1).to_bytes(8, "big"), name="s", start_time_unix_nano=1)
    return request.SerializeToString()


def post(server: Server, body: bytes, path: str = "/v1/traces", **headers: str) -> httpx.Response:
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return httpx.post(server.url + path, content=body, headers={**PROTOBUF, **named})


def test_success_is_an_empty_response_of_the_same_type(server: Server) -> None:
    yes = post(server, protobuf())
    assert (yes.status_code, yes.headers["content-type"], yes.content) == (200, "application/x-protobuf", b"")
    body = json.dumps(conversation()).encode()
    yes = post(server, body, content_type="application/json; charset=utf-8")
    assert (yes.status_code, yes.headers["content-type"], yes.json()) == (200, "application/json", {})


def test_empty_requests_succeed(server: Server) -> None:
    assert post(server, b"").status_code == 200
    assert post(server, b"{}", content_type="application/json").status_code == 200
    assert post(server, b"", path="/v1/logs").status_code == 200


def test_gzip_is_understood(server: Server) -> None:
    assert post(server, gzip.compress(protobuf()), content_encoding="gzip").status_code == 200


def test_logs_in_the_traces_endpoint_are_rejected_span_by_span(server: Server) -> None:
    logs = ExportLogsServiceRequest()
    logs.resource_logs.add().scope_logs.add().log_records.add(event_name="e", time_unix_nano=1)
    mixed = ExportTraceServiceRequest.FromString(protobuf() + logs.SerializeToString())
    partial = ExportTraceServiceResponse.FromString(post(server, mixed.SerializeToString()).content)
    assert partial.partial_success.rejected_spans == 1 and "/v1/logs" in partial.partial_success.error_message
    assert post(server, logs.SerializeToString(), path="/v1/logs").content == b""


@pytest.mark.parametrize(
    ("body", "headers", "path", "status"),
    [
        (b"\xff\xff\xff", {}, "/v1/traces", 400),
        (b"[1]", {"content_type": "application/json"}, "/v1/traces", 400),
        (b"not gzip", {"content_encoding": "gzip"}, "/v1/traces", 400),
        (gzip.compress(protobuf())[:-4], {"content_encoding": "gzip"}, "/v1/traces", 400),
        (gzip.compress(b"\0" * (65 << 20), 1), {"content_encoding": "gzip"}, "/v1/traces", 413),
        (b"", {"content_type": "text/plain"}, "/v1/traces", 415),
        (b"", {"content_encoding": "br"}, "/v1/traces", 415),
        (b"", {}, "/v1/nothing", 404),
    ],
)
def test_errors_carry_a_status_of_the_same_type(
    server: Server, body: bytes, headers: dict[str, str], path: str, status: int
) -> None:
    no = post(server, body, path, **headers)
    assert no.status_code == status
    if headers.get("content_type") == "application/json":
        assert no.json()["code"] and no.json()["message"]
    else:
        said = Status.FromString(no.content)
        assert said.code and said.message


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "ingest", "receive", "--lake", str(tmp_path / "l"), "--http"]
        done = subprocess.run(
            [*command, str(taken.getsockname()[1])], capture_output=True, text=True, timeout=30
        )
    assert done.returncode == 2 and "choose another port" in done.stderr and done.stderr.count("\n") == 1


def test_tokens_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("first\nsecond\n")
    it = Server(tmp_path / "lake", "--token-file", str(tmp_path / "tokens"))
    try:
        assert post(it, protobuf()).status_code == 401
        assert post(it, protobuf(), authorization="Bearer third").status_code == 401
        assert post(it, protobuf(), authorization="Bearer second").status_code == 200
    finally:
        assert it.stop() == 0


def test_a_drained_receiver_leaves_a_sealed_journal_that_becomes_conversations(tmp_path: Path) -> None:
    it = Server(tmp_path / "lake")
    post(it, json.dumps(conversation()).encode(), content_type="application/json")
    assert it.stop() == 0
    assert [p.suffix for p in (tmp_path / "lake" / "journal").iterdir()] == [".rjl"]
    lake = Lake.open(tmp_path / "lake")
    assert lake.ingest().new == 6 and lake.ingest().new == 0
    assert len(lake.conversations()[0].messages) == 7


class Acknowledged(SpanExporter):
    """The SDK's exporter; remembers which spans were answered with success."""

    def __init__(self, url: str) -> None:
        self.inner = OTLPSpanExporter(url + "/v1/traces", timeout=20)
        self.ids: set[str] = set()

    def export(self, spans: list[ReadableSpan]) -> SpanExportResult:  # type: ignore[override]
        done = self.inner.export(spans)
        if done is SpanExportResult.SUCCESS:
            self.ids.update(f"{s.context.span_id:016x}" for s in spans if s.context)
        return done

    def shutdown(self) -> None:
        self.inner.shutdown()


def test_acknowledged_minus_stored_is_zero_after_sigkills(tmp_path: Path) -> None:
    it = Server(tmp_path / "lake")
    port, exporter = it.port, Acknowledged(it.url)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer, stop = provider.get_tracer("kill"), threading.Event()

    def work() -> None:
        while not stop.is_set():
            with tracer.start_as_current_span("x", attributes={"n": "y" * 2000}):
                pass

    workers = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for w in workers:
        w.start()
    for _ in range(3):
        time.sleep(0.7)
        os.kill(it.process.pid, signal.SIGKILL)
        it.process.wait(10)
        it = Server(tmp_path / "lake", port=port)
    time.sleep(0.7)
    stop.set()
    for w in workers:
        w.join(30)
    it.stop()
    lake = Lake.open(tmp_path / "lake")
    lake.ingest()
    stored = [r["span_id"] for r in lake.query("SELECT span_id FROM spans").to_pylist()]
    assert len(exporter.ids) > 50 and exporter.ids - set(stored) == set()
    assert len(stored) == len(set(stored))
