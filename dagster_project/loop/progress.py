"""How far the work is, told to whoever watches: bars on a terminal, log lines in Dagster, nobody in tests."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

Report = Callable[[int, int, str], None]
"""Called with (done, of how many, what is worth seeing, such as the latest loss)."""

_watcher: ContextVar[Callable[[str], Report] | None] = ContextVar("watcher", default=None)


@contextmanager
def bars(console: Console) -> Iterator[Progress]:
    """Show every piece of work started inside as a bar of its own; an error before the first stays the only line."""
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}", table_column=None),
        BarColumn(bar_width=28, complete_style="cyan"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    progress = Progress(*columns, console=console, refresh_per_second=4)

    def watch(title: str) -> Report:
        task = progress.add_task(f"{title:<34}", total=None, note="")
        progress.start()

        def report(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        return report

    token = _watcher.set(watch)
    try:
        yield progress
    finally:
        _watcher.reset(token)
        if progress.tasks:
            progress.stop()


def track(title: str, log: Callable[[str], None] | None = None, every_seconds: float = 10.0) -> Report:
    """A reporter for one piece of work: a bar inside `bars`, elsewhere a line to `log` now and then."""
    watch = _watcher.get()
    if watch is not None:
        return watch(title)
    last = -math.inf  # the clock may have started a moment ago, with the machine

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if log is not None and (now - last >= every_seconds or done == total):
            last = now
            log(f"{title}: {done} of {total} {note}".rstrip())

    return report
