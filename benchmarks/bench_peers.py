"""Acknowledged and stored spans per second, compared with Phoenix and MLflow on one machine in one run.

    python -m benchmarks.bench_peers [--peers phoenix mlflow] [--seconds 15]
    python -m benchmarks.bench_peers --storage    # bytes of conversations of 20 turns in Phoenix's database

Each peer is installed from the package registry into its own virtual environment under artifacts/peers, at the version
given below, and runs as its documentation says, on SQLite, its default. The same requests (64 spans of 5 KB) go to each
over OTLP/HTTP with protobuf, from one connection and from four. A peer's span is stored when its database has it; the
database is polled until the count is constant. Ours is stored when it is acknowledged (after fsync); it is counted in
the journal afterwards.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks import bench_ingest
from benchmarks.bench_receiver import SPANS, payloads
from ingest.journal import segments as journal

VENVS = Path("artifacts/peers")
STILL_SECONDS = 10.0
MAX_SECONDS = 300.0


@dataclass(frozen=True)
class Peer:
    """How to install and start a product and how to count its spans. Names in braces are placeholders."""

    packages: tuple[str, ...]
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    database: str = ""
    ready: str = "/"


PEERS = {
    "phoenix": Peer(
        ("arize-phoenix==20.26.1",),
        ("{bin}/phoenix", "serve"),
        {"PHOENIX_WORKING_DIR": "{dir}", "PHOENIX_PORT": "{port}", "PHOENIX_GRPC_PORT": "{port2}",
         "PHOENIX_HOST": "127.0.0.1", "PHOENIX_TELEMETRY_ENABLED": "false"},
        database="phoenix.db", ready="/healthz",
    ),
    "mlflow": Peer(
        ("mlflow==3.17.2",),
        ("{bin}/mlflow", "server", "--backend-store-uri", "sqlite:///{dir}/mlflow.db", "--default-artifact-root",
         "{dir}/artifacts", "--host", "127.0.0.1", "--port", "{port}", "--workers", "2"),
        {"MLFLOW_DISABLE_TELEMETRY": "true"}, {"x-mlflow-experiment-id": "0"}, database="mlflow.db", ready="/health",
    ),
    "rehearsal": Peer(
        (), (sys.executable, "-m", "ingest", "receive", "--lake", "{dir}/lake", "--http", "{port}", "--no-grpc"),
        ready="/healthz",
    ),
}  # fmt: skip


def installed(name: str) -> Path:
    """The directory of a peer's executables; installs the peer if it is missing."""
    home = (VENVS / name).absolute()
    done = home / ".installed"
    wanted = " ".join(PEERS[name].packages)
    if PEERS[name].packages and (not done.exists() or done.read_text() != wanted):
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([home / "bin" / "pip", "install", "-q", *PEERS[name].packages], check=True)
        done.write_text(wanted)
    return home / "bin"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(name: str, directory: Path) -> Iterator[str]:
    """Starts a product and yields its URL."""
    peer, bin_path = PEERS[name], installed(name)
    filled = {"bin": str(bin_path), "dir": str(directory), "port": str(free_port()), "port2": str(free_port())}
    command = [part.format(**filled) for part in peer.command]
    environment = os.environ | {key: value.format(**filled) for key, value in peer.environment.items()}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{filled['port']}"
            _wait(url + peer.ready, process, directory / "log")
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"{url} does not answer:\n{log.read_text()[-2000:]}")


class Request:
    """A request with new span ids each time it is sent, because a product can drop duplicates."""

    def __init__(self, body: bytes) -> None:
        self.body = bytearray(body)
        spans = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
        self.places = [body.index(i) for s in spans for i in (s.trace_id, s.span_id)]

    def fresh(self, worker: int, number: int) -> bytes:
        for k, place in enumerate(self.places):
            self.body[place : place + 8] = ((worker + 1) << 48 | number << 8 | k >> 1).to_bytes(8, "big")
        return bytes(self.body)


def send(url: str, headers: dict[str, str], seconds: float, connections: int) -> tuple[int, float]:
    """Sends for `seconds`; returns the number of spans acknowledged with 200, and the elapsed seconds."""
    counts = [0] * connections
    started = time.perf_counter()

    def work(worker: int) -> None:
        requests = [Request(body) for body in payloads()]
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)
        kind = {"content-type": "application/x-protobuf", **headers}
        number = 0
        while time.perf_counter() - started < seconds:
            connection.request("POST", "/v1/traces", requests[number % len(requests)].fresh(worker, number), kind)
            answer = connection.getresponse()
            answer.read()
            counts[worker] += SPANS if answer.status == 200 else 0
            number += 1

    threads = [threading.Thread(target=work, args=(k,)) for k in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts), time.perf_counter() - started


def stored(name: str, directory: Path) -> int:
    """The number of spans in a product's database, or in our journal."""
    if name == "rehearsal":
        segments = journal.segments(directory / "lake" / "journal")
        return SPANS * sum(1 for path in segments for _ in journal.read_entries(path))
    path = directory / PEERS[name].database
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30) as db:
            return int(db.execute("SELECT count(*) FROM spans").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def measure(name: str, seconds: float, connections: int) -> dict[str, object]:
    """Measures one product, from its start until its number of stored spans is constant."""
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        with running(name, directory) as url:
            began = time.perf_counter()
            acknowledged, took = send(url, PEERS[name].headers, seconds, connections)
            count, at = stored(name, directory), time.perf_counter()
            while count < acknowledged and time.perf_counter() - began < MAX_SECONDS:
                time.sleep(1)
                now = stored(name, directory)
                if now > count:
                    count, at = now, time.perf_counter()
                elif time.perf_counter() - at > STILL_SECONDS:
                    break
        return {
            "product": name, "connections": connections, "acknowledged_per_s": round(acknowledged / took),
            "stored_per_s": round(count / (at - began)), "acknowledged": acknowledged, "stored": count,
        }  # fmt: skip


def storage(conversations: int = 100, turns: int = 20) -> dict[str, float]:
    """Bytes in Phoenix's database of the conversations of ``bench_ingest --storage``."""
    sent = list(bench_ingest.requests(conversations * (2 * turns + 2), 0, turns))
    spans = sum(n for _, n in sent)
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        with running("phoenix", directory) as url:
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)
            for body, _ in sent:
                connection.request("POST", "/v1/traces", body, {"content-type": "application/x-protobuf"})
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200, answer.status
            until = time.monotonic() + MAX_SECONDS
            while stored("phoenix", directory) < spans and time.monotonic() < until:
                time.sleep(1)
        assert stored("phoenix", directory) == spans
        size = sum(path.stat().st_size for path in directory.glob("phoenix.db*"))
    otlp = sum(len(body) for body, _ in sent)
    return {"spans": spans, "otlp_bytes_per_span": otlp / spans, "bytes_per_span": size / spans, "of_otlp": size / otlp}


def main() -> None:
    """Prints one line per product and number of connections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--peers", nargs="*", default=["phoenix", "mlflow"], choices=["phoenix", "mlflow"])
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--storage", action="store_true", help="measure Phoenix's bytes per span instead")
    options = parser.parse_args()
    if options.storage:
        print(json.dumps(storage(), indent=1))
        return
    for name in (*options.peers, "rehearsal"):
        for connections in (1, 4):
            print(json.dumps(measure(name, options.seconds, connections)), flush=True)


if __name__ == "__main__":
    main()
