"""Bodies however they are cut on the wire, those that are read past the parser among them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from receiver_process import Server, protobuf
from test_ingest_receiver_faults import stored

from ingest.receiver.http_server import DIRECT_BYTES

LEAST, MOST = DIRECT_BYTES


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    it = Server(tmp_path / "lake")
    yield it
    it.stop()


def head(size: int, more: str = "") -> bytes:
    start = "POST /v1/traces HTTP/1.1\r\nhost: test\r\ncontent-type: application/x-protobuf\r\n"
    return f"{start}content-length: {size}\r\n{more}\r\n".encode()


def of_size(size: int, span: int) -> bytes:
    """A request of one span and about so many bytes."""
    return protobuf(1, bytes([span]) * 16, "x" * size)


class Client:
    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        self.heard = b""

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)
            time.sleep(0.02)  # so that they arrive apart

    def answers(self, count: int) -> list[int]:
        while self.heard.count(b"HTTP/1.1 ") < count or not self.heard.endswith(b"\r\n\r\n"):
            more = self.socket.recv(65536)
            assert more, self.heard
            self.heard += more
        return [int(part[:3]) for part in self.heard.split(b"HTTP/1.1 ")[1:]]


def test_bodies_are_complete_for_any_chunking(tmp_path: Path, server: Server) -> None:
    bodies = [of_size(size, n) for n, size in enumerate((10, LEAST - 200, LEAST + 10, MOST - 200, MOST + 10, 10), 1)]
    client = Client(server)
    for number, body in enumerate(bodies, 1):
        wire = head(len(body)) + body
        whole, begun = len(wire), len(wire) - len(body)
        cuts = sorted({0, 30, begun, begun + 5, whole // 2, whole - 1, whole})
        client.send(*(wire[a:b] for a, b in zip(cuts, cuts[1:], strict=False)))
        assert client.answers(number) == [200] * number
    wire = b"".join(head(len(body)) + body for body in bodies)  # one behind the other, without waiting
    client.send(wire[: LEAST + 3000], wire[LEAST + 3000 :])
    assert client.answers(2 * len(bodies)) == [200] * 2 * len(bodies)
    assert server.stop() == 0
    assert stored(tmp_path / "lake") == 2 * bodies


def test_a_refused_body_is_skipped_and_the_connection_stays_open(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("right\n")
    server = Server(tmp_path / "lake", "--token-file", str(tmp_path / "tokens"))
    client, body = Client(server), of_size(3 * LEAST, 1)
    for number, (token, status) in enumerate((("wrong", 401), ("right", 200), ("wrong", 401)), 1):
        client.send(head(len(body), f"authorization: Bearer {token}\r\n"), body[:LEAST], body[LEAST:])
        said = b"HTTP/1.1 %d " % status
        while client.heard.count(b"HTTP/1.1 ") < number:
            client.heard += client.socket.recv(65536)
        assert client.heard.rindex(said) == client.heard.rindex(b"HTTP/1.1 ")
    assert server.stop() == 0 and stored(tmp_path / "lake") == [body]
