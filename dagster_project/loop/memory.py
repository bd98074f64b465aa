"""Measures the peak memory of a process and its descendants."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from dagster_project.loop.stages import read_json, write_json

MEMORY = "memory.json"
"""File in the home directory with the peak memory in bytes, over all runs of the home."""
EVERY_SECONDS = 2.0


@contextmanager
def watched(home: Path) -> Iterator[None]:
    """Record the peak memory of this process and its descendants in `home`, sampled every EVERY_SECONDS."""
    over = threading.Event()

    def watch() -> None:
        peak = peak_bytes(home)
        while not over.wait(EVERY_SECONDS):
            if (now := resident()) > peak:
                peak = now
                write_json(home / MEMORY, {"peak_bytes": peak})

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def peak_bytes(home: Path) -> int:
    """The recorded peak in bytes; 0 if none is recorded."""
    return int((read_json(home / MEMORY) or {}).get("peak_bytes", 0))


def resident() -> int:
    """Resident bytes of this process and its descendants. Shared pages count once where the system reports PSS."""
    this = psutil.Process()
    total = 0
    for process in (this, *this.children(recursive=True)):
        try:
            memory = process.memory_full_info()
        except psutil.Error:
            continue  # the process has ended, or belongs to another user
        total += getattr(memory, "pss", None) or memory.rss
    return total
