"""Rows land in the raw tables: what the lake has is left out, the rest is committed part by part, together
with how far the journal was read."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import xxhash

from ingest import catalog as catalogs
from ingest import files, journal, otlp
from ingest.catalog import RAW, Catalog, Read
from ingest.known import Known, as_array
from ingest.processes import Processes

EDGE = 64 << 10
BATCH_BYTES = 16 << 20
PARALLEL_FROM = 96 << 20  # bytes of the journal; the processes take a second or two to start


@dataclass(frozen=True)
class Batch:
    """Rows as Arrow tables by name, and what was counted while they were read (``otlp.Rows``)."""

    tables: dict[str, pa.Table]
    rejected: int
    metrics: int
    unreadable: int

    @classmethod
    def of(cls, rows: otlp.Rows) -> Batch:
        """Rows that have been read."""
        tables = {name: otlp.to_table(getattr(rows, name), otlp.SCHEMAS[name]) for name in RAW}
        return cls(tables, rows.rejected, rows.metrics, rows.unreadable)

    def __len__(self) -> int:
        return sum(table.num_rows for table in self.tables.values())


class RawWriter:
    """Collects new rows and writes them when they are many. Rows of the journal that arrived before ``from_ns``
    have expired (``ingest.retention``) and do not land again; they are counted."""

    ROWS, BYTES = 100_000, 128 << 20

    def __init__(self, root: Path, catalog: Catalog, from_ns: int = 0) -> None:
        self.root, self.catalog, self.from_ns = root, catalog, from_ns
        self.expired = 0
        self._pending: dict[str, list[pa.Table]] = {name: [] for name in RAW}
        self._rows = self._bytes = 0
        self._marks: dict[str, Read] = {}
        self._known: dict[str, Known] = {}

    def add(self, batch: Batch) -> dict[str, int]:
        """Takes rows; returns how many of each table are new."""
        return {name: self._take(name, batch.tables[name]) for name in RAW}

    def reached(self, segment: str, how_far: Read) -> None:
        """Everything of a segment up to there has been added; remembered when those rows are committed."""
        self._marks[segment] = how_far

    def flush_if_full(self) -> None:
        """Commits when the rows are many or large."""
        if self._rows >= self.ROWS or self._bytes >= self.BYTES:
            self.flush()

    def _take(self, name: str, rows: pa.Table) -> int:
        if not rows.num_rows:
            return 0
        if name not in self._known:  # only now: most often there is nothing new
            self._known[name] = catalogs.hashes(self.root, self.catalog, name)
        new = self._known[name].add(as_array(rows["row_hash"]))
        kept = new[rows["arrived_at_ns"].to_numpy()[new] >= self.from_ns]
        self.expired += len(new) - len(kept)
        if len(kept):
            self._pending[name].append(rows if len(kept) == rows.num_rows else rows.take(kept))
            self._rows += len(kept)
            self._bytes += self._pending[name][-1].nbytes
        return len(kept)

    def flush(self) -> None:
        """Commits what was added and how far the journal was read."""
        if not self._rows and not self._marks:
            return
        for name, tables in self._pending.items():
            if tables:
                self.catalog.parts[name] += catalogs.write(self.root, name, pa.concat_tables(tables))
        self.catalog.journal.update(self._marks)
        catalogs.save(self.root, self.catalog)
        self._pending, self._rows, self._bytes, self._marks = {name: [] for name in RAW}, 0, 0, {}


# ------------------------------------------------------------------------------------------ the journal


def identity(path: Path, end: int) -> str:
    """What tells the first ``end`` bytes of a segment from others' (xxh3-128 of their edges; every record in
    between has a checksum of its own). "" if the file is shorter."""
    with journal.open_segment(path) as file:
        head = file.read(min(EDGE, end))
        file.seek(max(0, end - EDGE))
        tail = file.read(min(EDGE, end))
    whole = len(head) == len(tail) == min(EDGE, end)
    return xxhash.xxh3_128_hexdigest(b"%d\0" % end + head + tail) if whole else ""


def start_of(path: Path, known: Read | None) -> int:
    """Where to go on reading a segment: behind what was read, if that is what it still begins with."""
    return known.end if known and known.check == identity(path, known.end) else 0


def is_read(path: Path, known: Read | None) -> bool:
    """Whether nothing in a segment is unread; a segment that cannot be looked at is not."""
    try:
        with journal.open_segment(path) as file:
            size = file.seek(0, os.SEEK_END)
        return known is not None and size == known.end == start_of(path, known)
    except OSError:
        return False


def prune(catalog: Catalog, segments: list[Path]) -> None:
    """Forgets segments that are gone."""
    there = {path.stem for path in segments}
    catalog.journal = {name: r for name, r in catalog.journal.items() if name in there}


def read_segment(path: Path, known: Read | None, decoder: Decoder) -> Iterator[tuple[Batch, Read]]:
    """The unread rows of a segment, in batches, each with how far it reaches. Raises ``BadFile``."""
    try:
        start = start_of(path, known)
        unreadable = known.unreadable if known and start else 0
        for batch, end in decoder.decoded(_batches(path, start), path.stem):
            unreadable += batch.unreadable
            yield batch, Read(end, identity(path, end), unreadable)
    except (OSError, journal.NoSegment) as error:
        raise files.BadFile(f"{path} cannot be read: {error}") from None


def _batches(path: Path, start: int) -> Iterator[list[journal.Entry]]:
    batch: list[journal.Entry] = []
    size = 0
    for entry in journal.read_entries(path, start):
        batch.append(entry)
        size += len(entry.payload)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Decoder:
    """Makes rows of journal entries: in this process, or in several where there is so much that it pays."""

    def __init__(self, processes: Processes | None) -> None:
        self._processes = processes

    def decoded(self, batches: Iterator[list[journal.Entry]], source: str) -> Iterator[tuple[Batch, int]]:
        """Each batch's rows, in order, and where it ends in its segment."""
        if self._processes is None:
            for batch in batches:
                yield _decode(batch, source), batch[-1].end
            return
        waiting: deque[tuple[Future[Batch], int]] = deque()
        for batch in batches:
            waiting.append((self._processes.submit(_decode, batch, source), batch[-1].end))
            if len(waiting) > self._processes.count:
                done, end = waiting.popleft()
                yield done.result(), end
        for done, end in waiting:
            yield done.result(), end


@contextmanager
def decoding(size: int) -> Iterator[Decoder]:
    """A decoder for so many bytes."""
    count = os.cpu_count() or 1
    if size < PARALLEL_FROM or count == 1:
        yield Decoder(None)
        return
    with Processes(count) as processes:
        yield Decoder(processes)


def unread_bytes(path: Path, known: Read | None) -> int:
    """How many bytes of a segment are new, or 0 if that cannot be told."""
    try:
        with journal.open_segment(path) as file:
            return file.seek(0, os.SEEK_END) - (known.end if known else 0)
    except OSError:
        return 0


def _decode(batch: list[journal.Entry], source: str) -> Batch:
    rows = otlp.Rows()
    for entry in batch:
        files.add_entry(entry, rows, source)
    return Batch.of(rows)
