"""Merge small raw parts into large sorted ones in one commit, so that a query for a time or a trace reads little.

Rows are sorted by the first start of their trace, then trace, then start. Row groups then cover short periods, a
trace lies in one piece, and Bloom filters show which row groups contain it. Only parts of the same hour of arrival
are merged. Encrypted parts stay as they are, because sorting spills to disk.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.formats import otlp
from ingest.journal.segments import sync_path
from ingest.storage import catalog as catalogs
from ingest.storage import encrypted
from ingest.storage.catalog import RAW, ROW_GROUP, Catalog, Part
from ingest.storage.known import as_array

PART_BYTES = 256 << 20  # target size of a part; parts below half of it are merged
LEVEL = 3  # zstd's default level, for data that is kept
MEMORY = "1GB"  # DuckDB sorts larger hours on the disk
ASIDE = "compacting"
START = {"spans": "start_ns", "log_records": "time_ns"}


@dataclass(frozen=True)
class Compacted:
    """Files and bytes of one raw table before and after. ``rows`` and ``encrypted`` parts did not change."""

    table: str
    rows: int
    parts_before: int
    parts_after: int
    bytes_before: int
    bytes_after: int
    encrypted: int


def compact(root: Path, catalog: Catalog, part_bytes: int = PART_BYTES) -> list[Compacted]:
    """Merge the small parts of every hour and commit; the caller holds the lake's lock."""
    before = {name: (len(catalog.parts[name]), size(root, catalog.parts[name])) for name in RAW}
    with sorter(root) as db:
        for name in RAW:
            for small in _small(root, catalog.parts[name], part_bytes // 2):
                new = merge(db, root, name, small, part_bytes)
                catalogs.replace(catalog, name, small, new)
                catalogs.save(root, catalog)
    catalogs.remove_replaced(root, catalog)
    return [
        Compacted(
            name, catalog.rows(name), before[name][0], len(parts), before[name][1], size(root, parts),
            sum(encrypted.is_encrypted(p.path) for p in parts),
        )  # fmt: skip
        for name, parts in catalog.parts.items()
    ]


def _small(root: Path, parts: list[Part], most: int) -> list[list[Part]]:
    """The parts worth merging, hour by hour."""
    by_hour: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        if not encrypted.is_encrypted(part.path) and (root / part.path).stat().st_size < most:
            by_hour[os.path.dirname(part.path)].append(part)
    return [small for small in by_hour.values() if len(small) > 1]


def merge(db: duckdb.DuckDBPyConnection, root: Path, name: str, parts: list[Part], part_bytes: int) -> list[Part]:
    """New parts with the rows of these, not committed yet. Raises ``RuntimeError`` if the rows differ."""
    new = write_sorted(db, root, name, parts, "", part_bytes)
    same = [(sum(p.rows for p in s), catalogs.digest_sum(p.digest for p in s)) for s in (parts, new)]
    if same[0] != same[1]:
        raise RuntimeError(f"compacting {name} would have changed its rows: {same[0]} before, {same[1]} after")
    return new


def size(root: Path, parts: list[Part]) -> int:
    """Bytes on disk."""
    return sum((root / p.path).stat().st_size for p in parts)


@contextmanager
def sorter(root: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection limited to ``MEMORY`` that spills into the lake."""
    aside = root / ASIDE
    shutil.rmtree(aside, ignore_errors=True)  # of a killed one
    with duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": str(aside), "threads": 2}) as db:
        yield db
    shutil.rmtree(aside, ignore_errors=True)


def listed(root: Path, parts: list[Part]) -> str:
    """The parts as a list of files in SQL."""
    return "[" + ", ".join("'" + str(root / p.path).replace("'", "''") + "'" for p in parts) + "]"


def write_sorted(
    db: duckdb.DuckDBPyConnection, root: Path, name: str, parts: list[Part], where: str, part_bytes: int = PART_BYTES
) -> list[Part]:
    """Writes the rows of parts of one hour that ``where`` (SQL) selects, sorted, as new parts."""
    schema, start, found = otlp.SCHEMAS[name], START[name], f"read_parquet({listed(root, parts)})"
    rows = db.sql(
        f"SELECT {', '.join(schema.names)} FROM {found} AS part JOIN (SELECT trace_id, min({start}) AS first"
        f" FROM {found} GROUP BY trace_id) USING (trace_id) {where} ORDER BY first, trace_id, {start}, row_hash"
    ).to_arrow_reader(ROW_GROUP)
    folder = root / Path(parts[0].path).parent
    out: list[Part] = []
    batches = iter(rows)
    while part := _write_part(root, folder, schema, batches, part_bytes):
        out.append(part)
    return out


def _write_part(
    root: Path, folder: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], part_bytes: int
) -> Part | None:
    """Write one part from the next batches; None at the end."""
    first = next(batches, None)
    if first is None:
        return None
    path = catalogs.part_path(folder)
    hashes = []
    with path.with_suffix(".tmp").open("wb") as file:
        with _parquet(file, schema) as writer:
            batch: pa.RecordBatch | None = first
            while batch is not None:
                table = pa.Table.from_batches([batch]).cast(schema)
                writer.write_table(table, ROW_GROUP)
                hashes.append(as_array(table["row_hash"]))
                batch = next(batches, None) if file.tell() < part_bytes else None
        catalogs.sync(file)
    os.replace(path.with_suffix(".tmp"), path)
    sync_path(folder)
    found = np.concatenate(hashes)
    return Part(str(path.relative_to(root)), len(found), catalogs.digest_of(found))


def _parquet(file: object, schema: pa.Schema) -> pq.ParquetWriter:
    bloom = {"trace_id": {"ndv": ROW_GROUP, "fpp": 0.01}}
    how = catalogs.COMPRESSION | {"compression_level": LEVEL}
    return pq.ParquetWriter(file, schema, **how, write_page_index=True, bloom_filter_options=bloom)
