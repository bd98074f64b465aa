"""OTLP/gRPC and what both doors share: limits, back-pressure, tokens, TLS, the receiver's own spans."""

from __future__ import annotations

import asyncio
import gzip
import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from receiver_process import Server, protobuf
from test_ingest_receiver_faults import METHOD, PROTOBUF, retry_seconds, stored

from ingest.journal import commits
from ingest.journal import segments as journal
from ingest.journal.blocks import Stage
from ingest.receiver import telemetry
from ingest.receiver.intake import Beside, Intake, Options, Tokens
from ingest.refusals import Refused

LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
BIG = [("grpc.max_send_message_length", -1)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    it = Server(tmp_path_factory.mktemp("received") / "lake", grpc=0)
    yield it
    assert it.stop() == 0


def call(server: Server, body: bytes, method: str = METHOD, **options: object) -> bytes:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=BIG) as channel:
        return channel.unary_unary(method)(body, timeout=60, **options)  # type: ignore[no-any-return]


def code(server: Server, body: bytes, method: str = METHOD, **options: object) -> tuple[grpc.StatusCode, int | None]:
    with pytest.raises(grpc.RpcError) as no:
        call(server, body, method, **options)
    return no.value.code(), retry_seconds(no.value)


def test_success_partial_success_and_empty_requests(server: Server) -> None:
    assert call(server, protobuf()) == b"" and call(server, b"") == b"" and call(server, b"", LOGS) == b""
    logs = ExportLogsServiceRequest()
    logs.resource_logs.add().scope_logs.add().log_records.add(event_name="e", time_unix_nano=1)
    assert call(server, logs.SerializeToString(), LOGS) == b""
    partial = ExportTraceServiceResponse.FromString(call(server, protobuf(2) + protobuf(3, bytes(16))))
    assert partial.partial_success.rejected_spans == 3 and partial.partial_success.error_message


def test_gzip_is_accepted_and_a_decompression_bomb_is_refused(server: Server) -> None:
    assert call(server, protobuf(50, text="x" * 1000), compression=grpc.Compression.Gzip) == b""
    assert b"x" * 1000 in stored_open(server)
    exhausted = (grpc.StatusCode.RESOURCE_EXHAUSTED, None)  # no RetryInfo: it would be too large again
    assert code(server, bytes(200 << 20), compression=grpc.Compression.Gzip) == exhausted
    assert code(server, bytes(65 << 20)) == exhausted
    assert memory(server) < 900 << 20


def memory(server: Server) -> int:
    """The most that the process ever used, in bytes."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10


def stored_open(server: Server) -> bytes:
    lake = Path(server.process.args[server.process.args.index("--lake") + 1])  # type: ignore[union-attr,index,arg-type]
    return b"".join(stored(lake))


def test_an_unreadable_request_gets_a_permanent_error(server: Server) -> None:
    assert code(server, b"\xff\xff\xff") == (grpc.StatusCode.INVALID_ARGUMENT, None)
    assert code(server, gzip.compress(b"cut")[:-5]) == (grpc.StatusCode.INVALID_ARGUMENT, None)
    assert code(server, b"", "/no.such/Method")[0] is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_of_64_mib_passes(server: Server) -> None:
    assert call(server, protobuf(8, text="x" * (7 << 20))) == b""


def test_http_and_grpc_require_tokens_and_accept_rotated_ones(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first\nsecond\n")
    it = Server(tmp_path / "lake", "--token-file", str(tokens), grpc=0)

    def both(token: str) -> tuple[int, grpc.StatusCode]:
        over_http = httpx.post(
            f"{it.url}/v1/traces", content=protobuf(), headers={**PROTOBUF, "authorization": f"Bearer {token}"}
        )
        try:
            call(it, protobuf(), metadata=(("authorization", f"bearer {token}"),))
            return over_http.status_code, grpc.StatusCode.OK
        except grpc.RpcError as no:
            return over_http.status_code, no.code()

    try:
        assert code(it, protobuf())[0] is grpc.StatusCode.UNAUTHENTICATED
        assert both("third") == (401, grpc.StatusCode.UNAUTHENTICATED)
        assert both("second") == (200, grpc.StatusCode.OK)
        assert httpx.get(f"{it.url}/healthz").status_code == 200, "what holds no data asks for no token"
        tokens.write_text("third\n")
        time.sleep(Tokens.CHECK_SECONDS + 0.2)
        assert both("third") == (200, grpc.StatusCode.OK)
        assert both("second") == (401, grpc.StatusCode.UNAUTHENTICATED)
        tokens.write_text("")
        time.sleep(Tokens.CHECK_SECONDS + 0.2)
        assert both("third") == (200, grpc.StatusCode.OK), "an emptied file closes nobody out, and lets nobody in"
    finally:
        assert it.stop() == 0


def test_http_and_grpc_support_tls(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*make.split(), *names], check=True, capture_output=True)
    it = Server(tmp_path / "lake", "--tls-cert", str(certificate), "--tls-key", str(key), grpc=0)
    try:
        assert it.url.startswith("https://")
        body = protobuf(40, text="x" * 50_000)
        context = ssl.create_default_context(cafile=str(certificate))
        assert httpx.post(f"{it.url}/v1/traces", content=body, headers=PROTOBUF, verify=context).status_code == 200
        trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(f"localhost:{it.grpc_port}", trusted, options=BIG) as channel:
            assert channel.unary_unary(METHOD)(body, timeout=30) == b""
    finally:
        assert it.stop() == 0
    assert stored(tmp_path / "lake") == [body, body]


class SlowWriter(journal.JournalWriter):
    """A disk that takes its time."""

    def write(self, stage: Stage) -> None:
        time.sleep(0.2)
        super().write(stage)


def test_back_pressure_answers_429_with_retry_after(tmp_path: Path) -> None:
    async def run() -> tuple[int, list[Refused]]:
        commit = commits.GroupCommit(SlowWriter(tmp_path), max_waiting=1000)
        record = journal.record("traces_proto", 1, bytes(300))

        async def send() -> None:
            await commit.append(record)

        results = await asyncio.gather(*(send() for _ in range(10)), return_exceptions=True)
        refused = [r for r in results if isinstance(r, Refused)]
        await send()
        assert commit.bytes_waiting == 0
        await commit.close()
        with pytest.raises(Refused, match="shutting down"):
            await send()
        return len(results) - len(refused) + 1, refused

    accepted, refused = asyncio.run(run())
    assert accepted == 4 and {(r.http, r.code, r.retry_after) for r in refused} == {(429, 8, 1)}
    assert sum(1 for s in journal.segments(tmp_path) for _ in journal.read_entries(s)) == accepted


def test_background_work_returns_or_raises_to_its_own_caller() -> None:
    beside = Beside()
    one, two, three = beside.start(lambda: 1), beside.start(lambda: 1 // 0), beside.start(lambda: 3)
    assert three() == 3 and one() == one() == 1
    with pytest.raises(ZeroDivisionError):
        two()


def test_bytes_in_memory_are_bounded_over_all_requests(tmp_path: Path) -> None:
    intake = Intake(Options(tmp_path / "journal", max_waiting=100))
    intake.hold(500)  # alone, anything passes: a request larger than the bound could never be sent
    with pytest.raises(Refused) as no:
        intake.hold(1)
    assert no.value.http == 429
    intake.release(500)
    intake.hold(60)
    intake.hold(40)


def test_own_spans_are_off_unless_an_endpoint_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    assert telemetry.own_tracer() is None
    it = Server(tmp_path / "theirs")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", it.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    traced = Server(tmp_path / "lake", grpc=0)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    assert httpx.post(f"{traced.url}/v1/traces", content=protobuf(2), headers=PROTOBUF).status_code == 200
    assert call(traced, protobuf(2)) == b""
    assert traced.stop() == 0 and it.stop() == 0
    seen = b"".join(stored(tmp_path / "theirs"))
    assert b"rehearsal-receiver" in seen and b"POST /v1/traces" in seen and b"TraceService/Export" in seen
