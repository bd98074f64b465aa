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

from ingest import catalog, encrypted, kept, vault
from ingest.normalise import NORMALISED, normalise
from ingest.otlp import SCHEMAS, to_table
from ingest.privacy import Privacy, open_privacy

SQL = Path(__file__).resolve().parents[1] / "sql"
ORDER = ("messages", "tool_calls", "outcomes", "conversations", "transitions", "scenarios", "tool_profile")
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
    for part in catalog.parts(root, name):
        for batch in encrypted.open_part(root, part).iter_batches(8192, columns=_COLUMNS[name]):
            yield from batch.to_pylist()


def build(root: Path, into: Path | None = None) -> dict[str, int]:
    """Normalises all raw rows and runs every table's SQL; returns each table's number of rows. The files go into
    the lake, or into another directory."""
    into = into or root
    privacy = open_privacy(root)
    made = normalise(_raw_rows(root, "spans"), _raw_rows(root, "log_records"), privacy)
    _report(privacy, root, into)
    rows = kept.with_kept(root, made.rows)
    kept.add_counts(root, made.dialect_counts)
    for name, schema in NORMALISED.items():
        _write(to_table(rows[name], schema), into / "normalised" / f"{name}.parquet")
    _write(
        pa.table({"dialect": list(made.dialect_counts), "spans": list(made.dialect_counts.values())},
                 schema=pa.schema([("dialect", pa.string()), ("spans", pa.int64())])),
        into / "normalised" / "dialects.parquet",
    )  # fmt: skip
    with duckdb.connect() as db:
        _views(db, into / "normalised")
        return {name: _make(db, into, name) for name in ORDER}


def _report(privacy: Privacy | None, root: Path, into: Path) -> None:
    told = {"enabled": True, **privacy.report()} if privacy else {"enabled": False}
    told = kept.with_kept_report(root, told)
    target = into / "tables" / kept.REPORT
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


def _raw_views(db: duckdb.DuckDBPyConnection, root: Path) -> None:
    for name, schema in SCHEMAS.items():
        parts = catalog.parts(root, name)
        if not parts or any(map(encrypted.is_encrypted, parts)):
            db.register(name, vault.read_table(root, name, to_table([], schema)))
        else:
            listed = ", ".join(f"'{_quoted(path)}'" for path in parts)
            db.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{listed}], hive_partitioning=true)")


def _views(db: duckdb.DuckDBPyConnection, directory: Path) -> None:
    for path in directory.glob("*.parquet"):
        db.execute(f"CREATE VIEW {path.stem} AS SELECT * FROM read_parquet('{_quoted(path)}')")


def views(db: duckdb.DuckDBPyConnection, root: Path, raw: bool = True) -> None:
    """Lets a connection see every raw (if asked for), normalised and derived table of a lake by its name."""
    if raw:
        _raw_views(db, root)
    _views(db, root / "normalised")
    _views(db, root / "tables")


def connect(root: Path, raw: bool = True) -> duckdb.DuckDBPyConnection:
    """A connection that sees every raw (if asked for), normalised and derived table of a lake by its name."""
    db = duckdb.connect()
    views(db, root, raw)
    return db
