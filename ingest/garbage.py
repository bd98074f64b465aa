"""Settings of Python's garbage collector and of the C library's allocator for bulk work."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def not_collected() -> Iterator[None]:
    """A context without cyclic garbage collection. Bulk work makes millions of objects and no cycles, and the collector
    would walk all of them repeatedly; reference counts free what is dropped (saves a sixth of the time)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def keep_freed_memory() -> None:
    """Let this process keep up to 64 MiB of freed memory. Otherwise glibc maps and unmaps memory for each request of
    hundreds of kilobytes, above all for gRPC's."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # other C libraries lack it
        m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
        mallopt(m_mmap_threshold, 16 << 20)
        mallopt(m_trim_threshold, 64 << 20)
        mallopt(m_top_pad, 16 << 20)
