"""Run the parts of a normalisation: in this process, in processes of this machine, or on Spark (``spark``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import duckdb

from ingest import processes
from ingest.processes import Processes

MEMORY = "1GB"  # of DuckDB, which spills beyond it
# Of the tables: row groups small enough that all of DuckDB's threads have some to compress.
AS_PARQUET = "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 16384"
FLUSH_ROWS = 2048  # a thread; by default it gathers half a million, which would spill


class Runner(Protocol):
    """Runs the parts of a normalisation. All of its processes must see the lake's directory."""

    def shuffle(self, files: Sequence[Path], columns: Sequence[str], shards: int, into: Path) -> None:
        """Write the rows of Parquet files into directories ``shard=0`` and so on, all rows of a trace into one. The
        columns ``filename`` and ``file_row_number`` say where each row came from."""
        ...

    def each(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the function's result for each tuple of arguments, in order."""
        ...

    def query(self, db: duckdb.DuckDBPyConnection, sql: str, target: Path) -> int:
        """Write the result of a query over the views of ``db`` to a Parquet file. Return the number of rows."""
        ...


class LocalRunner:
    """Runs the parts with DuckDB and ``count`` processes of this machine; with 0, in this process."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: Processes | None = None

    def shuffle(self, files: Sequence[Path], columns: Sequence[str], shards: int, into: Path) -> None:
        with out_of_core(Path(f"{into}.spilled")) as db:
            db.execute(f"SET partitioned_write_flush_threshold = {FLUSH_ROWS}")
            db.execute(
                f"COPY (SELECT {', '.join(columns)}, filename, file_row_number, hash(trace_id) % {shards} AS shard"
                f" FROM read_parquet({listed(files)}, filename=true, file_row_number=true, hive_partitioning=false))"
                f" TO {quoted(into)} (FORMAT parquet, PARTITION_BY (shard), COMPRESSION snappy)"
            )

    def each(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        if self._pool is None:
            return [function(*a) for a in arguments]
        return [done.result() for done in [self._pool.submit(function, *a) for a in arguments]]

    def query(self, db: duckdb.DuckDBPyConnection, sql: str, target: Path) -> int:
        found = db.execute(f"COPY (\n{sql}\n) TO {quoted(target)} ({AS_PARQUET})").fetchone()
        return int(found[0]) if found else 0

    @contextmanager
    def running(self) -> Iterator[LocalRunner]:
        """Start the processes for the time of a ``with`` block."""
        if not self.count:
            yield self
            return
        with processes.some(self.count) as self._pool:
            yield self
        self._pool = None


@contextmanager
def out_of_core(spilled: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database in memory that spills to a directory beyond ``MEMORY``."""
    with duckdb.connect() as db:
        db.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = {quoted(spilled)}")
        db.execute("SET preserve_insertion_order = false")
        yield db


def quoted(path: Path | str) -> str:
    """Return a path as an SQL string."""
    return "'" + str(path).replace("'", "''") + "'"


def listed(paths: Sequence[Path]) -> str:
    """Return paths as an SQL list of strings."""
    return f"[{', '.join(map(quoted, paths))}]"
