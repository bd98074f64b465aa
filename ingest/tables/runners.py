"""Where the parts of a normalisation run: in this process, in processes of this machine, or on Spark (``spark``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import duckdb

from ingest import processes
from ingest.processes import Processes

MEMORY = "1GB"  # of DuckDB; beyond it, it spills
# Of the tables: row groups small enough that all of DuckDB's threads have some to compress.
AS_PARQUET = "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 16384"
FLUSH_ROWS = 2048  # a thread; by default it gathers half a million, which would spill


class Runner(Protocol):
    """What carries out the parts. All of its processes see the lake's directory."""

    def shuffle(self, files: Sequence[Path], columns: Sequence[str], shards: int, into: Path) -> None:
        """Writes the rows of Parquet files into directories ``shard=0`` and so on, each trace's into one, with where
        each came from in the columns ``filename`` and ``file_row_number``."""
        ...

    def each(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The function's results for each of some tuples of arguments, in their order."""
        ...

    def query(self, db: duckdb.DuckDBPyConnection, sql: str, target: Path) -> int:
        """Writes the answer to a query over the views of ``db`` to a Parquet file; returns the number of rows."""
        ...


class LocalRunner:
    """This machine: DuckDB, and some processes, none of which means this one."""

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
        """With its processes started; they end with the block."""
        if not self.count:
            yield self
            return
        with processes.some(self.count) as self._pool:
            yield self
        self._pool = None


@contextmanager
def out_of_core(spilled: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database of its own that writes to a directory what does not fit into ``MEMORY``."""
    with duckdb.connect() as db:
        db.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = {quoted(spilled)}")
        db.execute("SET preserve_insertion_order = false")
        yield db


def quoted(path: Path | str) -> str:
    """A path as a string in SQL."""
    return "'" + str(path).replace("'", "''") + "'"


def listed(paths: Sequence[Path]) -> str:
    """Paths as a list of strings in SQL."""
    return f"[{', '.join(map(quoted, paths))}]"
