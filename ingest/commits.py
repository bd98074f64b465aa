"""Group commit: one thread appends whatever waits and makes all of it durable with one fsync.

While the disk works on one group the next one gathers, so the number of fsyncs does not grow with the
number of senders. Nobody is answered before the fsync that covers their bytes has returned. Where requests
come one at a time and the disk is quick, the event loop writes by itself: to wake the thread takes as long.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ingest import journal
from ingest.refusals import disk_failed, shutting_down, too_much_waiting

log = logging.getLogger(__name__)
QUICK_SECONDS = 0.003  # of a commit
MANY = 8  # requests in a row, each of them alone, are one sender's
Observe = Callable[[float, int], None]
Group = list[tuple[journal.Record, "asyncio.Future[None]"]]


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
        self._waiting: Group = []
        self._lock = threading.Lock()  # around the writer
        self._usual = 1.0  # seconds of a commit, the last ones weighing most
        self._alone = 0  # requests in a row that were
        self._pool = ThreadPoolExecutor(1, "journal")
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def append(self, record: journal.Record, alone: bool = False) -> asyncio.Future[None]:
        """Starts to write a record; done when it is durable, with ``Refused`` (to be sent again) if it cannot be.
        ``alone``: no other request is here, so that nobody minds if this returns only when it is done.
        Raises ``Refused`` at once when too much waits or nothing is taken any more."""
        if self._closed:
            raise shutting_down()
        size = record.size
        # An empty queue takes anything, or a record larger than the bound could never be sent.
        if self.bytes_waiting and self.bytes_waiting + size > self.max_waiting:
            raise too_much_waiting()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, done))
        self.bytes_waiting += size
        self._alone = self._alone + 1 if alone else 0
        if self._idle.is_set():
            self._idle.clear()
            if self._alone > MANY and self._usual < QUICK_SECONDS and not self._lock.locked():
                group, self._waiting = self._waiting, []
                self._committed(group, *self._write(group))
            else:
                self._next()
        return done

    def _next(self) -> None:
        """Hands what has gathered to the thread, which tells the loop when it is done."""
        group, self._waiting = self._waiting, []
        self._pool.submit(self._commit, group, asyncio.get_running_loop())

    def _commit(self, group: Group, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread."""
        loop.call_soon_threadsafe(self._committed, group, *self._write(group))

    def _write(self, group: Group) -> tuple[float, Exception | None]:
        """Writes a group; returns the seconds, and what went wrong, which every waiter must hear."""
        started = time.perf_counter()
        problem: Exception | None = None
        try:
            with self._lock:
                self.writer.append([part for record, _ in group for part in record])
        except Exception as error:  # nothing may be acknowledged, and the next group may work
            problem = error
        return time.perf_counter() - started, problem

    def _committed(self, group: Group, seconds: float, problem: Exception | None) -> None:
        if self._waiting:  # the disk first: those who wait hear it meanwhile
            self._next()
        else:
            self._idle.set()
        self._usual += (seconds - self._usual) / 8
        if problem:
            self.failures += 1
            self._told(problem)
        else:
            self.healthy = True
            self.observe(seconds, len(group))
        for record, done in group:
            self.bytes_waiting -= record.size
            if not done.done():  # a client that went away has cancelled it
                done.set_exception(disk_failed(problem)) if problem else done.set_result(None)

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
        await self._idle.wait()
        try:
            await self._in_thread(self.writer.close)
        except OSError as problem:  # it stays open, and whole: the next start seals it
            log.error("the last segment could not be sealed: %s", problem)
        self._pool.shutdown()

    async def _in_thread(self, call: Callable[..., object], *arguments: object) -> None:
        def locked() -> None:
            with self._lock:
                call(*arguments)

        await asyncio.get_running_loop().run_in_executor(self._pool, locked)
