"""Group commit: one thread appends whatever waits and makes all of it durable with one fsync.

While the disk works on one group the next one gathers, so the number of fsyncs does not grow with the
number of senders. Nobody is answered before the fsync that covers their bytes has returned.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ingest import journal
from ingest.refusals import disk_failed, shutting_down, too_much_waiting

log = logging.getLogger(__name__)
Observe = Callable[[float, int], None]


class GroupCommit:
    """The only user of a ``JournalWriter``. ``max_waiting`` bounds the bytes that are accepted but not yet
    durable; ``observe`` is told the seconds and the number of requests of every commit."""

    def __init__(
        self, writer: journal.JournalWriter, max_waiting: int, observe: Observe = lambda *_: None
    ) -> None:
        self.writer, self.max_waiting, self.observe = writer, max_waiting, observe
        self.bytes_waiting = 0
        self.failures = 0
        self.healthy = True
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._pool = ThreadPoolExecutor(1, "journal")
        self._busy: asyncio.Task[None] | None = None
        self._closed = False

    async def append(self, record: bytes) -> None:
        """Returns when the record is durable; raises ``Refused`` (to be sent again) when it cannot be."""
        if self._closed:
            raise shutting_down()
        # An empty queue takes anything, or a record larger than the bound could never be sent.
        if self.bytes_waiting and self.bytes_waiting + len(record) > self.max_waiting:
            raise too_much_waiting()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, done))
        self.bytes_waiting += len(record)
        if self._busy is None:
            self._busy = asyncio.create_task(self._drain())
        await done

    async def _drain(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            problem = await self._commit([record for record, _ in group])
            for record, done in group:
                self.bytes_waiting -= len(record)
                if not done.done():  # a client that went away has cancelled it
                    done.set_exception(disk_failed(problem)) if problem else done.set_result(None)
        self._busy = None

    async def _commit(self, records: list[bytes]) -> Exception | None:
        """Writes a group; returns what went wrong instead of raising, because every waiter must hear it."""
        started = time.perf_counter()
        try:
            await self._in_thread(self.writer.append, records)
        except Exception as problem:  # whatever it is: nothing may be acknowledged, and the next group may work
            self.failures += 1
            self._told(problem)
            return problem
        self.healthy = True
        self.observe(time.perf_counter() - started, len(records))
        return None

    def _told(self, problem: Exception) -> None:
        if self.healthy:  # once, not at every request
            log.error("the journal cannot be written, requests are refused until it can: %s", problem)
        self.healthy = False

    async def tick(self) -> None:
        """Once a second: seals an aged segment; after a failure, tries whether the disk is back."""
        try:
            await self._in_thread(self.writer.seal_if_old)
            if not self.healthy:
                await self._in_thread(self.writer.append, [])
                self.healthy = True
        except OSError as problem:
            self._told(problem)

    async def close(self) -> None:
        """Waits for what was accepted, then seals; later appends are refused."""
        self._closed = True
        if self._busy is not None:
            await self._busy
        try:
            await self._in_thread(self.writer.close)
        except OSError as problem:  # it stays open, and whole: the next start seals it
            log.error("the last segment could not be sealed: %s", problem)
        self._pool.shutdown()

    async def _in_thread(self, call: Callable[..., object], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)
