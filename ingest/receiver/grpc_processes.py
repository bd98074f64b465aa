"""OTLP/gRPC in several processes.

The gRPC library uses more than twice the CPU of our HTTP server, nearly all of it in one thread. So further processes
listen on the same port (SO_REUSEPORT distributes the connections) and write journal segments of their own. Each process
runs ``python -m ingest.receiver.grpc_processes``. It reads its options as a pickle from standard input, answers every
following line with its ``State``, and drains when the input ends, so it never outlives the receiver.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from dataclasses import asdict, replace

import orjson

from ingest.errors import UserError
from ingest.garbage import keep_freed_memory
from ingest.processes import running
from ingest.receiver import otlp_grpc
from ingest.receiver.intake import Intake, Options
from ingest.receiver.telemetry import State, merged, without_gauges

log = logging.getLogger(__name__)
START_SECONDS = 30.0
ANSWER_SECONDS = 1.0
RESTART_SECONDS = (1.0, 60.0)  # first delay, longest delay
LINE_BYTES = 1 << 20


class GrpcProcesses:
    """The additional gRPC processes of a receiver. They run after ``start``."""

    def __init__(self) -> None:
        self._all: list[_One] = []

    async def start(self, options: Options, port: int) -> None:
        """Return when every process accepts calls on this port. A process that cannot start prints the reason on
        standard error and is started again, as is one that dies; the others serve meanwhile."""
        options = replace(options, grpc_port=port)
        self._all = [_One(options) for _ in range(options.grpc_processes - 1)]
        ready = [asyncio.wait_for(one.ready.wait(), START_SECONDS) for one in self._all]
        await asyncio.gather(*ready, return_exceptions=True)

    async def states(self) -> list[State]:
        """The states of all processes that ever ran; the last known state of one that does not answer."""
        await asyncio.gather(*(one.ask() for one in self._all))
        return [state for one in self._all for state in (one.before, one.state)]

    async def stop(self, seconds: float) -> None:
        """Drain all processes; kill those that do not end in time."""
        await asyncio.gather(*(one.stop(seconds) for one in self._all))


class _One:
    """One process, and its replacement if it dies."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.state = State()
        self.before = State()  # of dead processes: a counter must not decrease
        self.ready = asyncio.Event()
        self._told = asyncio.Event()
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        first, longest = RESTART_SECONDS
        wait = first
        while not self._stopping.is_set():
            try:
                status = await self._live()
            except OSError as error:  # for example, no memory
                status = error.errno or -1
            if self.state.metrics:
                self.before = State(metrics=merged([self.before.metrics, without_gauges(self.state.metrics)]))
                self.state, wait = State(), first
            if not self._stopping.is_set():
                log.error("a process that takes OTLP/gRPC ended (status %s); the next starts in %.0f s", status, wait)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), wait)
                wait = min(2 * wait, longest)

    async def _live(self) -> int:
        """Run one process from start to end and return its exit status."""
        command, environment = running("ingest.receiver.grpc_processes")
        self._process = process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdin=PIPE, stdout=PIPE, limit=LINE_BYTES
        )
        assert process.stdin and process.stdout
        process.stdin.write(pickle.dumps(self.options))
        # otherwise it was killed in the middle of a line
        while (line := await process.stdout.readline()).endswith(b"\n"):
            self.state = State(**orjson.loads(line))
            self.ready.set()
            self._told.set()
        return await process.wait()

    async def ask(self) -> None:
        """Update ``state``. A process that is starting answers when it accepts calls."""
        if self._process and self._process.stdin and self._process.returncode is None:
            self._told.clear()
            with suppress(TimeoutError, OSError):
                self._process.stdin.write(b"\n")
                await asyncio.wait_for(self._told.wait(), ANSWER_SECONDS)

    async def stop(self, seconds: float) -> None:
        """Drain the process."""
        self._stopping.set()
        if self._process and self._process.stdin:
            self._process.stdin.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._running), seconds)
            return
        if self._process and self._process.returncode is None:
            self._process.kill()
        await self._running


# ------------------------------------------------------------------------------------------ in such a process


async def _serve(options: Options, told: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    intake = Intake(options)
    server, _ = await otlp_grpc.start(intake, options)

    def tell() -> None:
        state = State(intake.commits.healthy, intake.metrics.exposition())
        with suppress(BrokenPipeError):  # the receiver has ended
            os.write(told, orjson.dumps(asdict(state)) + b"\n")

    async def hear() -> None:
        asked = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
        while await asked.readline():
            tell()
        stop.set()

    tell()
    others = [asyncio.create_task(hear()), asyncio.create_task(intake.commits.keep(options.seal_seconds))]
    await stop.wait()
    await server.stop(options.drain_seconds)
    for task in others:
        task.cancel()
    await intake.commits.close()


def main() -> int:
    """Serve gRPC until the input ends or a signal arrives."""
    told = os.dup(1)
    os.dup2(2, 1)  # standard output carries answers only
    keep_freed_memory()
    try:
        with os.fdopen(0, "rb", buffering=0, closefd=False) as asked:  # a buffer would take what follows as well
            options = pickle.load(asked)
        asyncio.run(_serve(options, told))
    except (UserError, EOFError) as problem:
        print(f"rehearsal: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
