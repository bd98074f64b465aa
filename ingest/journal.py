"""The journal: append-only segments of raw OTLP requests, on disk before anybody is told yes.

A segment is ``MAGIC`` followed by records ``<length:u32><crc32:u32><kind:u8><arrived_at_ns:u64><payload>``,
little-endian; length counts kind, time and payload, and so does the checksum. The file being written is
named ``*.open`` and locked; a sealed one ``*.rjl`` never changes again. A torn tail (the process or the
machine died in mid-write) ends at the last whole record; nothing in it had been acknowledged.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC = b"RJL1\n\0\0\0"
_HEAD = struct.Struct("<II")
_META = struct.Struct("<BQ")
KINDS = ("traces_proto", "logs_proto", "traces_json", "logs_json")
MAX_RECORD = 1 << 30
SEAL_BYTES = 128 << 20
SEAL_SECONDS = 60.0


@dataclass(frozen=True)
class Entry:
    """One request as it came: ``kind`` is one of ``KINDS``; ``end`` the offset behind it in its segment."""

    kind: str
    arrived_at_ns: int
    payload: bytes
    end: int


def encode(kind: str, arrived_at_ns: int, payload: bytes) -> bytes:
    """One record, ready to append."""
    body = _META.pack(KINDS.index(kind), arrived_at_ns)
    crc = zlib.crc32(payload, zlib.crc32(body))
    return b"".join((_HEAD.pack(len(body) + len(payload), crc), body, payload))


def read_entries(path: Path, offset: int = 0) -> Iterator[Entry]:
    """Whole records of a segment from ``offset``; stops silently at a torn tail or at the end."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return
        at = max(offset, len(MAGIC))
        file.seek(at)
        while entry := _read_one(file, at):
            yield entry
            at = entry.end


def _read_one(file: BinaryIO, at: int) -> Entry | None:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, crc = _HEAD.unpack(head)
    if not _META.size <= length <= MAX_RECORD:
        return None
    body = file.read(length)
    if len(body) < length or zlib.crc32(body) != crc:
        return None
    kind, arrived = _META.unpack_from(body)
    if kind >= len(KINDS):
        return None
    return Entry(KINDS[kind], arrived, body[_META.size :], at + _HEAD.size + length)


def segments(directory: Path, sealed_only: bool = False) -> list[Path]:
    """The segments, oldest first."""
    wanted = {".rjl"} if sealed_only else {".rjl", ".open"}
    return sorted((p for p in directory.glob("segment-*") if p.suffix in wanted), key=lambda p: p.stem)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def recover(directory: Path) -> list[Path]:
    """Seals what a dead writer left open, without its torn tail; what a living one holds is left alone."""
    sealed = []
    for path in directory.glob("segment-*.open"):
        with path.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            end = 0
            for entry in read_entries(path):
                end = entry.end
            if end:
                file.truncate(end)
                os.fsync(file.fileno())
                path.rename(path.with_suffix(".rjl"))
                sealed.append(path.with_suffix(".rjl"))
            else:
                path.unlink()
    if sealed:
        _sync_directory(directory)
    return sealed


class JournalWriter:
    """Appends records to the open segment and seals it by size or age. One writer owns a segment; not
    thread-safe, the receiver calls it from one thread at a time."""

    def __init__(
        self, directory: Path, seal_bytes: int = SEAL_BYTES, seal_seconds: float = SEAL_SECONDS
    ) -> None:
        self.directory = directory
        self.seal_bytes, self.seal_seconds = seal_bytes, seal_seconds
        directory.mkdir(parents=True, exist_ok=True)
        recover(directory)
        self._file: BinaryIO | None = None
        self._path = directory
        self._size = 0
        self._opened = 0.0

    def append(self, records: Iterable[bytes]) -> None:
        """Writes the records and makes them durable with one fsync. On failure (disk full) the segment is
        cut back to the last durable record and the OSError is raised: nothing may be acknowledged."""
        file = self._file or self._start()
        before = self._size
        try:
            data = b"".join(records)
            view = memoryview(data)
            while view:
                view = view[os.write(file.fileno(), view) :]
            os.fdatasync(file.fileno())
        except OSError:
            self._cut(before)
            raise
        self._size += len(data)
        if self._size >= self.seal_bytes:
            self.seal()

    def _cut(self, size: int) -> None:
        """After a failed write nobody knows what is on disk: end the segment where it was good."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            os.ftruncate(file.fileno(), size)
            os.lseek(file.fileno(), size, os.SEEK_SET)
            os.fsync(file.fileno())
            self._file = file
        except OSError:
            file.close()  # recover() of the next start ends it at the last whole record

    def seal_if_old(self) -> Path | None:
        """Seals a segment that has been open for ``seal_seconds`` and holds something."""
        if self._file and self._size > len(MAGIC) and time.monotonic() - self._opened >= self.seal_seconds:
            return self.seal()
        return None

    def seal(self) -> Path | None:
        """Closes the open segment for good; returns its path."""
        if self._file is None:
            return None
        file, self._file = self._file, None
        if self._size == len(MAGIC):
            self._path.unlink()
            file.close()
            return None
        sealed = self._path.with_suffix(".rjl")
        self._path.rename(sealed)
        _sync_directory(self.directory)
        file.close()
        return sealed

    def close(self) -> None:
        """Seals and stops."""
        self.seal()

    def _start(self) -> BinaryIO:
        self._path = self.directory / f"segment-{time.time_ns():020d}-{os.getpid()}.open"
        file = self._path.open("xb", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(MAGIC)
        os.fsync(file.fileno())
        _sync_directory(self.directory)
        self._file, self._size, self._opened = file, len(MAGIC), time.monotonic()  # type: ignore[assignment]
        return file  # type: ignore[return-value]
