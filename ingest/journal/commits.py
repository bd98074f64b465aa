"""Group commit: one thread appends whatever waits and makes all of it durable with one write.

While the disk works on one group the next one gathers, so the number of writes does not grow with the
number of senders. Nobody is answered before the write that covers their bytes is on the disk. Where requests
come one at a time and the disk is quick, the event loop writes by itself: to wake the thread takes as long.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from ingest.journal import segments as journal
from ingest.journal.blocks import Stage
from ingest.refusals import disk_failed, shutting_down, too_much_waiting

log = logging.getLogger(__name__)
QUICK_SECONDS = 0.003  # of a commit
MANY = 8  # requests in a row, each of them alone, are one sender's
PROBE = 64  # of these, one is left to the thread: who waits behind a request that the loop writes is not seen
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
        self._filling: tuple[Stage, Group] = (Stage(), [])
        self._spare = Stage()
        self._changed = threading.Condition()  # around what is filled and whether it goes on
        self._writing = threading.Lock()  # around the writer
        self._thread: threading.Thread | None = None
        self._usual = 1.0  # seconds of a commit, the last ones weighing most
        self._alone = 0  # requests in a row that were
        self._closed = False

    def append(self, record: journal.Record) -> asyncio.Future[None]:
        """Starts to write a record; done when it is durable, with ``Refused`` (to be sent again) if it cannot be.
        Raises ``Refused`` at once when too much waits or nothing is taken any more. The record is put on the stage
        here, not by the thread, which would have to wait for the interpreter's lock and hold up the disk."""
        if self._closed:
            raise shutting_down()
        # An empty queue takes anything, or a record larger than the bound could never be sent.
        if self.bytes_waiting and self.bytes_waiting + record.size > self.max_waiting:
            raise too_much_waiting()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._changed:
            stage, group = self._filling
            record.put(stage)
            group.append((record, done))
            self._changed.notify()
        self.bytes_waiting += record.size
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
            self._thread.start()
        return done

    def is_one_sender(self, alone: bool) -> bool:
        """Told of every request whether nothing else was arriving (``alone``): whether there is but one sender, whose
        request may be written by ``write_now``."""
        self._alone = self._alone + 1 if alone and not self.bytes_waiting else 0
        free = not self._closed and not self._writing.locked()
        return free and self._alone > MANY and self._alone % PROBE > 0 and self._usual < QUICK_SECONDS

    def write_now(self, record: journal.Record, is_wanted: Callable[[], bool]) -> None:
        """Returns when a record is durable. Raises ``Refused`` if it cannot be. ``is_wanted`` is asked when it is
        written: if it says no, or raises, the record is taken back."""
        stage = self._spare
        record.put(stage)
        with self._writing:
            seconds, problem = self._write(stage)
            wanted = False
            try:
                wanted = is_wanted()
            finally:
                if not wanted and not problem:
                    self.writer.take_back(stage.size)
                stage.clear()
        self._noted(1, seconds, problem)
        if problem:
            raise disk_failed(problem)

    def _work(self) -> None:
        """In the thread: group after group, without asking the loop in between, which has requests to read."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._filling[1] or self._closed)
                stage, group = self._filling
                if not group:
                    return
                self._filling = self._spare, []
            with self._writing:
                seconds, problem = self._write(stage)
            stage.clear()
            self._spare = stage
            group[0][1].get_loop().call_soon_threadsafe(self._committed, group, seconds, problem)

    def _write(self, stage: Stage) -> tuple[float, Exception | None]:
        """Returns the seconds, and what went wrong, which every waiter must hear."""
        started = time.perf_counter()
        problem: Exception | None = None
        try:
            self.writer.write(stage)
        except Exception as error:  # nothing may be acknowledged, and the next group may work
            problem = error
        return time.perf_counter() - started, problem

    def _committed(self, group: Group, seconds: float, problem: Exception | None) -> None:
        self._noted(len(group), seconds, problem)
        for record, done in group:
            self.bytes_waiting -= record.size
            if not done.done():  # a client that went away has cancelled it
                done.set_exception(disk_failed(problem)) if problem else done.set_result(None)

    def _noted(self, requests: int, seconds: float, problem: Exception | None) -> None:
        self._usual += (seconds - self._usual) / 8
        if problem:
            self.failures += 1
            self._told(problem)
        else:
            self.healthy = True
            self.observe(seconds, requests)

    def _told(self, problem: Exception) -> None:
        if self.healthy:  # once, not at every request
            log.error("the journal cannot be written, requests are refused until it can: %s", problem)
        self.healthy = False

    async def keep(self, seal_seconds: float) -> None:
        """Calls ``tick`` as often as is needed, until it is cancelled."""
        while True:
            await asyncio.sleep(min(1.0, seal_seconds))
            await self.tick()

    async def tick(self) -> None:
        """Once a second: seals an aged segment; after a failure, tries whether the disk is back."""
        try:
            await asyncio.to_thread(self._between, self.writer.seal_if_old)
            if not self.healthy:
                await asyncio.to_thread(self._between, self.writer.append, [])
                self.healthy = True
        except OSError as problem:
            self._told(problem)

    async def close(self) -> None:
        """Waits for what was accepted, then seals; later appends are refused."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread:
            await asyncio.to_thread(self._thread.join)
        try:
            await asyncio.to_thread(self._between, self.writer.close)
        except OSError as problem:  # it stays open, and whole: the next start seals it
            log.error("the last segment could not be sealed: %s", problem)

    def _between(self, call: Callable[..., object], *arguments: object) -> None:
        with self._writing:
            call(*arguments)
