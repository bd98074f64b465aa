"""The tables of ``sql/``, made with DuckDB from the normalised rows, one Parquet file each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from ingest.normalise import NORMALISED, normalise
from ingest.otlp import SCHEMAS, to_table
from ingest.privacy import Privacy, open_privacy

SQL = Path(__file__).resolve().parents[1] / "sql"
ORDER = ("messages", "tool_calls", "outcomes", "conversations", "transitions", "scenarios", "tool_profile")
PRIVACY_REPORT = "privacy.json"
_COLUMNS = {
    "spans": [
        n for n in SCHEMAS["spans"].names if n not in ("row_hash", "oddities", "trace_state")
    ],
    "log_records": [n for n in SCHEMAS["log_records"].names if n not in ("row_hash", "source", "oddities")],
}


def sql_text(name: str) -> str:
    """The definition of one table."""
    return (SQL / f"{name}.sql").read_text()


def sql_digest() -> str:
    """Changes when any table's definition does."""
    return xxhash.xxh3_64_hexdigest("".join(map(sql_text, ORDER)).encode())


def _raw_rows(root: Path, name: str) -> Iterator[dict[str, Any]]:
    for part in sorted((root / "raw" / name).rglob("*.parquet")):
        for batch in pq.ParquetFile(part).iter_batches(8192, columns=_COLUMNS[name]):
            yield from batch.to_pylist()


def build(root: Path) -> dict[str, int]:
    """Normalises all raw rows and runs every table's SQL; returns each table's number of rows."""
    privacy = open_privacy(root)
    made = normalise(_raw_rows(root, "spans"), _raw_rows(root, "log_records"), privacy)
    _report(privacy, root)
    for name, schema in NORMALISED.items():
        _write(to_table(made.rows[name], schema), root / "normalised" / f"{name}.parquet")
    _write(
        pa.table({"dialect": list(made.dialect_counts), "spans": list(made.dialect_counts.values())},
                 schema=pa.schema([("dialect", pa.string()), ("spans", pa.int64())])),
        root / "normalised" / "dialects.parquet",
    )  # fmt: skip
    with duckdb.connect() as db:
        _views(db, root, tables=False)
        return {name: _make(db, root, name) for name in ORDER}


def _report(privacy: Privacy | None, root: Path) -> None:
    told = {"enabled": True, **privacy.report()} if privacy else {"enabled": False}
    target = root / "tables" / PRIVACY_REPORT
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(".tmp")
    aside.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2))
    os.replace(aside, target)


def _make(db: duckdb.DuckDBPyConnection, root: Path, name: str) -> int:
    table = db.sql(sql_text(name)).to_arrow_table()
    target = root / "tables" / f"{name}.parquet"
    _write(table, target)
    db.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{_quoted(target)}')")
    return table.num_rows


def _write(table: pa.Table, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(".tmp")
    pq.write_table(table, aside, compression="zstd")
    os.replace(aside, target)


def _quoted(path: Path | str) -> str:
    return str(path).replace("'", "''")


def _views(db: duckdb.DuckDBPyConnection, root: Path, tables: bool) -> None:
    for name, schema in SCHEMAS.items():
        glob = root / "raw" / name / "*" / "*.parquet"
        if any((root / "raw" / name).rglob("*.parquet")):
            db.execute(
                f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{_quoted(glob)}', hive_partitioning=true)"
            )
        else:
            db.register(name, to_table([], schema))
    found = [(root / "normalised").glob("*.parquet"), (root / "tables").glob("*.parquet") if tables else []]
    for path in (p for group in found for p in group):
        db.execute(f"CREATE VIEW {path.stem} AS SELECT * FROM read_parquet('{_quoted(path)}')")


def connect(root: Path) -> duckdb.DuckDBPyConnection:
    """A connection that sees every raw, normalised and derived table of a lake by its name."""
    db = duckdb.connect()
    _views(db, root, tables=True)
    return db
