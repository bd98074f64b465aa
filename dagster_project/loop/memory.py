"""How much memory a process and those it started held at most."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from dagster_project.loop.stages import read_json, write_json

MEMORY = "memory.json"
"""In the home directory: the most bytes that the demo was seen to hold, over all its runs."""
EVERY_SECONDS = 2.0


@contextmanager
def watched(home: Path) -> Iterator[None]:
    """Writes the peak of this process and its descendants into `home`, looked at every EVERY_SECONDS."""
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
    """What `watched` wrote; 0 where nothing was."""
    return int((read_json(home / MEMORY) or {}).get("peak_bytes", 0))


def resident() -> int:
    """Bytes resident now in this process and its descendants, shared pages counted once where the system tells."""
    this = psutil.Process()
    total = 0
    for process in (this, *this.children(recursive=True)):
        try:
            memory = process.memory_full_info()
        except psutil.Error:
            continue  # it ended meanwhile, or is none of ours
        total += getattr(memory, "pss", None) or memory.rss
    return total
