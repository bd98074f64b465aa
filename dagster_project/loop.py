"""One pass through the loop, a method a stage. Dagster's assets and the demo call these and nothing else.

A stage's directory lies in the home directory; its inputs are the fingerprints of the stages before it and
the settings that it uses, so a stage is done again exactly when something that it depends on has changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from dagster_project.progress import track
from dagster_project.settings import Settings
from dagster_project.stages import fingerprint
from ingest import files, journal, otlp
from ingest.lake import IngestSummary, Lake


class Loop:
    """The loop in one home directory. `log` is told, line by line, how far long work is."""

    def __init__(self, settings: Settings, log: Callable[[str], None] | None = None) -> None:
        self.settings, self.log = settings, log

    @property
    def lake_path(self) -> Path:
        return self.settings.lake

    @property
    def lake(self) -> Lake:
        """The lake. Raises UserError where there is none."""
        return Lake.open(self.lake_path)

    # ----- telemetry

    def ingest(self) -> IngestSummary:
        """What the journal holds, into raw tables. What was read before adds nothing."""
        lake = Lake.create(self.lake_path)
        report = track("reading the journal", self.log)
        total = len(journal.segments(lake.journal_path))
        seen: list[Path] = []

        def progress(path: Path, rows: int) -> None:
            seen.append(path)
            report(len(seen), total, f"{rows} rows")

        return lake.ingest(progress=progress)

    def build_tables(self) -> dict[str, int]:
        """The tables of sql/; returns how many rows each has."""
        return self.lake.build_tables()

    def share(self, sql: str) -> float:
        """The answer to a query for one number; no rows count as 0."""
        return float(self.lake.query(sql).column(0)[0].as_py() or 0.0)

    def acknowledged_and_landed(self) -> tuple[int, int]:
        """How many different rows the receiver said yes to, and how many of those the lake has."""
        acknowledged: dict[str, set[bytes]] = {"spans": set(), "log_records": set()}
        for path in journal.segments(self.lake.journal_path):
            for rows in files.read(path, time.time_ns()):
                for name, hashes in acknowledged.items():
                    at = otlp.SCHEMAS[name].get_field_index("row_hash")
                    hashes.update(row[at] for row in getattr(rows, name))
        landed = 0
        for name, hashes in acknowledged.items():
            have = set(self.lake.query(f"SELECT row_hash FROM {name}")["row_hash"].to_pylist())
            landed += len(hashes & have)
        return sum(map(len, acknowledged.values())), landed

    def data(self) -> str:
        """A name for what the tables hold: equal raw parts, mapping and SQL have equal names."""
        lake = self.lake
        lake.build_tables()
        return fingerprint(json.loads((lake.path / "tables" / "state.json").read_text())["of"])
