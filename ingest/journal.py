"""The journal: append-only segments of raw OTLP requests, on disk before anybody is told yes.

A segment is ``MAGIC`` followed by records ``<length:u32><check:u32><kind:u8><arrived_at_ns:u64><payload>``,
little-endian; length counts kind, time and payload, and so does the checksum, the low half of xxh3-64 (a
CRC-32 takes 90 µs for 330 KB here, this 6). The file being written is named ``*.open`` and locked; a sealed
one ``*.rjl`` never changes again. A torn tail (the process or the machine died in mid-write) ends at the
last whole record; nothing in it had been acknowledged.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import xxhash

MAGIC = b"RJL2\n\0\0\0"
_HEAD = struct.Struct("<II")
_META = struct.Struct("<BQ")
KINDS = ("traces_proto", "logs_proto", "traces_json", "logs_json")
MAX_RECORD = 1 << 30
SEAL_BYTES = 128 << 20
SEAL_SECONDS = 60.0
_IOV_MAX = 1024  # Linux takes no more buffers at once
_SYNCS: int = getattr(os, "RWF_DSYNC", 0)
Bytes = bytes | bytearray


@dataclass(frozen=True)
class Entry:
    """One request as it came: ``kind`` is one of ``KINDS``; ``end`` the offset behind it in its segment."""

    kind: str
    arrived_at_ns: int
    payload: bytes
    end: int


class NoSegment(ValueError):
    """A file that does not start as a segment does."""


class Record(NamedTuple):
    """One record, ready to append: the payload is not copied."""

    head: bytes
    payload: Bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.head) + len(self.payload)


def record(kind: str, arrived_at_ns: int, payload: Bytes) -> Record:
    """One request as a record."""
    meta = _META.pack(KINDS.index(kind), arrived_at_ns)
    return Record(_HEAD.pack(len(meta) + len(payload), _check(meta, payload)) + meta, payload)


def encode(kind: str, arrived_at_ns: int, payload: bytes) -> bytes:
    """The same in one piece."""
    return b"".join(record(kind, arrived_at_ns, payload))


def _check(meta: bytes, payload: Bytes) -> int:
    return xxhash.xxh3_64_intdigest(payload, int.from_bytes(meta[1:], "little") + meta[0]) & 0xFFFFFFFF


def read_entries(path: Path, offset: int = 0) -> Iterator[Entry]:
    """Whole records of a segment from ``offset``; stops silently at a torn tail or at the end. A segment that
    was sealed since it was listed is read under its new name. Raises ``NoSegment`` for anything else."""
    with open_segment(path) as file:
        magic = file.read(len(MAGIC))
        if len(magic) < len(MAGIC) and MAGIC.startswith(magic):
            return  # it was made a moment ago
        if magic != MAGIC:
            raise NoSegment(f"{path} is no journal segment of this version (it starts with {magic!r})")
        at = max(offset, len(MAGIC))
        file.seek(at)
        while entry := _read_one(file, at):
            yield entry
            at = entry.end


def open_segment(path: Path) -> BinaryIO:
    """A segment's file; one that was sealed since it was listed is opened under its new name."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        return path.with_suffix(".rjl").open("rb")


def _read_one(file: BinaryIO, at: int) -> Entry | None:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, check = _HEAD.unpack(head)
    if not _META.size <= length <= MAX_RECORD:
        return None
    meta, payload = file.read(_META.size), file.read(length - _META.size)
    if len(meta) + len(payload) < length or _check(meta, payload) != check:
        return None
    kind, arrived = _META.unpack(meta)
    if kind >= len(KINDS):
        return None
    return Entry(KINDS[kind], arrived, payload, at + _HEAD.size + length)


def newest_arrival(path: Path) -> int:
    """When the latest request of a segment arrived (ns since 1970; 0 for none), by the heads of its records
    alone: nothing is checked."""
    newest = 0
    with open_segment(path) as file:
        size = file.seek(0, os.SEEK_END)
        at = len(MAGIC)
        while at + _HEAD.size + _META.size <= size:
            file.seek(at)
            length, _ = _HEAD.unpack(file.read(_HEAD.size))
            newest = max(newest, _META.unpack(file.read(_META.size))[1])
            at += _HEAD.size + length
    return newest


def segments(directory: Path, sealed_only: bool = False) -> list[Path]:
    """The segments, oldest first."""
    wanted = {".rjl"} if sealed_only else {".rjl", ".open"}
    return sorted((p for p in directory.glob("segment-*") if p.suffix in wanted), key=lambda p: p.stem)


def sync_path(path: Path) -> None:
    """Brings a file's bytes, or a directory's entries, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def recover(directory: Path) -> list[Path]:
    """Seals what a dead writer left open, without its torn tail; what a living one holds is left alone."""
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
            continue  # a living writer's, or sealed by another process meanwhile, or not ours to touch
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
    """Appends records to the open segment and seals it by size or age. One writer owns a segment; not
    thread-safe, the receiver calls it from one thread at a time."""

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

    def append(self, records: Iterable[Bytes]) -> None:
        """Writes the records and makes them durable with one sync. On failure (disk full, read-only, broken)
        the segment is cut back to its last durable record and ended, and the OSError is raised: nothing of
        this call may be acknowledged, and nothing of an earlier one is lost."""
        file = self._file or self._start()
        try:
            size = _write_durably(file.fileno(), records, self._size)
        except OSError:
            self._abandon()
            raise
        self._size += size
        if self._size >= self.seal_bytes:
            self._seal_later()

    def _abandon(self) -> None:
        """Ends the segment after a failed write. It is not written to again: after a failed fsync the kernel
        drops the error with the dirty pages, and a second fsync would say yes to what never reached the disk.
        Should even the truncation fail, ``recover`` does it at the next start."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            os.ftruncate(file.fileno(), self._size)
            os.fsync(file.fileno())
            if self._size > len(MAGIC):
                self._rename()
            else:
                self._path.unlink()
        except OSError:
            pass
        finally:
            file.close()

    def _seal_later(self) -> None:
        """Seals, but a failure is not the caller's: what it wrote is durable under the open name as well."""
        try:
            self.seal()
        except OSError:
            pass

    def seal_if_old(self) -> Path | None:
        """Seals a segment that has been open for ``seal_seconds`` and holds something."""
        if self._file and self._size > len(MAGIC) and time.monotonic() - self._opened >= self.seal_seconds:
            return self.seal()
        return None

    def seal(self) -> Path | None:
        """Closes the open segment for good; returns its path."""
        file, self._file = self._file, None
        if file is None:
            return None
        try:
            if self._size > len(MAGIC):
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
        """Seals and stops."""
        self.seal()

    def _start(self) -> BinaryIO:
        while True:
            self._path = self.directory / f"segment-{time.time_ns():020d}-{os.getpid()}.open"
            file: BinaryIO = self._path.open("xb", buffering=0)  # type: ignore[assignment]
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(MAGIC)
                os.fsync(file.fileno())
                sync_path(self.directory)
            except OSError:
                self._path.unlink(missing_ok=True)  # or a full disk would collect a file a try
                file.close()
                raise
            if self._path.exists():
                break
            file.close()  # another process's recover() took it for a dead writer's before it was locked
        self._file, self._size, self._opened = file, len(MAGIC), time.monotonic()
        return file


def _write_durably(fd: int, records: Iterable[Bytes], at: int) -> int:
    """Writes at an offset, without joining the records (a group of requests is megabytes), and returns when all of it
    is on the disk: by one system call where there is one for both (``benchmarks.bench_receiver`` compares)."""
    global _SYNCS
    views = [memoryview(record) for record in records]
    size = sum(map(len, views))
    while views:
        try:
            done = os.pwritev(fd, views[:_IOV_MAX], at, _SYNCS)
        except OSError as error:
            if not _SYNCS or error.errno != errno.EOPNOTSUPP:  # some file systems do not know it
                raise
            _SYNCS = 0
            continue
        at += done
        while views and done >= len(views[0]):
            done -= len(views.pop(0))
        if done:
            views[0] = views[0][done:]
    if not _SYNCS or not size:
        os.fdatasync(fd)
    return size
