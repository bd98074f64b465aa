"""What OTLP/HTTP and OTLP/gRPC share: authorisation, limits, and the durable append."""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import zstandard
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from ingest.errors import UserError
from ingest.formats import otlp
from ingest.journal import segments as journal
from ingest.journal.commits import GroupCommit
from ingest.journal.segments import Bytes
from ingest.receiver.telemetry import Metrics, OwnSpans
from ingest.refusals import invalid, too_large, too_much_waiting, unauthenticated

log = logging.getLogger(__name__)
T = TypeVar("T")
BIG = 1 << 20  # bytes; larger requests are decompressed in a thread, so that small ones do not wait


@dataclass(frozen=True)
class Options:
    """Options of the receiver.

    ``max_body`` counts bytes after decompression (the specification recommends 64 MiB). ``max_waiting`` limits the
    bytes in memory that are not yet on disk; above it the response is 429. A port of 0 takes a free one.
    ``grpc_port`` None turns gRPC off, and so does a port in use unless ``grpc_must`` is set. Each of the
    ``grpc_processes`` gets its share of ``max_waiting``.
    """

    journal_path: Path
    host: str = "127.0.0.1"
    http_port: int = 4318
    grpc_port: int | None = None
    grpc_must: bool = True
    grpc_processes: int = 1
    token_file: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    max_body: int = 64 << 20
    max_waiting: int = 256 << 20
    seal_seconds: float = journal.SEAL_SECONDS
    drain_seconds: float = 30.0
    request_seconds: float = 60.0


@dataclass(frozen=True)
class Taken:
    """The result of a request: how many items are durable, and how many have no valid ids."""

    signal: str
    accepted: int
    rejected: int

    @property
    def why(self) -> str:
        """The message of the partial success."""
        return "without a valid trace id and span id (logs belong to /v1/logs)" if self.rejected else ""

    def protobuf(self) -> bytes:
        """The response: empty, or a partial success with the number of rejected items and the reason."""
        if not self.rejected:
            return b""
        if self.signal == "traces":
            traces = ExportTraceServiceResponse()
            traces.partial_success.rejected_spans = self.rejected
            traces.partial_success.error_message = self.why
            return traces.SerializeToString()
        logs = ExportLogsServiceResponse()
        logs.partial_success.rejected_log_records = self.rejected
        logs.partial_success.error_message = self.why
        return logs.SerializeToString()


class Intake:
    """One journal behind all transports."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.tokens = Tokens(options.token_file) if options.token_file else None
        try:
            writer = journal.JournalWriter(options.journal_path, seal_seconds=options.seal_seconds)
        except OSError as error:
            raise UserError(
                f"cannot write the journal {options.journal_path}: {error.strerror}; give a writable --lake"
            ) from None
        self.metrics = Metrics()
        self.spans = OwnSpans()
        self.max_waiting = options.max_waiting // options.grpc_processes
        self.commits = GroupCommit(writer, self.max_waiting, self.metrics.committed)
        self.metrics.watch(lambda: self.held, lambda: self.commits.failures)
        self.held = 0
        self._beside = Beside()

    def stay_alone(self) -> None:
        """No other process accepts requests after all, so this one may use the whole of ``max_waiting``."""
        self.max_waiting = self.commits.max_waiting = self.options.max_waiting

    def authorise(self, header: str) -> None:
        """Raise ``Refused`` (401) unless the Authorization header has an accepted token or no token is required."""
        if self.tokens and not self.tokens.allow(header):
            raise unauthenticated()

    def hold(self, size: int) -> None:
        """Count bytes in memory; raise ``Refused`` (429) above ``max_waiting``."""
        if self.held and self.held + size > self.max_waiting:
            raise too_much_waiting()
        self.held += size

    def release(self, size: int) -> None:
        """Undo ``hold``."""
        self.held -= size

    def take_now(self, signal: str, encoding: str, data: Bytes, compression: str = "") -> Taken | None:
        """Like ``take``, for a small request of a single sender; None if it does not apply and ``take`` must be
        called. The request is validated while the disk writes it, and the write is undone if the request is
        invalid."""
        lone = self.commits.is_one_sender(alone=self.held == len(data))
        if not lone or not _is_small(data, compression):
            return None
        kind = f"{signal}_{encoding}"
        record = journal.record(kind, time.time_ns(), data)
        checked = self._beside.start(lambda: _checked(kind, data))
        self.commits.write_now(record, lambda: checked().accepted > 0)
        return self._took(checked(), data)

    async def take(self, signal: str, encoding: str, data: Bytes, compression: str = "") -> Taken:
        """Make one held request (``hold``) durable. ``signal`` is traces or logs, ``encoding`` proto or json."""
        kind = f"{signal}_{encoding}"
        if _is_small(data, compression):
            taken = _checked(kind, data)
        else:
            taken, data = await asyncio.to_thread(self._unpacked, kind, data, compression)
        if taken.accepted:
            await self.commits.append(journal.record(kind, time.time_ns(), data))
        return self._took(taken, data)

    def _took(self, taken: Taken, data: Bytes) -> Taken:
        self.metrics.took(taken.signal, taken.accepted, taken.rejected, len(data))
        return taken

    def _unpacked(self, kind: str, data: Bytes, compression: str) -> tuple[Taken, Bytes]:
        data = decompressed(data, compression, self.options.max_body)
        return _checked(kind, data), data


class Beside:
    """A thread that runs one call at a time, with less overhead than an executor's futures."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[Callable[[], Any], SimpleQueue[tuple[Any, Exception | None]]]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, function: Callable[[], T]) -> Callable[[], T]:
        """Start the call. The returned function waits for the result and returns it, or raises its exception."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="beside", daemon=True)
            self._thread.start()
        told: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()
        self._asked.put((function, told))

        @cache
        def result() -> T:
            value, problem = told.get()
            if problem:
                raise problem
            return value  # type: ignore[no-any-return]

        return result

    def _work(self) -> None:
        while True:
            function, told = self._asked.get()
            try:
                told.put((function(), None))
            except Exception as problem:
                told.put((None, problem))


def _is_small(data: Bytes, compression: str) -> bool:
    return len(data) <= BIG and not compression


def decompressed(data: Bytes, compression: str, limit: int) -> Bytes:
    """Decompress gzip, deflate or zstd, at most ``limit`` bytes, so that a compression bomb costs no more than that."""
    compression = compression.strip().lower()
    if compression in ("", "identity"):
        out = data
    elif compression in ("gzip", "x-gzip", "deflate"):
        out = _members(data, compression, limit, _inflate)
    elif compression == "zstd":
        out = _members(data, compression, limit, _unzstd)
    else:
        raise invalid(f"content encoding {compression!r}; send gzip, zstd, deflate or none", 415)
    if len(out) > limit:
        raise too_large(limit)
    return out


def _members(data: Bytes, compression: str, limit: int, unpack: Callable[[Bytes, int], tuple[bytes, bytes]]) -> bytes:
    """Yield the members (both formats may be concatenated) until more than ``limit`` bytes are there."""
    out = bytearray()
    while len(out) <= limit:
        try:
            member, data = unpack(data, limit + 1 - len(out))
        except EOFError:
            raise invalid(f"the {compression} body is truncated") from None
        except (zlib.error, zstandard.ZstdError) as error:
            raise invalid(f"the body is no {compression}: {error}") from None
        out += member
        if not data.strip(b"\0"):  # some writers pad
            break
    return bytes(out)


def _inflate(data: Bytes, room: int) -> tuple[bytes, bytes]:
    """Decompress one gzip or zlib member, at most ``room`` bytes; return it and the bytes after it."""
    one = zlib.decompressobj(47)  # gzip or zlib by its header
    out = one.decompress(data, room)
    if not one.eof and len(out) < room:
        raise EOFError
    return out, one.unused_data


def _unzstd(data: Bytes, room: int) -> tuple[bytes, bytes]:
    """Decompress one zstd frame, 1 KiB at a time, because this decompressor accepts no maximum. 1 KiB holds at most 256
    blocks of 128 KiB, so a bomb exceeds the limit by at most 32 MiB."""
    one = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
    out, at = bytearray(), 0
    while not one.eof:
        if at >= len(data):
            raise EOFError
        out += one.decompress(data[at : at + 1024])
        at += 1024
        if len(out) >= room:
            return bytes(out[:room]), b""
    return bytes(out), one.unused_data + data[at:]


def _checked(kind: str, data: Bytes) -> Taken:
    """Count the valid items of a request and those without valid ids, which are rejected."""
    signal, encoding = kind.split("_")
    try:
        if encoding == "proto":
            return Taken(signal, *otlp.count_protobuf(signal, data))
        rows = otlp.Rows()
        otlp.read_json(data, rows, 0, "")
        good = len(rows.spans) if signal == "traces" else len(rows.log_records)
        return Taken(signal, good, rows.rejected + rows.unreadable + len(rows) - good)
    except otlp.NotOtlp as error:
        raise invalid(str(error)[:300]) from None


class Tokens:
    """The accepted bearer tokens: a file with one token per line, read again when it changes, so that tokens can be
    rotated without a restart."""

    CHECK_SECONDS = 1.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked_at = time.monotonic()
        self._tokens, self._version = self._read()

    def allow(self, header: str) -> bool:
        """Whether the header is ``Bearer`` with an accepted token. Constant time: every token is compared."""
        if time.monotonic() - self._checked_at > self.CHECK_SECONDS:
            self._reread()
        scheme, _, sent = header.partition(" ")
        token = sent.strip().encode("utf-8", "replace")
        matches = [hmac.compare_digest(token, accepted) for accepted in self._tokens]
        return any(matches) and scheme.lower() == "bearer"

    def _reread(self) -> None:
        self._checked_at = time.monotonic()
        try:
            if self._stamp() != self._version:
                self._tokens, self._version = self._read()
        # for example half replaced: the old tokens stay valid until it is complete
        except (OSError, UserError) as problem:
            log.warning("the tokens stay as they were: %s", problem)

    def _stamp(self) -> tuple[int, int, int]:
        stat = self.path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> tuple[list[bytes], tuple[int, int, int]]:
        try:
            stamp = self._stamp()
            lines = self.path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"the token file {self.path} cannot be read: {why}") from None
        tokens = [line.strip().encode() for line in lines if line.strip()]
        if not tokens:
            raise UserError(f"the token file {self.path} is empty; write one token a line")
        return tokens, stamp
