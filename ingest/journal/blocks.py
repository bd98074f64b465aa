"""Whole blocks from memory to the disk, past the page cache where the file system lets us.

An append that is on the disk when it returns takes less time than a write and an fdatasync, and much less of the CPU:
nothing is copied (``benchmarks.bench_receiver`` has both limits). In return memory, offset and length must be
multiples of the disk's sector.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from collections import defaultdict

BLOCK = 4096  # bytes; disks have sectors of so many or fewer
CHUNK_BYTES = 4 << 20
ROOM = 32 << 10  # for bodies in steps of so much: what is cut to less than half of its room, CPython moves
_IOV_MAX = 1024  # Linux takes no more buffers at once
_SYNCS: int = getattr(os, "RWF_DSYNC", 0)
_DIRECT: int = getattr(os, "O_DIRECT", 0)


def up(at: int, to: int = BLOCK) -> int:
    """The next multiple of ``to``."""
    return -(-at // to) * to


def aligned(length: int, room: int = 0) -> bytearray:
    """So many bytes that begin at a block's boundary: CPython leaves the rest where it is when a bytearray's front is
    cut off. Should it ever move it, ``begins_at_block`` tells, and the bytes are copied once more. There is room behind
    them to make them as many as ``room``."""
    out = bytearray(max(length, room) + BLOCK)
    del out[: -_address(out) % BLOCK]
    del out[length:]
    return out


class Bodies:
    """Memory for the bodies of requests, used again and again: what is new has to be cleared each time."""

    KEEP_BYTES = 16 << 20

    def __init__(self) -> None:
        self._free: defaultdict[int, list[bytearray]] = defaultdict(list)  # by room
        self._bytes = 0

    def take(self, length: int) -> bytearray:
        """So many bytes that begin at a block's boundary; what they are is of no account."""
        room = _room(length)
        if not self._free[room]:
            return aligned(length, room)
        body = self._free[room].pop()
        self._bytes -= room
        try:
            body.append(0)  # there is room; it tells whether somebody looks at it still, whatever its length is to be
            body += bytes(max(0, length - len(body)))
            del body[length:]
        except BufferError:
            return aligned(length, room)
        return body if begins_at_block(body) else aligned(length, room)

    def give_back(self, body: bytearray) -> None:
        """The other end of ``take``."""
        room = _room(len(body))
        if self._bytes + room > self.KEEP_BYTES:  # requests have another length by now, perhaps
            self._free.clear()
            self._bytes = 0
        self._free[room].append(body)
        self._bytes += room


def _room(length: int) -> int:
    return up(length, ROOM)


def begins_at_block(part: bytearray) -> bool:
    """Whether the disk could take these bytes from where they are."""
    return _address(part) % BLOCK == 0


def _address(of: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(of))


class Stage:
    """What is to be written at once, in whole blocks: memory of its own, to which small things are copied, and large
    things where they lie."""

    def __init__(self) -> None:
        self.size = 0  # bytes
        self._pieces: list[memoryview] = []
        self._chunk = memoryview(mmap.mmap(-1, CHUNK_BYTES))
        self._first = self._chunk
        self._from = self._to = 0  # what of the chunk is no piece yet

    def add(self, part: bytes | bytearray | memoryview) -> None:
        """Copies a part behind what is there."""
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
        """Adds a part that begins at a block's boundary where the stage ends at one; it must not change until it is
        written. Its last bytes, short of a block, are copied."""
        whole = len(part) // BLOCK * BLOCK
        view = memoryview(part)
        self._end_piece()
        self._pieces.append(view[:whole])
        self.size += whole
        self.add(view[whole:])

    def align(self, to: int, short_of: int = 0) -> None:
        """Adds zeros up to so many bytes before the next multiple of ``to``."""
        self.add(bytes(-(self.size + short_of) % to))

    def pieces(self) -> list[memoryview]:
        """What was added, in whole blocks."""
        self.align(BLOCK)
        self._end_piece()
        return self._pieces

    def _end_piece(self) -> None:
        if self._to > self._from:
            self._pieces.append(self._chunk[self._from : self._to])
            self._from = self._to

    def clear(self) -> None:
        """Empties it; what a rare large request made it take is given back."""
        self._pieces, self._chunk = [], self._first
        self.size = self._from = self._to = 0


def write_durably(fd: int, pieces: list[memoryview], at: int) -> None:
    """Writes at an offset and returns when all is on the disk: by one system call, where there is one for both."""
    global _SYNCS
    pieces = list(pieces)
    while pieces:
        try:
            done = os.pwritev(fd, pieces[:_IOV_MAX], at, _SYNCS)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP and _SYNCS:  # some file systems do not know it
                _SYNCS = 0
                continue
            if error.errno == errno.EINVAL and use_cache(fd, True):
                continue  # they want other boundaries, or go on in a block that is half written
            raise
        at += done
        while pieces and done >= len(pieces[0]):
            done -= len(pieces.pop(0))
        if done:
            pieces[0] = pieces[0][done:]
    if not _SYNCS:
        os.fdatasync(fd)


def use_cache(fd: int, on: bool) -> bool:
    """Writes a file through the page cache from now on, or past it; whether that was otherwise and could be changed."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    wanted = flags & ~_DIRECT if on else flags | _DIRECT
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, wanted)
    except OSError:  # not on this file system
        return False
    return wanted != flags
