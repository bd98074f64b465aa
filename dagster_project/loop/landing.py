"""Telemetry of one home: from the journal into the raw tables, and what has arrived."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dagster_project.loop.progress import track
from dagster_project.loop.settings import Settings
from ingest.journal import segments as journal
from ingest.lake import IngestSummary, Lake
from ingest.storage import arrivals
from ingest.storage.arrivals import Arrived


class Landing:
    """The lake of a home. `log` receives progress, line by line."""

    def __init__(self, settings: Settings, log: Callable[[str], None] | None = None) -> None:
        self.settings, self.log = settings, log

    @property
    def lake_path(self) -> Path:
        return self.settings.lake

    @property
    def lake(self) -> Lake:
        """The lake. Raises UserError where there is none."""
        return Lake.open(self.lake_path)

    def ingest(self) -> IngestSummary:
        """What is new in the journal, into raw tables."""
        lake = Lake.create(self.lake_path)
        report = track("reading the journal", self.log)
        total = len(journal.segments(lake.journal_path))
        seen: list[Path] = []

        def progress(path: Path, rows: int) -> None:
            seen.append(path)
            report(len(seen), total, f"{rows} rows")

        return lake.ingest(progress=progress)

    def raw_share(self, sql: str) -> float:
        """The answer to a query for one number about the raw rows; no rows count as 0. No table is rebuilt for it."""
        return float(self.lake.query(sql, build=False).column(0)[0].as_py() or 0.0)

    def land_again(self, from_ns: int, to_ns: int) -> IngestSummary:
        """What arrived in a stretch of time, into the raw tables, whether it was read before or not."""
        return Lake.create(self.lake_path).ingest(again=True, arrived=(from_ns, to_ns))

    def arrived(self, from_ns: int = 0, to_ns: int = 2**63 - 1) -> Arrived:
        """What the receiver said yes to in a stretch of time, and how much of it the lake has. Rows that have expired
        do not count."""
        return arrivals.count(self.lake.path, max(from_ns, self.lake.rows_from_ns), to_ns)
