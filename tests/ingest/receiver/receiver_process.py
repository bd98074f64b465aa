"""A receiver in a process of its own, for the tests that kill it."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Server:
    """`rehearsal receive` on free ports; ready when the constructor returns. ``file_limit`` is the kernel's
    limit on the size of a file, in bytes: a disk that is full for every segment."""

    def __init__(
        self, lake: Path, *options: str, port: int = 0, grpc: int | None = None, grpc_processes: int = 1,
        file_limit: int | None = None,
    ) -> None:  # fmt: skip
        self.with_grpc = grpc is not None
        by_grpc = ["--grpc", str(grpc), "--grpc-processes", str(grpc_processes)] if self.with_grpc else ["--no-grpc"]
        doors = ["--http", str(port), *by_grpc]
        command = [sys.executable, "-m", "ingest", "receive", "--lake", str(lake), *doors, *options]

        def limit() -> None:
            assert file_limit is not None
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))

        # Only where it is needed: with a preexec_fn, gRPC's fork handlers run in the child, which can end it.
        before = limit if file_limit is not None else None
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before
        )
        self.url = self._line().split(" on ")[1].split()[0]
        self.port = int(self.url.rsplit(":", 1)[1])
        self.grpc_port = int(self._line().rsplit(":", 1)[1]) if self.with_grpc else 0

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("receiving OTLP/"), line or self.process.stderr.read()  # type: ignore[union-attr]
        return line

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


def protobuf(count: int = 1, trace: bytes = b"\1" * 16, text: str = "") -> bytes:
    """A request of small spans, all of one trace."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for i in range(count):
        span = spans.add(trace_id=trace, span_id=(i + 1).to_bytes(8, "big"), name="s", start_time_unix_nano=1)
        if text:
            span.attributes.add(key="text").value.string_value = text
    return request.SerializeToString()
