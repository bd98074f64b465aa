"""What arrived in a period: which journal segments hold it, and whether the lake has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ingest.formats import files, otlp
from ingest.journal import segments as journal
from ingest.storage import catalog as catalogs
from ingest.storage.catalog import RAW
from ingest.storage.known import HASH

BATCH = 4096
SLACK_NS = 600_000_000_000  # a request arrives before it is written, and clocks are corrected


@dataclass(frozen=True)
class Arrived:
    """Counts of one period: requests and distinct rows that the receiver acknowledged, and how many of these rows
    the lake has."""

    requests: int
    acknowledged: int
    landed: int


def segments(directory: Path, from_ns: int, to_ns: int) -> list[Path]:
    """The segments that may hold requests from a period. A segment's name gives its start; a sealed segment was last
    written at its end."""
    return [
        path
        for path in journal.segments(directory)
        if int(path.stem.split("-")[1]) - SLACK_NS < to_ns and (path.suffix == ".open" or _over(path) >= from_ns)
    ]


def _over(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns + SLACK_NS
    except OSError:
        return 0


def count(root: Path, from_ns: int, to_ns: int) -> Arrived:
    """Count a period's requests and rows one by one, without the code that ingest uses: an independent check."""
    requests = 0
    said: dict[str, list[np.ndarray]] = {name: [np.empty(0, HASH)] for name in RAW}
    for path in segments(root / "journal", from_ns, to_ns):
        rows = otlp.Rows()
        for entry in journal.read_entries(path):
            if from_ns <= entry.arrived_at_ns < to_ns:
                requests += 1
                files.add_entry(entry, rows, path.stem)
                if len(rows) >= BATCH:
                    _take(rows, said)
        _take(rows, said)
    acknowledged = landed = 0
    catalog = catalogs.read(root) or catalogs.Catalog()
    for name, found in said.items():
        different = np.unique(np.concatenate(found))
        acknowledged += len(different)
        if len(different):
            landed += len(different) - len(catalogs.hashes(root, catalog, name).add(different))
    return Arrived(requests, acknowledged, landed)


def _take(rows: otlp.Rows, said: dict[str, list[np.ndarray]]) -> None:
    taken = rows.take()
    for name in RAW:
        at = otlp.SCHEMAS[name].get_field_index("row_hash")
        if found := [row[at] for row in getattr(taken, name)]:
            said[name].append(np.unique(np.array(found, HASH)))
