"""The receiver answers as the OTLP specification says, and drains when it is told to stop."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from google.rpc.status_pb2 import Status
from ingest_samples import conversation
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from receiver_process import Server, protobuf

from ingest.lake import Lake

PROTOBUF = {"content-type": "application/x-protobuf"}


@pytest.fixture(scope="module")
def lake_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("received") / "lake"


@pytest.fixture(scope="module")
def server(lake_path: Path) -> Iterator[Server]:
    it = Server(lake_path)
    yield it
    it.stop()


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


def test_gzip_is_accepted(server: Server) -> None:
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
        (gzip.compress(protobuf(), mtime=0)[:-4], {"content_encoding": "gzip"}, "/v1/traces", 400),
        (gzip.compress(b"\0" * (65 << 20), 1, mtime=0), {"content_encoding": "gzip"}, "/v1/traces", 413),
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


def test_a_port_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "ingest", "receive", "--lake", str(tmp_path / "l"), "--http"]
        done = subprocess.run(
            [*command, str(taken.getsockname()[1])], capture_output=True, text=True, timeout=30
        )
    assert done.returncode == 2 and "choose another port" in done.stderr and done.stderr.count("\n") == 1


def test_tokens_are_required(tmp_path: Path) -> None:
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
