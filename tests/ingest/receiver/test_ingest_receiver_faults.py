"""What the receiver said yes to is stored, and stored once, whatever dies: the process, the disk, the sender."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from receiver_process import Server, protobuf

from ingest.journal import commits
from ingest.journal import segments as journal
from ingest.lake import Lake
from ingest.receiver.intake import Intake, Options
from ingest.refusals import Refused

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PROTOBUF = {"content-type": "application/x-protobuf"}
MANY, SOME = 20, 6
"""Kills: many of the receiver behind the exporter that most agents use, some behind each of the others."""


class Acknowledged(SpanExporter):
    """An official exporter; remembers which spans were answered with success."""

    def __init__(self, inner: SpanExporter) -> None:
        self.inner, self.ids = inner, set[str]()

    def export(self, spans: list[ReadableSpan]) -> SpanExportResult:  # type: ignore[override]
        done = self.inner.export(spans)
        if done is SpanExportResult.SUCCESS:
            self.ids.update(f"{s.context.span_id:016x}" for s in spans if s.context)
        return done

    def shutdown(self) -> None:
        self.inner.shutdown()


class Python:
    """Python's official exporters, from four threads."""

    def __init__(self, how: str, it: Server, javascript: Path) -> None:
        exporters: dict[str, Callable[[], SpanExporter]] = {
            "http": lambda: HttpExporter(f"{it.url}/v1/traces", timeout=20),
            "grpc": lambda: GrpcExporter(f"127.0.0.1:{it.grpc_port}", insecure=True, timeout=20),
        }
        self.exporter = Acknowledged(exporters[how]())
        self.ids = self.exporter.ids
        self._provider = TracerProvider()
        self._provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self._over = threading.Event()
        self._workers = [threading.Thread(target=self._work, daemon=True) for _ in range(4)]
        for w in self._workers:
            w.start()

    def _work(self) -> None:
        tracer = self._provider.get_tracer("kill")
        while not self._over.is_set():
            with tracer.start_as_current_span("x", attributes={"n": "y" * 2000}):
                pass

    def stop(self) -> None:
        self._over.set()
        for w in self._workers:
            w.join(60)
        self.exporter.shutdown()


NPM = pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")


class JavaScript:
    """JavaScript's official exporters, from the package registry, in Node.js."""

    def __init__(self, how: str, it: Server, javascript: Path) -> None:
        if not (javascript / "node_modules").exists():
            install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run(install, cwd=javascript, check=True, capture_output=True, timeout=300)
        self.ids = set[str]()
        url = f"{it.url}/v1/traces" if how == "http" else f"http://127.0.0.1:{it.grpc_port}"
        command = ["node", "sender.mjs", how, url]
        self.process = subprocess.Popen(
            command, cwd=javascript, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.ids.add(line.strip())

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(120) == 0
        self._reader.join(60)


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the exporters in JavaScript, which the first who needs them installs."""
    aside = tmp_path_factory.mktemp("javascript") / "sender"
    shutil.copytree(Path(__file__).with_name("javascript"), aside, ignore=shutil.ignore_patterns("node_modules"))
    return aside


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "how", "kills"),
    [
        (Python, "grpc", MANY),
        (Python, "http", SOME),
        pytest.param(JavaScript, "http", SOME, marks=NPM),
        pytest.param(JavaScript, "grpc", SOME, marks=NPM),
    ],
)
def test_acknowledged_minus_stored_is_zero_after_sigkills(
    tmp_path: Path, javascript: Path, language: type[Python] | type[JavaScript], how: str, kills: int
) -> None:
    it = Server(tmp_path / "lake", grpc=0, grpc_processes=2)
    ports = {"port": it.port, "grpc": it.grpc_port, "grpc_processes": 2}
    sender = language(how, it, javascript)
    for _ in range(kills):
        enough = len(sender.ids) + 10
        end = time.monotonic() + 60
        while len(sender.ids) < enough and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(it.process.pid, signal.SIGKILL)
        it.process.wait(10)
        it = Server(tmp_path / "lake", **ports)
    sender.stop()
    assert it.stop() == 0
    lake = Lake.open(tmp_path / "lake")
    lake.ingest()
    stored = [r["span_id"] for r in lake.query("SELECT span_id FROM spans").to_pylist()]
    assert len(sender.ids) >= kills * 10 and sender.ids - set(stored) == set()
    assert len(stored) == len(set(stored))


def test_sigterm_completes_running_requests(tmp_path: Path) -> None:
    """A request that is half sent when the signal comes is answered; the segment is sealed."""
    it = Server(tmp_path / "lake", grpc=0)
    body = protobuf(3)
    with socket.create_connection(("127.0.0.1", it.port), timeout=20) as sock:
        head = b"POST /v1/traces HTTP/1.1\r\ncontent-type: application/x-protobuf\r\ncontent-length: %d\r\n\r\n"
        sock.sendall(head % len(body) + body[:10])
        time.sleep(0.3)
        it.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        sock.sendall(body[10:])
        answer = sock.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer
    assert it.stop() == 0
    assert [p.suffix for p in (tmp_path / "lake" / "journal").iterdir()] == [".rjl"]
    assert Lake.open(tmp_path / "lake").ingest().new == 3


def stored(lake: Path) -> list[bytes]:
    directory = lake / "journal"
    return [e.payload for s in journal.segments(directory) for e in journal.read_entries(s)]


def test_a_full_disk_answers_503(tmp_path: Path) -> None:
    """Every segment ends at 100 kB: what does not fit is refused, what was said yes to is there, and a request
    that fits is accepted again."""
    it = Server(tmp_path / "lake", grpc=0, file_limit=100_000)
    channel = grpc.insecure_channel(f"127.0.0.1:{it.grpc_port}")
    export, acknowledged, refused = channel.unary_unary(METHOD), [], 0
    for number in range(30):
        size = 200_000 if number % 5 == 4 else 9_000
        body = protobuf(1, (number + 1).to_bytes(16, "big"), "x" * size)
        answer = httpx.post(f"{it.url}/v1/traces", content=body, headers=PROTOBUF)
        if answer.status_code == 200:
            acknowledged.append(body)
        else:
            refused += 1
            said = Status.FromString(answer.content)
            assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
            assert said.code == 14 and "File too large" in said.message
    assert refused >= 6 and len(acknowledged) >= 18
    with pytest.raises(grpc.RpcError) as no:
        export(protobuf(1, text="x" * 200_000))
    assert no.value.code() is grpc.StatusCode.UNAVAILABLE and retry_seconds(no.value) == 5
    small = protobuf(1, b"\xee" * 16)
    assert export(small) == b""
    assert "rehearsal_receiver_journal_failures" in httpx.get(f"{it.url}/metrics").text
    assert httpx.get(f"{it.url}/healthz").status_code == 200
    assert it.stop() == 0
    assert sorted(stored(tmp_path / "lake")) == sorted([*acknowledged, small])
    assert not [p for p in (tmp_path / "lake" / "journal").iterdir() if p.suffix != ".rjl"]


def retry_seconds(error: grpc.RpcError) -> int | None:
    details = dict(error.trailing_metadata()).get("grpc-status-details-bin")  # type: ignore[attr-defined]
    if details is None:
        return None
    info = RetryInfo()
    assert Status.FromString(details).details[0].Unpack(info)
    return info.retry_delay.seconds


def test_an_unwritable_journal_is_refused_at_start(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.journal_path.write_text("a file where the directory should be: permissions do not bind root")
    with pytest.raises(AssertionError, match="give a writable --lake"):
        Server(tmp_path / "lake")


def test_many_senders_share_commits_and_lose_nothing(tmp_path: Path) -> None:
    it = Server(tmp_path / "lake", grpc=0)
    channel = grpc.insecure_channel(f"127.0.0.1:{it.grpc_port}").unary_unary(METHOD)

    def send(number: int) -> bytes:
        body = protobuf(2, (number + 1).to_bytes(16, "big"), "x" * 5000)
        if number % 2:
            assert channel(body) == b""
        else:
            assert httpx.post(f"{it.url}/v1/traces", content=body, headers=PROTOBUF).status_code == 200
        return body

    with ThreadPoolExecutor(16) as pool:
        sent = list(pool.map(send, range(200)))
    told = httpx.get(f"{it.url}/metrics").text
    assert 'rehearsal_receiver_items_total{result="accepted",signal="traces"} 400.0' in told
    assert 'rehearsal_receiver_requests_total{code="200",signal="traces",transport="http"} 100.0' in told
    assert 'rehearsal_receiver_requests_total{code="0",signal="traces",transport="grpc"} 100.0' in told
    it.stop()
    assert sorted(stored(tmp_path / "lake")) == sorted(sent)


def test_a_single_sender_is_written_immediately_and_an_invalid_request_is_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "QUICK_SECONDS", 10.0)
    lake = Lake.create(tmp_path / "lake")
    good = [protobuf(1, (n + 1).to_bytes(16, "big"), "x" * 1000 * n) for n in range(20)]
    sent = [*good[:15], b"no protobuf", protobuf(1, bytes(16)), *good[15:]]
    at_once: list[int] = []

    async def work() -> None:
        intake = Intake(Options(lake.journal_path))
        real = intake.commits.write_now

        def write_now(record: journal.Record, is_wanted: Callable[[], bool]) -> None:
            at_once.append(len(record.payload))
            real(record, is_wanted)

        monkeypatch.setattr(intake.commits, "write_now", write_now)
        for body in sent:
            intake.hold(len(body))
            try:
                what = "traces", "proto", body
                taken = intake.take_now(*what) or await intake.take(*what)
                assert (taken.accepted, taken.rejected) == ((1, 0) if body in good else (0, 1))
            except Refused as no:
                assert no.http == 400 and body == b"no protobuf"
            intake.release(len(body))
        await intake.commits.close()

    asyncio.run(work())
    assert at_once == [len(b) for n, b in enumerate(sent, 1) if n > commits.MANY and n % commits.PROBE]
    assert stored(tmp_path / "lake") == good
