"""Rows land in the raw tables. Known rows are left out; the rest is committed part by part, together with the read
position in the journal. Worker processes write rows to drafts and return only hashes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from ingest import processes
from ingest.formats import files, otlp
from ingest.journal import segments as journal
from ingest.processes import Processes
from ingest.storage import catalog as catalogs
from ingest.storage.catalog import RAW, Catalog, Draft, Read
from ingest.storage.known import Known, as_array

EDGE = 64 << 10
BATCH_BYTES = 4 << 20  # of requests decoded at once: small enough for the processor's cache
PART_BYTES = 128 << 20  # of rows in memory
PARALLEL_FROM = 96 << 20  # bytes of journal; below this the start of processes (1 to 2 s) does not pay
MIN_PIECE = 16 << 20  # smallest piece, in bytes, of a segment that several processes read


@dataclass(frozen=True)
class Batch:
    """Rows by table name, in Arrow or written already, and the counts of their reading (``otlp.Rows``)."""

    tables: dict[str, pa.Table]
    rejected: int
    metrics: int
    unreadable: int
    drafts: dict[str, list[Draft]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: otlp.Rows) -> Batch:
        """Rows that have been read."""
        tables = {name: otlp.to_table(getattr(rows, name), otlp.SCHEMAS[name]) for name in RAW}
        return cls(tables, rows.rejected, rows.metrics, rows.unreadable)

    def __len__(self) -> int:
        drafted = sum(len(draft) for found in self.drafts.values() for draft in found)
        return drafted + sum(table.num_rows for table in self.tables.values())


class RawWriter:
    """Collects new rows and writes them when there are many. Journal rows that arrived before ``from_ns`` have expired
    (``ingest.upkeep.retention``); they do not land again and are counted."""

    ROWS, BYTES = 100_000, PART_BYTES

    def __init__(self, root: Path, catalog: Catalog, from_ns: int = 0) -> None:
        self.root, self.catalog, self.from_ns = root, catalog, from_ns
        self.expired = 0
        self._pending: dict[str, list[pa.Table]] = {name: [] for name in RAW}
        self._rows = self._bytes = 0
        self._marks: dict[str, Read] = {}
        self._known: dict[str, Known] = {}

    def add(self, batch: Batch) -> dict[str, int]:
        """Add rows; return the number of new rows per table."""
        new = {name: self._take(name, table) for name, table in batch.tables.items()}
        for name, found in batch.drafts.items():
            new[name] = sum(self._take_draft(name, draft) for draft in found)
        return new

    def reached(self, segment: str, how_far: Read) -> None:
        """All rows of a segment up to this position have been added; recorded when they are committed."""
        self._marks[segment] = how_far

    def flush_if_full(self) -> None:
        """Commit if the rows are many or large."""
        if self._rows >= self.ROWS or self._bytes >= self.BYTES:
            self.flush()

    def _take(self, name: str, rows: pa.Table) -> int:
        if not rows.num_rows:
            return 0
        kept = self._new(name, as_array(rows["row_hash"]), rows["arrived_at_ns"].to_numpy())
        if len(kept):
            self._pending[name].append(rows if len(kept) == rows.num_rows else rows.take(kept))
            self._count(len(kept), self._pending[name][-1].nbytes)
        return len(kept)

    def _take_draft(self, name: str, draft: Draft) -> int:
        kept = self._new(name, draft.hashes, draft.arrived_at_ns)
        if len(kept) < len(draft):
            rows = pq.ParquetFile(draft.path).read()
            draft.path.unlink()
            self._pending[name].append(rows.take(kept))
        else:
            self._write(name)  # parts are named in the order of arrival
            self.catalog.parts[name].append(catalogs.publish(self.root, draft))
        self._count(len(kept), draft.bytes)
        return len(kept)

    def _new(self, name: str, hashes: np.ndarray, arrived_at_ns: np.ndarray) -> np.ndarray:
        """The positions of rows that the lake lacks and that have not expired."""
        if name not in self._known:  # loaded late: most often there is nothing new
            self._known[name] = catalogs.hashes(self.root, self.catalog, name)
        new = self._known[name].add(hashes)
        kept: np.ndarray = new[arrived_at_ns[new] >= self.from_ns]
        self.expired += len(new) - len(kept)
        return kept

    def _count(self, rows: int, size: int) -> None:
        self._rows += rows
        self._bytes += size

    def _write(self, name: str) -> None:
        if tables := self._pending[name]:
            self.catalog.parts[name] += catalogs.write(self.root, name, pa.concat_tables(tables))
            self._pending[name] = []

    def flush(self) -> None:
        """Commit the added rows and the read positions of the journal."""
        if not self._rows and not self._marks:
            return
        for name in RAW:
            self._write(name)
        self.catalog.journal.update(self._marks)
        catalogs.save(self.root, self.catalog)
        self._rows, self._bytes, self._marks = 0, 0, {}


# ------------------------------------------------------------------------------------------ the journal


def identity(path: Path, end: int) -> str:
    """The identity of a segment's first ``end`` bytes: xxh3-128 of their edges (each record has a checksum of its own).
    Empty if the file is shorter."""
    with journal.open_segment(path) as file:
        head = file.read(min(EDGE, end))
        file.seek(max(0, end - EDGE))
        tail = file.read(min(EDGE, end))
    whole = len(head) == len(tail) == min(EDGE, end)
    return xxhash.xxh3_128_hexdigest(b"%d\0" % end + head + tail) if whole else ""


def start_of(path: Path, known: Read | None) -> int:
    """Where to continue reading a segment: after what was read, if the segment still begins with it."""
    return known.end if known and known.check == identity(path, known.end) else 0


def is_read(path: Path, known: Read | None) -> bool:
    """Whether a segment has nothing unread; False if it cannot be examined."""
    try:
        with journal.open_segment(path) as file:
            size = file.seek(0, os.SEEK_END)
        return known is not None and size == known.end == start_of(path, known)
    except OSError:
        return False


def prune(catalog: Catalog, segments: list[Path]) -> None:
    """Forget segments that no longer exist."""
    there = {path.stem for path in segments}
    catalog.journal = {name: r for name, r in catalog.journal.items() if name in there}


def read_segment(
    path: Path, known: Read | None, start: int | None = None, until: int | None = None
) -> Iterator[tuple[Batch, Read]]:
    """Yield the unread rows of a segment, or of the records between two positions, in batches, each with the
    position it reaches. Raises ``BadFile``."""
    try:
        start = start_of(path, known) if start is None else start
        unreadable = known.unreadable if known and start else 0
        for entries in _batches(path, start, until):
            batch, end = _decode(entries, path.stem), entries[-1].end
            unreadable += batch.unreadable
            yield batch, Read(end, identity(path, end), unreadable)
    except (OSError, journal.NoSegment) as error:
        raise files.BadFile(f"{path} cannot be read: {error}") from None


def draft_segment(
    root: Path, path: Path, known: Read | None, start: int | None = None, until: int | None = None
) -> list[tuple[Batch, Read]]:
    """The same with the rows written to drafts, in parts of the size that ``RawWriter`` would write."""
    out: list[tuple[Batch, Read]] = []
    aside = _Aside(root)
    how_far = Read(0, "")
    for batch, how_far in read_segment(path, known, start, until):
        aside.add(batch)
        if aside.bytes >= PART_BYTES:
            out.append((aside.finish(), how_far))
            aside = _Aside(root)
    return [*out, (aside.finish(), how_far)] if aside.batches else out


class _Aside:
    """Merges batches into one whose rows are in drafts."""

    def __init__(self, root: Path) -> None:
        self.batches = self.bytes = 0
        self._drafting = {name: catalogs.Drafting(root, name) for name in RAW}
        self._counts = [0, 0, 0]

    def add(self, batch: Batch) -> None:
        self.batches += 1
        for name, table in batch.tables.items():
            self._drafting[name].add(table)
            self.bytes += table.nbytes
        counts = batch.rejected, batch.metrics, batch.unreadable
        self._counts = [a + b for a, b in zip(self._counts, counts, strict=True)]

    def finish(self) -> Batch:
        rejected, metrics, unreadable = self._counts
        drafts = {name: drafting.finish() for name, drafting in self._drafting.items()}
        return Batch({}, rejected, metrics, unreadable, drafts)


def _batches(path: Path, start: int, until: int | None) -> Iterator[list[journal.Entry]]:
    batch: list[journal.Entry] = []
    size = 0
    for entry in journal.read_entries(path, start):
        batch.append(entry)
        size += len(entry.payload)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
        if until is not None and entry.end >= until:
            break
    if batch:
        yield batch


Segments = list[tuple[Path, Read | None]]
Drafted = Future[list[tuple[Batch, Read]]]


class Reader:
    """Reads segments in order, in this process or ahead in several. All processes share the last ones, so that none is
    idle at the end."""

    def __init__(
        self, root: Path, segments: Segments, processes: Processes | None, pieces: dict[Path, int] | None = None
    ) -> None:
        self._root, self._processes, self._pieces = root, processes, pieces or {}
        self._next = iter(segments)
        self._asked: dict[Path, list[tuple[Drafted, int | None]]] = {}

    def read(self, path: Path, known: Read | None) -> Iterator[tuple[Batch, Read]]:
        """``read_segment``, possibly with rows in drafts."""
        if self._processes is None:
            yield from read_segment(path, known)
            return
        while len(self._asked) <= self._processes.count and (later := next(self._next, None)):
            if not is_read(*later):
                self._asked[later[0]] = self._ask(self._processes, *later)
        if path in self._asked:
            yield from _told(self._asked.pop(path))
        else:  # it has grown since
            yield from read_segment(path, known)

    def _ask(self, processes: Processes, path: Path, known: Read | None) -> list[tuple[Drafted, int | None]]:
        """Start the reading of a segment: its pieces, each with its expected end (None: the end of the segment)."""
        cuts: list[int] = []
        if path in self._pieces:
            with suppress(OSError, journal.NoSegment):  # reading it reports the error
                cuts = journal.cuts(path, start_of(path, known), self._pieces[path])
        edges = [None, *cuts, None]
        return [
            (processes.submit(draft_segment, self._root, path, None if start else known, start, until), until)
            for start, until in pairwise(edges)
        ]


def _told(pieces: list[tuple[Drafted, int | None]]) -> Iterator[tuple[Batch, Read]]:
    """The rows of a segment's pieces up to the first damaged one; the rest is not read now."""
    unreadable, is_damaged = 0, False
    for piece, until in pieces:
        if is_damaged:
            _remove(piece)
            continue
        end = -1
        for batch, how_far in piece.result():
            end = how_far.end
            how_far = replace(how_far, unreadable=how_far.unreadable + unreadable)
            yield batch, how_far
        is_damaged = until is not None and end != until
        if end >= 0:
            unreadable = how_far.unreadable


def _remove(piece: Drafted) -> None:
    for batch, _ in piece.result():
        for draft in (draft for found in batch.drafts.values() for draft in found):
            draft.path.unlink()


@contextmanager
def reading(root: Path, segments: Segments) -> Iterator[Reader]:
    """A reader of segments, each with its read position."""
    count = os.cpu_count() or 1
    unread = {path: unread_bytes(path, known) for path, known in segments}
    if count == 1 or sum(unread.values()) < PARALLEL_FROM:
        yield Reader(root, segments, None)
        return
    pieces = {path: min(count, size // MIN_PIECE) for path, size in unread.items() if size >= 2 * MIN_PIECE}
    with processes.some(count) as helping:
        yield Reader(root, segments, helping, dict(list(pieces.items())[-count:]))


def unread_bytes(path: Path, known: Read | None) -> int:
    """The number of unread bytes of a segment; 0 if unknown."""
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
