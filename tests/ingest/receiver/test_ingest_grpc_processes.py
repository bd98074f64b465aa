"""OTLP/gRPC in more processes than one: one port, one set of metrics, one end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from receiver_process import Server, protobuf
from test_ingest_receiver_faults import METHOD, stored

from ingest.journal import segments as journal
from ingest.receiver import service as receiver
from ingest.receiver.intake import Intake, Options
from ingest.receiver.telemetry import merged, without_gauges

COUNT = 'rehearsal_receiver_items_total{result="accepted",signal="traces"} '


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    it = Server(tmp_path / "lake", grpc=0, grpc_processes=3)
    yield it
    assert it.stop() == 0


def send(server: Server, numbers: range) -> list[bytes]:
    """A span a request, each over a connection of its own, so that all processes get some."""
    sent = []
    for number in numbers:
        body = protobuf(1, (number + 1).to_bytes(16, "big"))
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=options) as channel:
            assert channel.unary_unary(METHOD)(body, timeout=20, wait_for_ready=True) == b""
        sent.append(body)
    return sent


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def accepted(server: Server) -> float:
    told = httpx.get(f"{server.url}/metrics").text
    return sum(float(line.removeprefix(COUNT)) for line in told.splitlines() if line.startswith(COUNT))


def test_metrics_of_all_processes_are_summed(server: Server, tmp_path: Path) -> None:
    pids = {server.process.pid, *children(server.process.pid)}
    sent = send(server, range(60))
    assert accepted(server) == 60 and httpx.get(f"{server.url}/healthz").status_code == 200
    written = {int(path.stem.rsplit("-", 1)[1]) for path in journal.segments(tmp_path / "lake" / "journal")}
    assert len(pids) == 3 and written == pids
    assert sorted(stored(tmp_path / "lake")) == sorted(sent)


def test_a_dead_process_is_replaced_and_its_counts_are_kept(server: Server, tmp_path: Path) -> None:
    before = children(server.process.pid)
    sent = send(server, range(30))
    assert accepted(server) == 30
    os.kill(before[0], signal.SIGKILL)
    assert until(lambda: len(children(server.process.pid)) == 2 and before[0] not in children(server.process.pid))
    sent += send(server, range(30, 60))
    assert accepted(server) == 60
    assert sorted(stored(tmp_path / "lake")) == sorted(sent)


def test_processes_end_with_the_receiver_even_after_sigkill(tmp_path: Path) -> None:
    it = Server(tmp_path / "lake", grpc=0, grpc_processes=3)
    others = children(it.process.pid)
    sent = send(it, range(20))
    it.stop(signal.SIGKILL)
    assert until(lambda: all(ended(pid) for pid in others))
    again = Server(tmp_path / "lake", grpc=it.grpc_port, grpc_processes=3)  # the port is free
    others = children(again.process.pid)
    sent += send(again, range(20, 40))
    for pid in (*others, again.process.pid):  # as a service manager does it
        os.kill(pid, signal.SIGTERM)
    assert again.stop() == 0 and all(ended(pid) for pid in others)
    assert all(path.suffix == ".rjl" for path in journal.segments(tmp_path / "lake" / "journal"))
    assert sorted(stored(tmp_path / "lake")) == sorted(sent)


def test_a_port_in_use_is_not_shared(server: Server, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="choose another port"):
        Server(tmp_path / "other", grpc=server.grpc_port, grpc_processes=3)


def test_metrics_are_summed_sample_by_sample() -> None:
    one = (
        '# TYPE a_total counter\na_total{x="1"} 2\na_total{x="2"} 1\n# TYPE b gauge\nb 5\n'
        '# TYPE c histogram\nc_bucket{le="1.0"} 1\nc_bucket{le="+Inf"} 3\nc_count 3\nc_sum 9\n'
        "# TYPE c_created gauge\nc_created 20\n"
    )
    other = one.replace('x="2"', 'x="3"').replace("created 20", "created 10")
    lines = merged([one, other, without_gauges(one)]).splitlines()
    told = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert {name: float(value) for name, value in told.items()} == {
        'a_total{x="1"}': 6, 'a_total{x="2"}': 2, 'a_total{x="3"}': 1, "b": 10, 'c_bucket{le="1.0"}': 3,
        'c_bucket{le="+Inf"}': 9, "c_count": 9, "c_sum": 27, "c_created": 10,
    }  # fmt: skip


def test_the_http_door_gets_the_whole_queue_if_the_grpc_port_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def waiting(taken: int) -> list[int]:
        intake = Intake(Options(tmp_path, grpc_port=taken, grpc_must=False, grpc_processes=2))
        before = intake.max_waiting
        assert await receiver.Grpc(intake, intake.options).start() is None
        await intake.commits.close()
        return [before, intake.max_waiting, intake.commits.max_waiting]

    with receiver.bind("127.0.0.1", 0) as sock:
        half, *whole = asyncio.run(waiting(sock.getsockname()[1]))
    assert whole == [2 * half, 2 * half]
    assert "OTLP/gRPC is off" in capsys.readouterr().err
