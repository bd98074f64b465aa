"""Divide raw rows into shards. A shard has all rows of its traces.

Spans arrive in the order of time, so most traces are in one stretch of the raw files and are read from there. Rows of
a trace that is in several stretches, or that has log records, are written aside and then shuffled by trace
(``runners.Runner.shuffle``). This costs as much as reading them once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingest.tables.runners import listed

SHARD_ROWS, SHARD_BYTES = 60_000, 192 << 20
FEWEST_SHARDS = 8  # if more than one is needed, so that all processes end at about the same time
BATCH = 512  # rows
FEWEST = 24  # stretches, so that all processes end at about the same time
MAX_APART = 0.25  # of all rows; if more must be written aside, all rows are shuffled


@dataclass
class Stretch:
    """Row groups of raw files in the order of arrival, and the traces (``apart``) that are not read from them."""

    pieces: list[tuple[Path, list[int]]] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    apart: list[str] = field(default_factory=list)

    def take(self, path: Path, row_group: int, rows: int, size: int) -> None:
        """Add a row group with its number of rows and bytes."""
        if not self.pieces or self.pieces[-1][0] != path:
            self.pieces.append((path, []))
        self.pieces[-1][1].append(row_group)
        self.rows += rows
        self.bytes += size

    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the order of arrival, in batches that fit into the processor's cache."""
        for path, row_groups in self.pieces:
            yield from pq.ParquetFile(path).iter_batches(BATCH, row_groups, list(columns), use_threads=False)

    def divided(self, columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
        """Yield the rows of each batch: those to read here, and those of the traces in ``apart``."""
        apart = pa.array(self.apart, pa.string())
        for batch in self.read(columns):
            is_apart = pc.is_in(batch["trace_id"], apart)
            if is_apart.true_count:
                yield batch.filter(pc.invert(is_apart)), batch.filter(is_apart)
            else:
                yield batch, batch.slice(0, 0)


def shards_for(rows: int, size: int) -> int:
    """Return how many shards are needed so that each fits into memory. ``size`` is in bytes."""
    needed = max(-(-rows // SHARD_ROWS), -(-size // SHARD_BYTES))
    return max(needed, FEWEST_SHARDS) if needed > 1 else 1


def extent(files: Iterable[Path]) -> tuple[int, int]:
    """Return the number of rows of Parquet files, and their bytes before compression."""
    sizes = [(rows, size) for path in files for _, rows, size in _row_groups(path)]
    return sum(rows for rows, _ in sizes), sum(size for _, size in sizes)


def _row_groups(path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield the number, the rows and the bytes of each row group of a file."""
    metadata = pq.read_metadata(path)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        yield number, group.num_rows, group.total_byte_size


def stretches(db: duckdb.DuckDBPyConnection, spans: list[Path], records: list[Path], shards: int) -> list[Stretch]:
    """Return stretches of the span files, not larger than one of ``shards`` shards unless a row group is. Return an
    empty list if too many rows would have to be written aside."""
    found = _cut(spans, max(shards, FEWEST))
    db.execute("CREATE TABLE lying (trace_id VARCHAR, stretch INTEGER, spans BIGINT)")
    db.register("traces", pa.Table.from_batches(map(_traces, range(len(found)), found), _TRACES))
    db.execute("INSERT INTO lying FROM traces")
    db.unregister("traces")
    told = f"SELECT trace_id FROM read_parquet({listed(records)}, hive_partitioning=false)" if records else "SELECT ''"
    db.execute(f"""
        CREATE TABLE apart AS SELECT trace_id, sum(spans)::BIGINT AS spans FROM lying
        GROUP BY trace_id HAVING count(*) > 1 OR trace_id IN ({told})
    """)
    told_rows = extent(records)[0]
    left = sum(spans for (spans,) in db.execute("SELECT spans FROM apart").fetchall())
    if left + told_rows > MAX_APART * (sum(s.rows for s in found) + told_rows):
        return []
    there = db.execute("SELECT stretch, trace_id FROM lying SEMI JOIN apart USING (trace_id)").fetchall()
    for number, trace_id in there:
        found[number].apart.append(trace_id)
    return found


_TRACES = pa.schema([("trace_id", pa.string()), ("stretch", pa.int32()), ("spans", pa.int64())])


def _traces(number: int, stretch: Stretch) -> pa.RecordBatch:
    """Return the traces of a stretch with the number of their spans in it."""
    counted = pa.Table.from_batches(stretch.read(["trace_id"]))["trace_id"].value_counts()
    numbers = np.full(len(counted), number, np.int32)
    here = pa.Array.from_buffers(pa.int32(), len(counted), [None, pa.py_buffer(numbers)])  # loads no pandas
    return pa.record_batch([counted.field("values"), here, counted.field("counts")], schema=_TRACES)


def _cut(files: list[Path], parts: int) -> list[Stretch]:
    rows, size = extent(files)
    out = [Stretch()]
    for path in files:
        for number, more_rows, more in _row_groups(path):
            now = out[-1]
            if now.pieces and (now.rows + more_rows > -(-rows // parts) or now.bytes + more > -(-size // parts)):
                out.append(Stretch())
            out[-1].take(path, number, more_rows, more)
    return [stretch for stretch in out if stretch.pieces]
