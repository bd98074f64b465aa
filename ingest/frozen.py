"""The tables of a lake as they were at one time, which later builds do not change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from ingest.errors import UserError
from ingest.records import Conversation, Scenario, Transition
from ingest.storage.reading import read_conversations, read_scenarios, read_transitions
from ingest.tables import build as tables


class FrozenTables:
    """What `Lake.freeze` put into a directory. Reading builds nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def conversations(self) -> list[Conversation]:
        """Every conversation, oldest first."""
        with self._open() as db:
            return read_conversations(db)

    def transitions(self) -> list[Transition]:
        """Every answered tool call, by conversation start and call order."""
        with self._open() as db:
            return read_transitions(db)

    def scenarios(self) -> list[Scenario]:
        """Where episodes may start, oldest first."""
        with self._open() as db:
            return read_scenarios(db)

    def query(self, sql: str) -> pa.Table:
        """The answer to a query over the tables (not the raw rows), in DuckDB's SQL. Raises UserError."""
        with self._open() as db:
            try:
                return db.sql(sql).to_arrow_table()
            except duckdb.Error as error:
                raise UserError(f"the query failed: {str(error).splitlines()[0]}") from None

    @contextmanager
    def _open(self) -> Iterator[duckdb.DuckDBPyConnection]:
        if not (self.path / "tables").is_dir():
            raise UserError(f"{self.path} holds no tables; build them first")
        with tables.connect(self.path, raw=False) as db:
            yield db
