"""Progress output: bars on a terminal, lines in a file or pipe, log lines in Dagster, nothing in tests."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

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
"""Called with (done, total, a short text such as the latest loss)."""

PER_CENT = 10
"""Without a terminal, one line per this many per cent,"""
EVERY_SECONDS = 60.0
"""and one after so many seconds, if the task has moved."""

_announcer: ContextVar[Callable[[str], None] | None] = ContextVar("announcer", default=None)
_watcher: ContextVar[Callable[[str], Report] | None] = ContextVar("watcher", default=None)


@contextmanager
def bars(console: Console, log: Path | None = None) -> Iterator[Progress]:
    """Show each task started in the body: as a bar on a terminal, else as lines that are flushed at once. If an error
    is raised before the first task, nothing else is printed. The lines are also appended to the file `log`, with the
    time (UTC), whether or not there is a terminal.
    """
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
        if console.is_terminal:
            progress.start()
        lines = _lines(title, say) if log is not None or not console.is_terminal else None

        def report(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)
            if lines is not None:
                lines(done, total, note)

        return report

    def announce_here(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
        append(line)

    def say(line: str) -> None:
        if not console.is_terminal:
            console.print(line, soft_wrap=True, markup=False, highlight=False)
        append(line)

    def append(line: str) -> None:
        if log is not None:
            with log.open("a") as file:
                file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}\n")

    watcher, announcer = _watcher.set(watch), _announcer.set(announce_here)
    try:
        yield progress
    finally:
        _watcher.reset(watcher)
        _announcer.reset(announcer)
        if progress.live.is_started:
            progress.stop()


def _lines(title: str, say: Callable[[str], None]) -> Report:
    """Say one line when the task starts, one per PER_CENT, and one after EVERY_SECONDS if the task has moved."""
    began = last = time.monotonic()
    told, shown = -1, -1

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal told, shown, last
        now, reached = time.monotonic(), 100 * done // total // PER_CENT if total > 0 else 0
        if reached > told or (done > shown and now - last >= EVERY_SECONDS):
            told, shown, last = max(told, reached), done, now
            say(f"{title}: " + ", ".join(filter(None, [f"{done}/{total}", note, f"{now - began:.0f} s"])))

    say(f"{title}: started")
    return report


def announce(line: str, log: Callable[[str], None] | None = None) -> None:
    """Print one line at once: through `bars` if it is active, else to `log`."""
    if (say := _announcer.get() or log) is not None:
        say(line)


def track(title: str, log: Callable[[str], None] | None = None, every_seconds: float = 10.0) -> Report:
    """A progress callback for one task: a bar inside `bars`, else lines to `log`, at most one per `every_seconds`."""
    watch = _watcher.get()
    if watch is not None:
        return watch(title)
    last = -math.inf  # monotonic time can be near zero after a boot

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if log is not None and (now - last >= every_seconds or done == total):
            last = now
            log(f"{title}: {done} of {total} {note}".rstrip())

    return report


FitReport = Callable[[float, Mapping[str, float]], None]


def fit_report(title: str, log: Callable[[str], None] | None = None) -> FitReport:
    """A progress bar for a fit. The fit reports the share done (0 to 1) and its latest metrics."""
    report = track(title, log)
    return lambda done, m: report(round(100 * done), 100, f"loss {m['loss']:.3f}" if "loss" in m else "")


def report_part(report: Report, before: int, total: int, done: int) -> None:
    """Report the progress of one part of a work, `before` which so much of the `total` was done."""
    report(before + done, total, "")
