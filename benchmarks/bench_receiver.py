"""Spans per second that the receiver makes durable, relative to the disk's limit in the same minutes.

The limit is a loop that only appends and fsyncs the same request bytes, one request at a time. Spans have 5 KB and
requests 64 spans; a connection waits for each answer before it sends the next request. The phases alternate over
several rounds, because the speed of a shared disk varies from minute to minute. The ratios of a round are relative to
the limit of that round; medians over the rounds are printed. After each phase the journal is read back and must hold
every acknowledged request.

    python -m benchmarks.bench_receiver [--dir DIR] [--seconds 3] [--rounds 3] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.peers.bare_grpc import BareGrpc
from ingest.journal import blocks
from ingest.journal import segments as journal

SPANS, SPAN_BYTES, PAYLOADS = 64, 5_000, 16
METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
HEAD = (
    b"POST /v1/traces HTTP/1.1\r\nhost: bench\r\ncontent-type: application/x-protobuf\r\n"
    b"content-length: %d\r\n\r\n"
)
Send = Callable[[bytes], None]


def payloads(seed: int = 0) -> list[bytes]:
    """Requests similar to those of agents: a few short attributes and one long text per span."""
    rng = random.Random(seed)
    return [_payload(rng) for _ in range(PAYLOADS)]


def _payload(rng: random.Random) -> bytes:
    request = ExportTraceServiceRequest()
    part = request.resource_spans.add()
    part.resource.attributes.add(key="service.name").value.string_value = "bench"
    spans = part.scope_spans.add().spans
    for _ in range(SPANS):
        span = spans.add(name="chat model", kind=3, trace_id=rng.randbytes(16), span_id=rng.randbytes(8))
        span.start_time_unix_nano = 1_750_000_000_000_000_000 + rng.randrange(10**9)
        span.end_time_unix_nano = span.start_time_unix_nano + 10**9
        for i in range(12):
            span.attributes.add(key=f"gen_ai.attribute.{i}").value.string_value = rng.randbytes(8).hex()
        words = rng.randbytes((SPAN_BYTES - span.ByteSize()) // 2).hex()
        span.attributes.add(key="gen_ai.input.messages").value.string_value = words
    return request.SerializeToString()


# ----------------------------------------------------------------------------------------------- phases


def limit(directory: Path, bodies: list[bytes], seconds: float, as_journal: bool = False) -> float:
    """Requests per second that one thread can append and fsync, one at a time. With ``as_journal`` it bypasses the page
    cache where the file system allows it, as the journal does."""
    path = directory / "limit"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    if as_journal:
        blocks.use_cache(fd, False)
    stage = blocks.Stage()
    count = size = 0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        body = bodies[count % len(bodies)]
        if as_journal:
            stage.add(body)
            blocks.write_durably(fd, stage.pieces(), size)
            size += stage.size
            stage.clear()
        else:
            os.write(fd, body)
            os.fdatasync(fd)
        count += 1
    took = time.perf_counter() - started
    os.close(fd)
    path.unlink()
    return count / took


def http_sender(port: int) -> Send:
    """A minimal HTTP client on a plain socket, because it shares the machine with the receiver."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(body: bytes) -> None:
        sock.sendmsg([HEAD % len(body), body[: 1 << 15]])
        sock.sendall(memoryview(body)[1 << 15 :])
        answer = sock.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n"), answer

    return send


def grpc_sender(port: int) -> Send:
    """A minimal gRPC client."""
    return BareGrpc(port, METHOD)


def python_grpc_sender(port: int) -> Send:
    """Python's own gRPC client with its own channel. It uses as much CPU as the receiver."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=options).unary_unary(METHOD)  # type: ignore[no-any-return]


SENDERS = {"HTTP": http_sender, "gRPC": grpc_sender, "gRPC, Python's client": python_grpc_sender}


def received(directory: Path, bodies: list[bytes], seconds: float, connections: int, by: str) -> float:
    """Requests per second that were acknowledged. Checks that the journal holds every one of them."""
    lake = directory / "lake"
    command = [sys.executable, "-m", "ingest", "receive", "--lake", str(lake), "--http", "0", "--grpc", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    http_port = int(process.stdout.readline().split("://")[1].split()[0].rsplit(":", 1)[1])
    grpc_port = int(process.stdout.readline().split()[-1].rsplit(":", 1)[1])
    try:
        port = http_port if by == "HTTP" else grpc_port
        senders = [SENDERS[by](port) for _ in range(connections)]
        rate, acknowledged = _send(senders, bodies, seconds)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    stored = sum(1 for s in journal.segments(lake / "journal") for _ in journal.read_entries(s))
    assert stored == acknowledged, f"{acknowledged} acknowledged, {stored} stored"
    shutil.rmtree(lake)
    return rate


def _send(senders: list[Send], bodies: list[bytes], seconds: float) -> tuple[float, int]:
    for send in senders:  # opens connections and warms caches before the measurement
        send(bodies[0])
    counts = [0] * len(senders)
    started = time.perf_counter()

    def work(i: int) -> None:
        while time.perf_counter() - started < seconds:
            senders[i](bodies[(i + counts[i]) % len(bodies)])
            counts[i] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(senders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started), sum(counts) + len(senders)


# ---------------------------------------------------------------------------------------------- report

AS_JOURNAL = "limit, as journal"
PHASES = {f"{by}, {n} connection{'s' * (n > 1)}": (n, by) for by in SENDERS for n in (1, 16)}


def measure(directory: Path, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Spans per second of every phase and round. The limit is measured before and after each round."""
    bodies = payloads()
    out: dict[str, list[float]] = {"limit": [], AS_JOURNAL: [], **{name: [] for name in PHASES}}
    for _ in range(rounds):
        before = limit(directory, bodies, seconds / 2)
        out[AS_JOURNAL].append(SPANS * limit(directory, bodies, seconds / 2, as_journal=True))
        for name, (connections, by) in PHASES.items():
            out[name].append(SPANS * received(directory, bodies, seconds, connections, by))
        out["limit"].append(SPANS * (before + limit(directory, bodies, seconds / 2)) / 2)
    return out


def report(rates: dict[str, list[float]]) -> list[dict[str, object]]:
    """Medians over the rounds: spans per second, and the ratio to the limit with its range."""
    rows = []
    for name, values in rates.items():
        ratios = [v / of for v, of in zip(values, rates["limit"], strict=True)]
        rows.append(
            {
                "phase": name, "spans_per_s": round(median(values)), "of_limit": round(median(ratios), 2),
                "lowest": round(min(ratios), 2), "highest": round(max(ratios), 2),
            }
        )  # fmt: skip
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--dir", type=Path, help="directory to write to (selects the disk)")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        rows = report(measure(Path(name), options.seconds, options.rounds))
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['phase']:40} {row['spans_per_s']:>8} spans/s  {row['of_limit']:>5} of the limit"
            f"  ({row['lowest']} to {row['highest']})"
        )


if __name__ == "__main__":
    main()
