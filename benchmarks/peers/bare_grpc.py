"""A minimal gRPC client: one call after the other over HTTP/2 on a plain socket.

``benchmarks.bench_receiver`` runs receiver and senders on one machine, and Python's own gRPC client would use a large
part of its CPU (two rows of the benchmark measure that). This client implements only what RFC 9113 and gRPC's
PROTOCOL-HTTP2 require of a client that sends prepared requests: uncompressed headers, frames of the largest size that
the server accepts, flow-control windows, and answers to pings.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5
EMPTY_MESSAGE = bytes(5)  # uncompressed, length 0


class BareGrpc:
    """One connection for one method, without TLS."""

    def __init__(self, port: int, method: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = -1
        self.window = self.stream_window = self.first_window = 65_535  # bytes that may be sent
        self.frame_size = 16_384
        self.answered = self.ended = False
        self.headers = b"\x83\x86" + b"".join(  # POST over http
            [
                _literal(b"\x04", method), _literal(b"\x01", "localhost"), _literal(b"\x0f\x10", "application/grpc"),
                b"\x00" + _string("te") + _string("trailers"),
            ]
        )  # fmt: skip
        self._frames = self._read()
        self.sock.sendall(PREFACE + _frame(SETTINGS, 0, 0, b""))
        while self._handle() != SETTINGS:
            pass

    def __call__(self, body: bytes) -> None:
        """Sends one message and waits for the server's empty answer."""
        self.stream += 2
        self.stream_window, self.answered, self.ended = self.first_window, False, False
        prefix = b"\0" + struct.pack(">I", len(body))
        pieces = [_frame(HEADERS, END_HEADERS, self.stream, self.headers), *self._data(prefix, END_STREAM * (not body))]
        rest = memoryview(body)
        while rest:
            room = min(self.window, self.stream_window, self.frame_size, len(rest))
            if room:
                pieces += self._data(rest[:room], END_STREAM * (room == len(rest)))
                rest = rest[room:]
            else:
                _send(self.sock, pieces)
                pieces = []
                self._handle()
        _send(self.sock, pieces)
        while not self.ended:
            self._handle()
        assert self.answered, "the call failed"

    def _data(self, part: bytes | memoryview, flags: int) -> list[bytes | memoryview]:
        self.window -= len(part)
        self.stream_window -= len(part)
        return [_head(len(part), DATA, flags, self.stream), part]

    def _handle(self) -> int:
        """Handles one frame from the server; returns its type."""
        kind, flags, stream, payload = next(self._frames)
        if kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == INITIAL_WINDOW_SIZE:
                    self.stream_window += value - self.first_window
                    self.first_window = value
                elif name == MAX_FRAME_SIZE:
                    self.frame_size = value
            self.sock.sendall(_frame(SETTINGS, ACK, 0, b""))
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self.window += more
            elif stream == self.stream:
                self.stream_window += more
        elif kind == PING and not flags & ACK:
            self.sock.sendall(_frame(PING, ACK, 0, payload))
        elif kind == DATA:
            self.answered = payload == EMPTY_MESSAGE
            self.sock.sendall(_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload))))
        elif kind in (RST_STREAM, GOAWAY):
            raise ConnectionError(f"the server closed the stream: frame {kind}, {payload!r}")
        if stream == self.stream and kind in (DATA, HEADERS) and flags & END_STREAM:
            self.ended = True
        return kind

    def _read(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yields type, flags, stream and payload of each received frame."""
        data = b""
        while True:
            while len(data) < 9 or len(data) < 9 + (size := int.from_bytes(data[:3], "big")):
                more = self.sock.recv(1 << 16)
                if not more:
                    raise ConnectionError("the server closed the connection")
                data += more
            payload, head, data = data[9 : 9 + size], data[:9], data[9 + size :]
            yield head[3], head[4], int.from_bytes(head[5:9], "big"), payload


def _send(sock: socket.socket, pieces: list[bytes | memoryview]) -> None:
    for start in range(0, len(pieces), 512):
        some = pieces[start : start + 512]
        sent, size = sock.sendmsg(some), sum(map(len, some))
        if sent < size:
            sock.sendall(b"".join(some)[sent:])


def _head(length: int, kind: int, flags: int, stream: int) -> bytes:
    return length.to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _head(len(payload), kind, flags, stream) + payload


def _literal(index: bytes, value: str) -> bytes:
    """A header field without indexing; its name comes from HPACK's static table."""
    return index + _string(value)


def _string(text: str) -> bytes:
    assert len(text) < 127, "a longer string needs a multi-byte length"
    return bytes([len(text)]) + text.encode()
