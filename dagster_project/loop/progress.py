"""How far the work is: bars on a terminal, lines in a file or a pipe, log lines in Dagster, nothing in tests."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
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

PER_CENT = 10
"""A line for every so many per cent where there is no terminal."""

_announcer: ContextVar[Callable[[str], None] | None] = ContextVar("announcer", default=None)
_watcher: ContextVar[Callable[[str], Report] | None] = ContextVar("watcher", default=None)


@contextmanager
def bars(console: Console) -> Iterator[Progress]:
    """Show every piece of work started inside: as a bar of its own on a terminal, else as lines that are written at
    once. An error before the first piece of work stays the only line.
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
        lines = None if console.is_terminal else _lines(title, console)

        def report(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)
            if lines is not None:
                lines(done, total, note)

        return report

    def announce_here(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    watcher, announcer = _watcher.set(watch), _announcer.set(announce_here)
    try:
        yield progress
    finally:
        _watcher.reset(watcher)
        _announcer.reset(announcer)
        if progress.live.is_started:
            progress.stop()


def _lines(title: str, console: Console) -> Report:
    """A line when the work begins, and one for every PER_CENT of it. Rich flushes each."""
    began, told = time.monotonic(), -1

    def line(text: str) -> None:
        console.print(f"{title}: {text}", soft_wrap=True, markup=False, highlight=False)

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal told
        reached = 100 * done // total // PER_CENT if total > 0 else 0
        if reached > told:
            told = reached
            line(", ".join(filter(None, [f"{done}/{total}", note, f"{time.monotonic() - began:.0f} s"])))

    line("started")
    return report


def announce(line: str, log: Callable[[str], None] | None = None) -> None:
    """Say one thing at once: inside `bars` where these are shown, elsewhere to `log`."""
    if (say := _announcer.get() or log) is not None:
        say(line)


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


FitReport = Callable[[float, Mapping[str, float]], None]


def fit_report(title: str, log: Callable[[str], None] | None) -> FitReport:
    """A bar for a fit, which tells how much of it is done (0 to 1) and its latest metrics."""
    report = track(title, log)
    return lambda done, m: report(round(100 * done), 100, f"loss {m.get('loss', math.nan):.3f}")


def report_from(report: Report, place: int, each: int, done: int) -> None:
    """Tell how far a run is that is one of two, each of `each` episodes."""
    report(place * each + done, 2 * each, "")
