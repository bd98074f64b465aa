"""A small HTTP/1.1 server for large POST bodies, on asyncio and httptools (the parser that uvicorn uses).

Why no ASGI server: passing a 330 KB body through ASGI costs several times what reading it does (375 µs against 80 µs,
measured with uvicorn), which is most of a request's cost besides fsync. So requests are passed on whole. Bytes are read
into one buffer that all connections share, or, for a body of known length, directly into the body's own buffer. The
server has no routing, no streaming and no upgrade, because the receiver needs none.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus

import httptools

from ingest.journal.blocks import Bodies
from ingest.refusals import Refused, too_large, too_slow

READ_BYTES = 1 << 20
FIRST_BYTES = 16 << 10  # of each request go through the shared buffer, so that little of a large body is copied
DIRECT_BYTES = (64 << 10, 1 << 20)  # bodies of these lengths are read into a buffer of their own
HEAD_BYTES = 64 << 10
IDLE_SECONDS = 120.0  # longer than any exporter's interval, because closing during a request costs a retry
LINGER_SECONDS = 2.0


@dataclass(frozen=True)
class Response:
    """One response; it is sent with its length."""

    status: int
    content_type: str
    body: bytes = b""
    retry_after: int | None = None

    def encode(self, keep_alive: bool, head_only: bool = False) -> bytes:
        """The response as bytes on the wire."""
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"content-type: {self.content_type}",
            f"content-length: {len(self.body)}",
        ]
        if self.retry_after is not None:
            lines.append(f"retry-after: {self.retry_after}")
        if not keep_alive:
            lines.append("connection: close")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head if head_only else head + self.body


@dataclass
class Request:
    """One request; header names are in lower case. ``refused`` is set during arrival and answered at the end."""

    target: bytes = b""
    method: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None  # of the body, if known
    chunks: list[bytes | bytearray] = field(default_factory=list)
    size: int = 0
    head_size: int = 0
    keep_alive: bool = True
    refused: Refused | None = None
    failed: Response | None = None  # response to bytes that are not HTTP
    last: bool = False  # close the connection after this response
    started: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> str:
        """The path without the query."""
        return self.target.split(b"?", 1)[0].decode("latin-1")

    def head(self, without: tuple[str, ...]) -> bytes:
        """As it came, but for these headers."""
        lines = [f"{k}: {v}" for k, v in self.headers.items() if k not in without]
        start = self.method.encode("latin-1") + b" " + self.target + b" HTTP/1.1\r\n"
        return start + "\r\n".join([*lines, "", ""]).encode("latin-1")

    def body(self) -> bytes | bytearray:
        """The whole body."""
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)


@dataclass(frozen=True)
class Service:
    """The application behind the server.

    ``admit`` sees a request before its body and may raise ``Refused``. ``answer`` gets the whole request, refused or
    not, and never raises. ``answer_now`` is asked before ``answer`` and may return None. ``hold`` and ``release``
    count the bytes in memory; ``hold`` may raise ``Refused``.
    """

    admit: Callable[[Request], None]
    answer: Callable[[Request], Awaitable[Response]]
    answer_now: Callable[[Request], Response | None]
    hold: Callable[[int], None]
    release: Callable[[int], None]
    max_body: int
    request_seconds: float


class HttpServer:
    """Listens for connections; ``drain`` answers every request that has begun."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.bodies = Bodies()
        self.connections: set[Connection] = set()
        self.draining = False
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Start to accept connections."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), sock=sock, ssl=tls, backlog=1024)
        self._sweeper = asyncio.create_task(self._sweep())

    async def drain(self, seconds: float) -> None:
        """Stop listening, wait for running requests, and close the rest after ``seconds``."""
        self.draining = True
        if self._listener:
            self._listener.close()
        end = time.monotonic() + seconds
        while self.connections and time.monotonic() < end:
            for connection in list(self.connections):
                connection.close_if_idle()
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()
        if self._sweeper:
            self._sweeper.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self.service.request_seconds / 4))
            now = time.monotonic()
            for connection in list(self.connections):
                connection.check_time(now)


class Connection(asyncio.BufferedProtocol):
    """One client. Requests are answered one after the other. A client that sends the next request early is not read
    from until the current one is answered (pausing at once would cost two selector changes per request)."""

    def __init__(self, server: HttpServer) -> None:
        self.server, self.service = server, server.service
        self.parser = httptools.HttpRequestParser(self)
        self.request: Request | None = None  # the request that is arriving
        self.rest: memoryview | None = None  # buffer for the rest of its body, bypassing the parser
        self.whole: deque[Request] = deque()
        self.task: asyncio.Task[None] | None = None
        self.idle_since = time.monotonic()
        self.offered = False  # HTTP/2, by the client
        self.paused = False
        self.ended = False  # the client sends nothing more but may wait for a response
        self.deaf = False  # final response sent; further input is discarded

    # ------------------------------------------------------------------------------ called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.server.connections.discard(self)
        for request in (*self.whole, *([self.request] if self.request else [])):
            self._forget(request)
        self.request = None
        self.whole.clear()

    def eof_received(self) -> bool:
        """True keeps the connection open until the answer is sent."""
        self.ended = True
        return self.task is not None

    def get_buffer(self, sizehint: int) -> memoryview:
        """The shared buffer. It is free again when buffer_updated returns, because httptools hands out copies."""
        if self.rest is not None:
            return self.rest
        return self.server.buffer if self.request else self.server.buffer[:FIRST_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        if self.deaf:
            return
        if self.task and not self.paused:
            self.paused = True
            self.transport.pause_reading()
        if self.rest is not None:
            self._arrived(nbytes)
            return
        data: bytes | memoryview = self.server.buffer[:nbytes]
        try:
            while data and not self.deaf:
                data = self._feed(data)
        except httptools.HttpParserError as error:
            self._fail(400, f"no HTTP/1.1 request: {error}")
        if self.request and not self.request.method and not self.deaf:
            self.request.head_size += nbytes
            if self.request.head_size > HEAD_BYTES:
                self._fail(431, "the request's head is too long")
        self._read_directly()

    def _read_directly(self) -> None:
        """Read the rest of a long body directly into its own buffer."""
        request, (least, most) = self.request, DIRECT_BYTES
        if request and request.length and not request.refused and not self.deaf:
            if least <= request.length - request.size and request.length <= most:
                body = self.server.bodies.take(request.length)
                body[: request.size] = request.body()
                request.chunks = [body]
                self.rest = memoryview(body)[request.size :]

    def _arrived(self, nbytes: int) -> None:
        """More bytes of such a body have arrived."""
        request = self.request
        assert request and self.rest is not None
        self.rest = self.rest[nbytes:]
        if not request.refused:
            try:
                self.service.hold(nbytes)
            except Refused as no:
                self._refuse(request, no)
            else:
                request.size += nbytes
        if not self.rest:
            self.rest, self.parser = None, httptools.HttpRequestParser(self)
            self._is_whole(request)

    def _feed(self, data: bytes | memoryview) -> bytes:
        """Parse, and return the bytes to parse next.

        Java's client offers HTTP/2 with its first request and accepts an HTTP/1.1 answer as a refusal. The parser
        stops after the head of such a request, so the head is parsed again without the offer, and the connection
        closes afterwards.
        """
        try:
            self.parser.feed_data(data)
            return b""
        except httptools.HttpParserUpgrade as stopped:
            request, self.request = self.request, None
            if request is None or request.method == "CONNECT":
                raise httptools.HttpParserError("CONNECT is not understood here") from None
            self.parser, self.offered = httptools.HttpRequestParser(self), True
            return request.head(without=("upgrade", "connection", "http2-settings")) + bytes(data[stopped.args[0] :])

    # ---------------------------------------------------------------------------- called by httptools

    def on_message_begin(self) -> None:
        self.request = Request(last=self.offered)

    def on_url(self, url: bytes) -> None:
        assert self.request
        self.request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self.request
        self.request.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        request = self.request
        assert request
        request.method = self.parser.get_method().decode("latin-1")
        request.keep_alive = self.parser.should_keep_alive()
        if self.parser.should_upgrade():
            return  # it comes again
        declared = int(request.headers.get("content-length", "0"))
        if "transfer-encoding" not in request.headers:
            request.length = declared
        try:
            if declared > self.service.max_body:
                raise too_large(self.service.max_body)
            self.service.admit(request)
        except Refused as no:
            self._refuse(request, no)
        else:
            if request.headers.get("expect", "").lower() == "100-continue":
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        request = self.request
        if not request or request.refused:
            return
        try:
            if request.size + len(body) > self.service.max_body:
                raise too_large(self.service.max_body)
            self.service.hold(len(body))
        except Refused as no:
            self._refuse(request, no)
        else:
            request.chunks.append(body)
            request.size += len(body)

    def on_message_complete(self) -> None:
        if self.request and not self.parser.should_upgrade():
            self._is_whole(self.request)

    def _is_whole(self, request: Request) -> None:
        if not self.deaf:
            self.deaf = request.last
            self._queue(request)

    # -------------------------------------------------------------------------------------- answering

    def _queue(self, request: Request) -> None:
        self.request = None
        if self.task is None and not request.failed and (response := self.service.answer_now(request)):
            self._reply(request, response)
            return
        self.whole.append(request)
        if self.task is None:
            self.task = asyncio.create_task(self._answer())

    async def _answer(self) -> None:
        while self.whole:
            request = self.whole.popleft()
            if not self._reply(request, request.failed or await self.service.answer(request)):
                break
        self.task = None
        if self.ended:
            self.transport.close()
        elif self.paused:
            self.paused = False
            self.transport.resume_reading()

    def _reply(self, request: Request, response: Response) -> bool:
        """Send the response; return whether the connection stays open."""
        body = request.chunks[0] if request.chunks else None
        self._forget(request)
        keep = request.keep_alive and not request.last and not self.server.draining
        self.transport.write(response.encode(keep, request.method == "HEAD"))
        if isinstance(body, bytearray) and response.status == 200:
            self.server.bodies.give_back(body)
        self.idle_since = time.monotonic()
        if not keep:
            self._linger()
        return keep

    def _refuse(self, request: Request, no: Refused) -> None:
        """Read a refused body to its end, so that the sender receives the reason; but not one that is too long,
        never ends, or is not sent before a 100 response."""
        self._forget(request)
        request.refused = no
        declared = request.headers.get("content-length", "0")
        endless = "transfer-encoding" in request.headers or int(declared) > self.service.max_body
        if endless or request.headers.get("expect", "").lower() == "100-continue":
            self._end_with(request)

    def _fail(self, status: int, message: str) -> None:
        if self.request:
            self._forget(self.request)
        self._end_with(Request(failed=Response(status, "text/plain", message.encode() + b"\n")))

    def _end_with(self, request: Request) -> None:
        """Send the response after all earlier ones and ignore further input."""
        if not self.deaf:
            self.deaf = request.last = True
            self._queue(request)

    def _linger(self) -> None:
        """Close after a short delay. Closing while the client still sends resets the connection and loses the
        response."""
        self.deaf = True
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.close)

    def _forget(self, request: Request) -> None:
        if not request.refused:
            self.service.release(request.size)
        request.chunks.clear()
        request.size = 0

    # ----------------------------------------------------------------------------------------- timing

    def close_if_idle(self) -> None:
        """Close a connection without a request in progress."""
        if self.request is None and self.task is None and not self.whole:
            self.transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self.transport.abort()

    def check_time(self, now: float) -> None:
        """Close a connection whose request arrives too slowly, and an unused one."""
        if self.deaf or self.task:
            return
        if self.request and now - self.request.started > self.service.request_seconds:
            request = self.request
            self._refuse(request, too_slow(self.service.request_seconds))
            self._end_with(request)
        elif not self.request and now - self.idle_since > IDLE_SECONDS:
            self.transport.close()
