"""Write whole blocks from memory to disk, past the page cache where the file system allows it.

A direct synchronous write takes less time than a write and an fdatasync, and much less CPU, because nothing is
copied (``benchmarks.bench_receiver`` prints both limits). It requires that memory, offset and length are multiples
of the disk's sector.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from collections import defaultdict

BLOCK = 4096  # bytes; sectors of disks have at most this size
CHUNK_BYTES = 4 << 20
# capacity of bodies grows in these steps: CPython moves a bytearray cut to less than half of its capacity
ROOM = 32 << 10
_IOV_MAX = 1024  # Linux accepts no more buffers in one call
_SYNCS: int = getattr(os, "RWF_DSYNC", 0)
_DIRECT: int = getattr(os, "O_DIRECT", 0)


def up(at: int, to: int = BLOCK) -> int:
    """Round up to the next multiple of ``to``."""
    return -(-at // to) * to


def aligned(length: int, room: int = 0) -> bytearray:
    """Return bytes that begin at a block's boundary, with capacity for ``room``.

    CPython does not move a bytearray when its front is cut off. If it ever does, ``begins_at_block`` returns False
    and the bytes are copied once more.
    """
    out = bytearray(max(length, room) + BLOCK)
    del out[: -_address(out) % BLOCK]
    del out[length:]
    return out


class Bodies:
    """Buffers for request bodies that are used again, because new memory must be cleared each time."""

    KEEP_BYTES = 16 << 20

    def __init__(self) -> None:
        self._free: defaultdict[int, list[bytearray]] = defaultdict(list)  # by capacity
        self._bytes = 0

    def take(self, length: int) -> bytearray:
        """Return a buffer that begins at a block's boundary; its content is undefined."""
        room = _room(length)
        if not self._free[room]:
            return aligned(length, room)
        body = self._free[room].pop()
        self._bytes -= room
        try:
            body.append(0)  # raises BufferError if a memoryview of it still exists
            body += bytes(max(0, length - len(body)))
            del body[length:]
        except BufferError:
            return aligned(length, room)
        return body if begins_at_block(body) else aligned(length, room)

    def give_back(self, body: bytearray) -> None:
        """Return a buffer for reuse."""
        room = _room(len(body))
        if self._bytes + room > self.KEEP_BYTES:  # request sizes may have changed
            self._free.clear()
            self._bytes = 0
        self._free[room].append(body)
        self._bytes += room


def _room(length: int) -> int:
    return up(length, ROOM)


def begins_at_block(part: bytearray) -> bool:
    """Whether the disk can take these bytes without a copy."""
    return _address(part) % BLOCK == 0


def _address(of: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(of))


class Stage:
    """The bytes of the next write, in whole blocks: small parts are copied into its own memory, large parts are
    referenced."""

    def __init__(self) -> None:
        self.size = 0  # bytes
        self._pieces: list[memoryview] = []
        self._chunk = memoryview(mmap.mmap(-1, CHUNK_BYTES))
        self._first = self._chunk
        self._from = self._to = 0  # the part of the chunk that is not a piece yet

    def add(self, part: bytes | bytearray | memoryview) -> None:
        """Append a copy of a part."""
        self.size += len(part)
        while len(part) > CHUNK_BYTES - self._to:
            room = CHUNK_BYTES - self._to
            self._chunk[self._to :] = part[:room]
            part = memoryview(part)[room:]
            self._pieces.append(self._chunk[self._from :])
            self._chunk = memoryview(mmap.mmap(-1, CHUNK_BYTES))
            self._from = self._to = 0
        self._chunk[self._to : self._to + len(part)] = part
        self._to += len(part)

    def add_where_it_lies(self, part: bytearray) -> None:
        """Append a part without a copy. It begins at a block's boundary, as must the stage's end, and must not
        change before it is written. Its last bytes, less than a block, are copied."""
        whole = len(part) // BLOCK * BLOCK
        view = memoryview(part)
        self._end_piece()
        self._pieces.append(view[:whole])
        self.size += whole
        self.add(view[whole:])

    def align(self, to: int, short_of: int = 0) -> None:
        """Append zeros up to the given distance before the next multiple of ``to``."""
        self.add(bytes(-(self.size + short_of) % to))

    def pieces(self) -> list[memoryview]:
        """The appended bytes, in whole blocks."""
        self.align(BLOCK)
        self._end_piece()
        return self._pieces

    def _end_piece(self) -> None:
        if self._to > self._from:
            self._pieces.append(self._chunk[self._from : self._to])
            self._from = self._to

    def clear(self) -> None:
        """Empty the stage and release memory that a rare large request needed."""
        self._pieces, self._chunk = [], self._first
        self.size = self._from = self._to = 0


def write_durably(fd: int, pieces: list[memoryview], at: int) -> None:
    """Write at an offset and return when all is on disk, with a single system call where one exists."""
    global _SYNCS
    pieces = list(pieces)
    while pieces:
        try:
            done = os.pwritev(fd, pieces[:_IOV_MAX], at, _SYNCS)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP and _SYNCS:  # some file systems do not support it
                _SYNCS = 0
                continue
            if error.errno == errno.EINVAL and use_cache(fd, True):
                continue  # other alignment needed, or the block is half written
            raise
        at += done
        while pieces and done >= len(pieces[0]):
            done -= len(pieces.pop(0))
        if done:
            pieces[0] = pieces[0][done:]
    if not _SYNCS:
        os.fdatasync(fd)


def use_cache(fd: int, on: bool) -> bool:
    """Switch a file's page cache on or off; return whether the setting was different and could be changed."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    wanted = flags & ~_DIRECT if on else flags | _DIRECT
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, wanted)
    except OSError:  # not on this file system
        return False
    return wanted != flags
