"""The receiver: OTLP/HTTP on /v1/traces and /v1/logs, protobuf or JSON; 200 means that it is on disk.

Requests are decompressed, checked, and appended raw to the journal; a writer thread makes whatever waits
durable with one fsync (group commit) and only then are they answered. Answers follow opentelemetry-proto
docs/specification.md, "OTLP/HTTP Response": the request's content type comes back, bodies of 4xx and 5xx
are ``google.rpc.Status``, and our own failures are 503 with Retry-After, because clients may only retry
429, 502, 503 and 504.
"""

from __future__ import annotations

import asyncio
import hmac
import signal
import socket
import time
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from ingest import journal, otlp
from ingest.errors import UserError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

PROTOBUF, JSON = "application/x-protobuf", "application/json"
SIGNALS = {"/v1/traces": "traces", "/v1/logs": "logs"}
INVALID_ARGUMENT, UNAUTHENTICATED, UNAVAILABLE, RESOURCE_EXHAUSTED, NOT_FOUND = 3, 16, 14, 8, 5


@dataclass(frozen=True)
class Options:
    """How the receiver runs. ``max_body`` counts after decompression (the specification recommends 64 MiB);
    ``max_waiting`` bounds the bytes accepted but not yet durable: beyond it the answer is 503."""

    journal_path: Path
    host: str = "127.0.0.1"
    http_port: int = 4318
    token_file: Path | None = None
    max_body: int = 64 << 20
    max_waiting: int = 256 << 20
    seal_seconds: float = journal.SEAL_SECONDS


class Refused(Exception):
    """A request that is answered with an error: HTTP status, RPC code, message."""

    def __init__(self, http: int, code: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.http, self.code, self.message, self.retry_after = http, code, message, retry_after


class GroupCommit:
    """One thread that appends what waits and fsyncs once for all of it."""

    def __init__(self, writer: journal.JournalWriter, max_waiting: int) -> None:
        self.writer, self.max_waiting = writer, max_waiting
        self.waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self.bytes = 0
        self.failures = 0
        self._pool = ThreadPoolExecutor(1, "journal")
        self._busy: asyncio.Task[None] | None = None

    async def append(self, record: bytes) -> None:
        """Returns when the record is durable; raises ``Refused`` (503) when it cannot be."""
        if self.bytes + len(record) > self.max_waiting:
            raise Refused(503, UNAVAILABLE, "too much is waiting for the disk; send it again later", 1)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((record, done))
        self.bytes += len(record)
        if self._busy is None:
            self._busy = asyncio.create_task(self._drain())
        await done

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self.waiting:
            group, self.waiting = self.waiting, []
            error: Refused | None = None
            try:
                await loop.run_in_executor(self._pool, self.writer.append, [r for r, _ in group])
            except OSError as problem:
                self.failures += 1
                error = Refused(503, UNAVAILABLE, f"the journal cannot be written: {problem.strerror}", 5)
            for record, done in group:
                self.bytes -= len(record)
                if not done.done():
                    done.set_exception(error) if error else done.set_result(None)
        self._busy = None

    async def seal_if_old(self) -> None:
        """Seals an aged segment, in the writer's thread."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self.writer.seal_if_old)

    async def close(self) -> None:
        """Waits for what was accepted, then seals."""
        while self._busy is not None:
            await asyncio.sleep(0.01)
        await asyncio.get_running_loop().run_in_executor(self._pool, self.writer.close)
        self._pool.shutdown()


class Receiver:
    """The ASGI application."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.tokens = _tokens(options.token_file)
        try:
            writer = journal.JournalWriter(options.journal_path, seal_seconds=options.seal_seconds)
        except OSError as error:
            raise UserError(
                f"cannot write the journal {options.journal_path}: {error.strerror}; give a writable --lake"
            ) from None
        self.commits = GroupCommit(writer, options.max_waiting)
        self.counts = {"requests": 0, "spans": 0, "log_records": 0, "rejected": 0, "refused": 0}
        self._sealer: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._sealer = asyncio.create_task(self._seal())
                await send({"type": "lifespan.startup.complete"})
            else:
                if self._sealer:
                    self._sealer.cancel()
                await self.commits.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _seal(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self.options.seal_seconds))
            await self.commits.seal_if_old()

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        kind = JSON if headers.get("content-type", "").split(";")[0].strip().lower() == JSON else PROTOBUF
        try:
            if scope["path"] == "/healthz":
                await _answer(send, 200, "text/plain", b"ok\n")
                return
            body = await self._export(scope, headers, kind, receive)
            await _answer(send, 200, kind, body)
        except Refused as no:
            self.counts["refused"] += 1
            await _answer(send, no.http, kind, _status(no, kind), no.retry_after)

    async def _export(self, scope: Scope, headers: dict[str, str], kind: str, receive: Receive) -> bytes:
        self._check(scope, headers)
        data = _decompressed(
            await self._body(receive), headers.get("content-encoding", ""), self.options.max_body
        )
        which = SIGNALS[scope["path"]]
        accepted, rejected = _checked(which, kind, data)
        if accepted:
            suffix = "json" if kind == JSON else "proto"
            await self.commits.append(journal.encode(f"{which}_{suffix}", time.time_ns(), data))
        self.counts["requests"] += 1
        self.counts["spans" if which == "traces" else "log_records"] += accepted
        self.counts["rejected"] += rejected
        return _success(which, kind, rejected)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        if scope["path"] not in SIGNALS:
            raise Refused(404, NOT_FOUND, f"nothing at {scope['path']}; send to /v1/traces or /v1/logs")
        if scope["method"] != "POST":
            raise Refused(
                405, INVALID_ARGUMENT, f"{scope['method']} is not understood here; POST an OTLP request"
            )
        sent = headers.get("content-type", "").split(";")[0].strip().lower()
        if sent not in (PROTOBUF, JSON):
            raise Refused(415, INVALID_ARGUMENT, f"content type {sent!r}; send {PROTOBUF} or {JSON}")
        if self.tokens and not _allowed(headers.get("authorization", ""), self.tokens):
            raise Refused(401, UNAUTHENTICATED, "no valid bearer token in the Authorization header")

    async def _body(self, receive: Receive) -> bytes:
        chunks, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, INVALID_ARGUMENT, "the client went away in mid-request")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self.options.max_body:
                raise _too_large(self.options.max_body)
            if not message.get("more_body"):
                return b"".join(chunks)


def _too_large(limit: int) -> Refused:
    return Refused(
        413, RESOURCE_EXHAUSTED, f"more than {limit} bytes after decompression; send smaller batches"
    )


def _decompressed(data: bytes, encoding: str, limit: int) -> bytes:
    """Inflates at most ``limit`` bytes: a gzip bomb costs no more than that."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return data
    if encoding not in ("gzip", "deflate"):
        raise Refused(415, INVALID_ARGUMENT, f"content encoding {encoding!r}; send gzip, deflate or none")
    inflate = zlib.decompressobj(47)  # gzip or zlib by its header
    try:
        out = inflate.decompress(data, limit + 1)
    except zlib.error as error:
        raise Refused(400, INVALID_ARGUMENT, f"the body is no {encoding}: {error}") from None
    if len(out) > limit:
        raise _too_large(limit)
    if not inflate.eof:
        raise Refused(400, INVALID_ARGUMENT, f"the {encoding} body is truncated")
    return out


def _checked(which: str, kind: str, data: bytes) -> tuple[int, int]:
    """How many items are good, and how many have no valid ids and are rejected."""
    try:
        if kind == JSON:
            rows = otlp.Rows()
            otlp.read_json(data, rows, 0, "")
            good = len(rows.spans) if which == "traces" else len(rows.log_records)
            return good, rows.rejected + rows.unreadable + len(rows) - good
        return otlp.count_protobuf(which, data)
    except otlp.NotOtlp as error:
        raise Refused(400, INVALID_ARGUMENT, str(error)[:300]) from None


def _success(which: str, kind: str, rejected: int) -> bytes:
    """An empty response, or partial success with the number and the reason of what was rejected."""
    why = "without a valid trace id and span id (logs belong to /v1/logs)" if rejected else ""
    if kind == JSON:
        counted = "rejectedSpans" if which == "traces" else "rejectedLogRecords"
        return orjson.dumps(
            {"partialSuccess": {counted: str(rejected), "errorMessage": why}} if rejected else {}
        )
    if not rejected:
        return b""
    if which == "traces":
        traces = ExportTraceServiceResponse()
        traces.partial_success.rejected_spans, traces.partial_success.error_message = rejected, why
        return traces.SerializeToString()
    logs = ExportLogsServiceResponse()
    logs.partial_success.rejected_log_records, logs.partial_success.error_message = rejected, why
    return logs.SerializeToString()


def _status(no: Refused, kind: str) -> bytes:
    if kind == JSON:
        return orjson.dumps({"code": no.code, "message": no.message})
    return Status(code=no.code, message=no.message).SerializeToString()


async def _answer(send: Send, status: int, kind: str, body: bytes, retry_after: int | None = None) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _tokens(path: Path | None) -> list[bytes]:
    if path is None:
        return []
    try:
        tokens = [line.strip().encode() for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"the token file {path} cannot be read: {error.strerror}") from None
    if not tokens:
        raise UserError(f"the token file {path} is empty; write one token a line")
    return tokens


def _allowed(header: str, tokens: list[bytes]) -> bool:
    """Constant-time: every token is compared, whichever matches."""
    scheme, _, sent = header.partition(" ")
    if scheme.lower() != "bearer":
        return False
    return any([hmac.compare_digest(sent.strip().encode(), t) for t in tokens])


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; a port in use is a ``UserError``."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise UserError(
            f"cannot listen on {host}:{port}: {error.strerror}; stop what uses it or choose another port"
        ) from None
    return sock


def serve(options: Options) -> None:
    """Runs until SIGTERM or SIGINT, then answers what is under way, seals the journal and returns."""
    sock = bind(options.host, options.http_port)
    app = Receiver(options)
    port = sock.getsockname()[1]
    print(f"receiving OTLP/HTTP on http://{options.host}:{port} into {options.journal_path}", flush=True)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=30,
        h11_max_incomplete_event_size=1 << 16,
    )  # fmt: skip
    server = uvicorn.Server(config)
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # uvicorn raises it again after the drain: an end, no death
        signal.signal(number, lambda *_: None)
    server.run(sockets=[sock])
