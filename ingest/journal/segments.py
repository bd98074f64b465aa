"""The journal: append-only segments of raw OTLP requests, on disk before any request is acknowledged.

A segment is ``MAGIC`` in a block of its own, then records
``<length:u32><check:u32><arrived_at_ns:u64><kind:u64><payload>``, little-endian. The length is that of the payload plus
9. The checksum, the low half of xxh3-64, covers payload, time and kind (a CRC-32 takes 90 µs for 330 KB here, this 6).
Records begin at multiples of 8. Each write ends at a multiple of ``BLOCK``, and a large payload begins at one, so that
the disk takes it from the buffer it was received into (``ingest.journal.blocks``). Gaps are zeros.

The file being written is named ``*.open`` and locked; a sealed ``*.rjl`` never changes again. A torn tail (the
process or the machine died during a write) is cut after the last whole record; nothing in it was acknowledged.
Segments of the previous version are read as well: ``RJL2`` had kind before time, and no zeros.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import xxhash

from ingest.journal.blocks import BLOCK, Stage, begins_at_block, up, use_cache, write_durably

MAGIC = b"RJL3\n\0\0\0"
_HEAD = struct.Struct("<IIQQ")
_BEFORE = b"RJL2\n\0\0\0"
_HEAD_BEFORE = struct.Struct("<IIBQ")
_COUNTED = 9  # added to the payload's length, so that a head never begins with zeros
_ALIGN = 8
_WHERE_IT_LIES = 64 << 10  # bytes; a payload of this size or more is not copied
KINDS = ("traces_proto", "logs_proto", "traces_json", "logs_json")
MAX_RECORD = 1 << 30
SEAL_BYTES = 128 << 20
SEAL_SECONDS = 60.0
Bytes = bytes | bytearray


@dataclass(frozen=True)
class Entry:
    """One request as it arrived: ``kind`` is one of ``KINDS``; ``end`` is where the next record begins in its
    segment."""

    kind: str
    arrived_at_ns: int
    payload: bytes
    end: int


class NoSegment(ValueError):
    """The file does not start like a segment."""


class Record(NamedTuple):
    """One record, ready to append."""

    head: bytes
    payload: Bytes

    @property
    def size(self) -> int:
        """Size in bytes."""
        return len(self.head) + len(self.payload)

    def put(self, stage: Stage) -> None:
        """Add the record to the next write."""
        payload = self.payload
        if len(payload) >= _WHERE_IT_LIES and isinstance(payload, bytearray) and begins_at_block(payload):
            stage.align(BLOCK, short_of=len(self.head))
            stage.add(self.head)
            stage.add_where_it_lies(payload)
        else:
            stage.add(self.head)
            stage.add(payload)
        stage.align(_ALIGN)


def record(kind: str, arrived_at_ns: int, payload: Bytes) -> Record:
    """Make a record of one request."""
    number = KINDS.index(kind)
    check = _check(number, arrived_at_ns, payload)
    return Record(_HEAD.pack(_COUNTED + len(payload), check, arrived_at_ns, number), payload)


def _check(kind: int, arrived_at_ns: int, payload: Bytes) -> int:
    return xxhash.xxh3_64_intdigest(payload, arrived_at_ns + kind) & 0xFFFFFFFF


def read_entries(path: Path, offset: int = 0) -> Iterator[Entry]:
    """Yield the whole records of a segment from ``offset``; stop silently at a torn tail or at the end. A segment
    that was sealed since it was listed is read under its new name. Raises ``NoSegment`` for any other file."""
    with open_segment(path) as file:
        for head, end in _heads(file, offset):
            file.seek(head.payload_at)
            payload = file.read(head.length)
            if len(payload) < head.length or _check(head.kind, head.arrived_at_ns, payload) != head.check:
                return
            yield Entry(KINDS[head.kind], head.arrived_at_ns, payload, end)


def open_segment(path: Path) -> BinaryIO:
    """Open a segment's file; one that was sealed since it was listed is opened under its new name."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        return path.with_suffix(".rjl").open("rb")


class _Head(NamedTuple):
    """The fields before a payload, and the payload's position."""

    kind: int
    arrived_at_ns: int
    check: int
    payload_at: int
    length: int


def _heads(file: BinaryIO, at: int) -> Iterator[tuple[_Head, int]]:
    """Yield the heads of a segment's records from an offset on, each with the position of the next. Raises
    ``NoSegment``."""
    magic = file.read(len(MAGIC))
    if magic == _BEFORE:
        at = max(at, len(magic))
        while head := _head_before(file, at):
            at = head.payload_at + head.length
            yield head, at
        return
    if not MAGIC.startswith(magic):  # a shorter file was created a moment ago
        raise NoSegment(f"{file.name} is no journal segment of this version (it starts with {magic!r})")
    at = _behind_zeros(file, max(at, BLOCK))
    while head := _head_at(file, at):
        at = _behind_zeros(file, up(head.payload_at + head.length, _ALIGN))
        yield head, at


def _behind_zeros(file: BinaryIO, at: int) -> int:
    """The position of the next non-zero byte; at most the end of its block."""
    file.seek(at)
    return at + _zeros(file.read(-at % BLOCK))


def _zeros(data: bytes) -> int:
    """How many zero bytes lead, up to a position where a record may begin."""
    return (len(data) - len(data.lstrip(b"\0"))) // _ALIGN * _ALIGN


def _head_at(file: BinaryIO, at: int) -> _Head | None:
    """The head of the record at a position or, at a block's boundary, after the zeros there; None at the end."""
    if at % BLOCK == 0:
        file.seek(at)
        at += _zeros(file.read(BLOCK))
    file.seek(at)
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, check, arrived, kind = _HEAD.unpack(head)
    return _possible(_Head(kind, arrived, check, at + _HEAD.size, length - _COUNTED))


def _head_before(file: BinaryIO, at: int) -> _Head | None:
    """The same for a segment of the previous version."""
    file.seek(at)
    head = file.read(_HEAD_BEFORE.size)
    if len(head) < _HEAD_BEFORE.size:
        return None
    length, check, kind, arrived = _HEAD_BEFORE.unpack(head)
    return _possible(_Head(kind, arrived, check, at + _HEAD_BEFORE.size, length - _COUNTED))


def _possible(head: _Head) -> _Head | None:
    return head if 0 <= head.length <= MAX_RECORD and head.kind < len(KINDS) else None


def cuts(path: Path, offset: int, parts: int) -> list[int]:
    """Record positions that divide the rest of a segment after ``offset`` into parts of similar size, from record heads
    alone; fewer parts if records are large. Raises ``NoSegment``."""
    out: list[int] = []
    with open_segment(path) as file:
        size = file.seek(0, os.SEEK_END) - offset
        file.seek(0)
        for _, end in _heads(file, offset):
            done = len(out) + 1
            if done < parts and (end - offset) * parts >= size * done and end < offset + size:
                out.append(end)
    return out


def newest_arrival(path: Path) -> int:
    """The arrival time of a segment's latest request (ns since 1970; 0 for none), from record heads alone,
    unchecked."""
    with open_segment(path) as file:
        return max((head.arrived_at_ns for head, _ in _heads(file, 0)), default=0)


def segments(directory: Path, sealed_only: bool = False) -> list[Path]:
    """The segments, oldest first."""
    wanted = {".rjl"} if sealed_only else {".rjl", ".open"}
    return sorted((p for p in directory.glob("segment-*") if p.suffix in wanted), key=lambda p: p.stem)


def sync_path(path: Path) -> None:
    """Sync a file's bytes, or a directory's entries, to disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def recover(directory: Path) -> list[Path]:
    """Seal the open segments of dead writers, without their torn tails; leave those of living writers alone."""
    sealed = []
    for path in sorted(directory.glob("segment-*.open")):
        try:
            with path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if end := _end_of_good(path):
                    sealed.append(_seal_at(file, path, end))
                else:
                    path.unlink()
        except (BlockingIOError, FileNotFoundError, NoSegment):
            continue  # of a living writer, sealed by another process meanwhile, or not writable
    if sealed:
        sync_path(directory)
    return sealed


def _end_of_good(path: Path) -> int:
    end = 0
    for entry in read_entries(path):
        end = entry.end
    return end


def _seal_at(file: BinaryIO, path: Path, end: int) -> Path:
    file.truncate(end)
    os.fsync(file.fileno())
    return path.rename(path.with_suffix(".rjl"))


class JournalWriter:
    """Appends records to the open segment and seals it by size or age. One writer owns a segment. Not thread-safe: the
    receiver calls it from one thread at a time."""

    def __init__(
        self, directory: Path, seal_bytes: int = SEAL_BYTES, seal_seconds: float = SEAL_SECONDS
    ) -> None:
        self.directory = directory
        self.seal_bytes, self.seal_seconds = seal_bytes, seal_seconds
        directory.mkdir(parents=True, exist_ok=True)
        for holder in (directory.parent, directory.parent.parent):  # a new directory is an entry of its parent
            if os.access(holder, os.R_OK):
                sync_path(holder)
        recover(directory)
        self._file: BinaryIO | None = None
        self._path = directory
        self._size = 0
        self._opened = 0.0

    def append(self, records: Iterable[Record]) -> None:
        """Write the records and return when they are durable; see ``write``."""
        stage = Stage()
        for record in records:
            record.put(stage)
        self.write(stage)

    def write(self, stage: Stage) -> None:
        """Write the staged records and return when they are durable.

        On failure (disk full, read-only, broken) the segment is cut back to its last durable record and ended, and
        the OSError is raised: nothing of this call may be acknowledged, and nothing of an earlier one is lost.
        """
        if self._size >= self.seal_bytes:
            self._seal_later()
        file = self._file or self._start()
        try:
            write_durably(file.fileno(), stage.pieces(), self._size)
        except OSError:
            self._abandon()
            raise
        self._size += stage.size

    def take_back(self, size: int) -> None:
        """Undo the latest ``write`` of this many bytes. If the disk fails now, the bytes stay."""
        if self._file:
            try:
                os.ftruncate(self._file.fileno(), self._size - size)
            except OSError:
                return
            self._size -= size

    def _abandon(self) -> None:
        """End the segment after a failed write. It is never written again: after a failed fsync the kernel drops the
        error together with the dirty pages, and a second fsync would report success for data that never reached
        the disk. If the truncation fails too, ``recover`` does it at the next start."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            os.ftruncate(file.fileno(), self._size)
            os.fsync(file.fileno())
            if self._size > BLOCK:
                self._rename()
            else:
                self._path.unlink()
        except OSError:
            pass
        finally:
            file.close()

    def _seal_later(self) -> None:
        """Seal, but keep a failure from the caller: its bytes are durable under the open name as well."""
        try:
            self.seal()
        except OSError:
            pass

    def seal_if_old(self) -> Path | None:
        """Seal a segment that is full, or that has been open for ``seal_seconds`` and is not empty."""
        old = time.monotonic() - self._opened >= self.seal_seconds or self._size >= self.seal_bytes
        if self._file and self._size > BLOCK and old:
            return self.seal()
        return None

    def seal(self) -> Path | None:
        """Close the open segment for good; return its path."""
        file, self._file = self._file, None
        if file is None:
            return None
        try:
            if self._size > BLOCK:
                return self._rename()
            self._path.unlink()
            return None
        finally:
            file.close()

    def _rename(self) -> Path:
        sealed = self._path.rename(self._path.with_suffix(".rjl"))
        sync_path(self.directory)
        return sealed

    def close(self) -> None:
        """Seal and stop."""
        self.seal()

    def _start(self) -> BinaryIO:
        while True:
            self._path = self.directory / f"segment-{time.time_ns():020d}-{os.getpid()}.open"
            file: BinaryIO = self._path.open("xb", buffering=0)  # type: ignore[assignment]
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(MAGIC.ljust(BLOCK, b"\0"))
                os.fsync(file.fileno())
                sync_path(self.directory)
                use_cache(file.fileno(), False)
            except OSError:
                self._path.unlink(missing_ok=True)  # otherwise a full disk would collect one file per attempt
                file.close()
                raise
            if self._path.exists():
                break
            file.close()  # another process's recover() took it for a dead writer's before it was locked
        self._file, self._size, self._opened = file, BLOCK, time.monotonic()
        return file
