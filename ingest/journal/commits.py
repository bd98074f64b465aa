"""Group commit: one thread appends all waiting requests and makes them durable with one write.

While the disk writes one group, the next one gathers, so the number of writes does not grow with the number of
senders. No request is answered before the write that covers its bytes is on disk. If requests arrive one at a time
and the disk is fast, the event loop writes by itself, because waking the thread takes as long.
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
MANY = 8  # this many requests in a row, each alone, mean a single sender
PROBE = 64  # one in this many goes to the thread, because the loop cannot see requests that wait while it writes
Observe = Callable[[float, int], None]
Group = list[tuple[journal.Record, "asyncio.Future[None]"]]


class GroupCommit:
    """The only user of a ``JournalWriter``. ``max_waiting`` limits the bytes that are accepted but not durable.
    ``observe`` gets the seconds and the number of requests of every commit."""

    def __init__(
        self, writer: journal.JournalWriter, max_waiting: int, observe: Observe = lambda *_: None
    ) -> None:
        self.writer, self.max_waiting, self.observe = writer, max_waiting, observe
        self.bytes_waiting = 0
        self.failures = 0
        self.healthy = True
        self._filling: tuple[Stage, Group] = (Stage(), [])
        self._spare = Stage()
        self._changed = threading.Condition()  # guards the stage being filled and the end flag
        self._writing = threading.Lock()  # guards the writer
        self._thread: threading.Thread | None = None
        self._usual = 1.0  # seconds of a commit, exponentially weighted
        self._alone = 0  # requests in a row that arrived alone
        self._closed = False

    def append(self, record: journal.Record) -> asyncio.Future[None]:
        """Start to write a record. The future is done when the record is durable, or fails with ``Refused`` (send
        again).

        Raises ``Refused`` at once if too much waits or the journal is closed. The record is staged here, not in the
        thread: the thread would wait for the interpreter's lock and delay the disk.
        """
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
        """Called for every request with whether it arrived alone. Returns whether there is a single sender, whose
        request ``write_now`` may write."""
        self._alone = self._alone + 1 if alone and not self.bytes_waiting else 0
        free = not self._closed and not self._writing.locked()
        return free and self._alone > MANY and self._alone % PROBE > 0 and self._usual < QUICK_SECONDS

    def write_now(self, record: journal.Record, is_wanted: Callable[[], bool]) -> None:
        """Write a record and return when it is durable. Raises ``Refused`` if that fails. ``is_wanted`` is called
        after the write; if it returns False or raises, the record is removed."""
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
        """The thread: write group after group without asking the event loop, which has requests to read."""
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
        """Write a group; return the seconds and the exception, which every waiting request receives."""
        started = time.perf_counter()
        problem: Exception | None = None
        try:
            self.writer.write(stage)
        except Exception as error:  # acknowledge nothing; the next group may succeed
            problem = error
        return time.perf_counter() - started, problem

    def _committed(self, group: Group, seconds: float, problem: Exception | None) -> None:
        self._noted(len(group), seconds, problem)
        for record, done in group:
            self.bytes_waiting -= record.size
            if not done.done():  # cancelled when the client disconnected
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
        """Call ``tick`` as often as needed until cancelled."""
        while True:
            await asyncio.sleep(min(1.0, seal_seconds))
            await self.tick()

    async def tick(self) -> None:
        """Once a second: seal an old segment; after a failure, test whether the disk works again."""
        try:
            await asyncio.to_thread(self._between, self.writer.seal_if_old)
            if not self.healthy:
                await asyncio.to_thread(self._between, self.writer.append, [])
                self.healthy = True
        except OSError as problem:
            self._told(problem)

    async def close(self) -> None:
        """Wait for accepted requests, then seal; later appends are refused."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread:
            await asyncio.to_thread(self._thread.join)
        try:
            await asyncio.to_thread(self._between, self.writer.close)
        except OSError as problem:  # it stays open and complete; the next start seals it
            log.error("the last segment could not be sealed: %s", problem)

    def _between(self, call: Callable[..., object], *arguments: object) -> None:
        with self._writing:
            call(*arguments)
