"""The lake of one home: ingests the journal, and counts what has arrived."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dagster_project.loop.settings import Settings
from ingest.journal import segments as journal
from ingest.lake import IngestSummary, Lake
from ingest.storage import arrivals
from ingest.storage.arrivals import Arrived
from training.progress import track


class Landing:
    """The lake of a home. `log` receives progress lines."""

    def __init__(self, settings: Settings, log: Callable[[str], None] | None = None) -> None:
        self.settings, self.log = settings, log

    @property
    def lake_path(self) -> Path:
        return self.settings.lake

    @property
    def lake(self) -> Lake:
        """The lake. Raises UserError if there is none."""
        return Lake.open(self.lake_path)

    def ingest(self) -> IngestSummary:
        """Ingest the new journal segments into the raw tables."""
        lake = Lake.create(self.lake_path)
        report = track("reading the journal", self.log)
        total = len(journal.segments(lake.journal_path))
        seen: list[Path] = []

        def progress(path: Path, rows: int) -> None:
            seen.append(path)
            report(len(seen), total, f"{rows} rows")

        return lake.ingest(progress=progress)

    def raw_share(self, sql: str) -> float:
        """The result of a one-number query on the raw rows; 0 for no rows. Does not rebuild tables."""
        return float(self.lake.query(sql, build=False).column(0)[0].as_py() or 0.0)

    def land_again(self, from_ns: int, to_ns: int) -> IngestSummary:
        """Ingest the rows that arrived in [from_ns, to_ns) (Unix time in ns), also if they were ingested before."""
        return Lake.create(self.lake_path).ingest(again=True, arrived=(from_ns, to_ns))

    def arrived(self, from_ns: int = 0, to_ns: int = 2**63 - 1) -> Arrived:
        """Count the acknowledged rows that arrived in [from_ns, to_ns), and those in the lake; without expired rows."""
        return arrivals.count(self.lake.path, max(from_ns, self.lake.rows_from_ns), to_ns)
