"""Build the tables of ``sql/`` with DuckDB from the normalised rows, one Parquet file each."""

from __future__ import annotations

import os
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from ingest.formats.otlp import SCHEMAS, to_table
from ingest.privacy.conversations import Totals
from ingest.privacy.lakes import open_privacy
from ingest.storage import catalog, compaction, encrypted, kept, vault
from ingest.tables.normalise import COLUMNS, NORMALISED, Rows, normalise, rows_of
from ingest.tables.partitioned import normalise_in_parts
from ingest.tables.runners import LocalRunner, Runner, listed, quoted
from ingest.tables.shards import extent, shards_for

ORDER = ("messages", "tool_calls", "outcomes", "conversations", "transitions", "scenarios", "tool_profile")


def sql_text(name: str) -> str:
    """Return the SQL of one table. A wheel has ``sql/`` inside of ``ingest``; in a checkout they are siblings."""
    inside = files("ingest") / "sql"
    directory = inside if inside.is_dir() else Path(__file__).resolve().parents[2] / "sql"
    return (directory / f"{name}.sql").read_text()


def sql_digest() -> str:
    """Return a digest of all tables' definitions."""
    return xxhash.xxh3_64_hexdigest("".join(map(sql_text, ORDER)).encode())


def _raw_rows(root: Path, name: str) -> Rows:
    parts = (encrypted.open_part(root, part) for part in catalog.parts(root, name))
    return rows_of((b for part in parts for b in part.iter_batches(8192, columns=COLUMNS[name])), name)


def build(
    root: Path, into: Path | None = None, shards: int | None = None, runner: Runner | None = None
) -> dict[str, int]:
    """Normalise all raw rows and run the SQL of every table. Return the number of rows of each table. The files are
    written into the lake, or into ``into``. ``shards`` is by default as many as memory needs. Several shards are run by
    ``runner``; by default that is processes of this machine."""
    into = into or root
    raw = {name: catalog.parts(root, name) for name in SCHEMAS}
    shards = shards or _shards(root, raw, at_least=2 if runner else 1)
    if shards > 1:
        with nullcontext(runner) if runner else LocalRunner(min(shards, os.cpu_count() or 1)).running() as each:
            made = normalise_in_parts(root, raw, into / "normalised", shards, each)
        counts, kinds, unread, totals = made.dialect_counts, made.read_counts, made.unread_records, made.totals
    else:
        counts, kinds, unread, totals = _normalise_whole(root, into / "normalised")
    _report(totals, root, into)
    with compaction.sorter(root) as db:
        _write_counts(db, "dialect, spans", counts, into / "normalised" / "dialects.parquet")
        _write_counts(db, "kind, told", kinds, into / "normalised" / "read_counts.parquet")
        _write_counts(db, "event_name, records", unread, into / "normalised" / "unread_log_records.parquet")
        _views(db, into / "normalised")
        return {name: _make(db, runner or LocalRunner(0), into, name) for name in ORDER}


def _shards(root: Path, raw: dict[str, list[Path]], at_least: int) -> int:
    """Return how many shards fit into memory. It is 1 if raw rows are encrypted, because shards are written to the disk
    in plain text, or if raw rows were dropped."""
    files = [path for paths in raw.values() for path in paths]
    if any(map(encrypted.is_encrypted, files)) or kept.digest(root):
        return 1
    return max(at_least, shards_for(*extent(files)))


Counts = dict[str, int]


def _normalise_whole(root: Path, into: Path) -> tuple[Counts, Counts, Counts, Totals | None]:
    """Write the normalised tables in one piece. Return spans by dialect, items read by kind, log records that were not
    understood, and what privacy replaced."""
    privacy = open_privacy(root)
    made = normalise(_raw_rows(root, "spans"), _raw_rows(root, "log_records"), privacy)
    rows = kept.with_kept(root, made.rows)
    kept.add_counts(root, "dialects", made.dialect_counts)
    kept.add_counts(root, "read_counts", made.read_counts)
    for name, schema in NORMALISED.items():
        width = len(schema)  # an older version kept rows without the last columns
        whole = [row if len(row) == width else (*row, *[None] * (width - len(row))) for row in rows[name]]
        _write(to_table(whole, schema), into / f"{name}.parquet")
    return made.dialect_counts, made.read_counts, made.unread_records, privacy.totals() if privacy else None


def _write_counts(db: duckdb.DuckDBPyConnection, columns: str, counts: dict[str, int], target: Path) -> None:
    """Write a table of names and numbers."""
    counted = [list(counts), list(counts.values())]
    db.execute(
        f"CREATE TABLE counted ({columns.replace(',', ' VARCHAR,')} BIGINT);"
        " INSERT INTO counted SELECT unnest(?::VARCHAR[]), unnest(?::BIGINT[])",
        counted,
    )
    aside = target.with_suffix(".tmp")
    db.execute(f"COPY counted TO {quoted(aside)} (FORMAT parquet, COMPRESSION zstd); DROP TABLE counted")
    os.replace(aside, target)


def _report(totals: Totals | None, root: Path, into: Path) -> None:
    told = {"enabled": True, **totals.report()} if totals else {"enabled": False}
    told = kept.with_kept_report(root, told)
    target = into / "tables" / kept.REPORT
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(".tmp")
    aside.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2))
    os.replace(aside, target)


def _make(db: duckdb.DuckDBPyConnection, runner: Runner, root: Path, name: str) -> int:
    target = root / "tables" / f"{name}.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(".tmp")
    rows = runner.query(db, sql_text(name), aside)
    os.replace(aside, target)
    db.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet({quoted(target)})")
    return rows


def _write(table: pa.Table, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(".tmp")
    pq.write_table(table, aside, compression="zstd")
    os.replace(aside, target)


def _raw_views(db: duckdb.DuckDBPyConnection, root: Path) -> None:
    for name, schema in SCHEMAS.items():
        parts = catalog.parts(root, name)
        if not parts or any(map(encrypted.is_encrypted, parts)):
            db.register(name, vault.read_table(root, name, to_table([], schema)))
        else:
            db.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet({listed(parts)}, hive_partitioning=true)")


def _views(db: duckdb.DuckDBPyConnection, directory: Path) -> None:
    for path in directory.glob("*.parquet"):
        db.execute(f"CREATE VIEW {path.stem} AS SELECT * FROM read_parquet({quoted(path)})")


def views(db: duckdb.DuckDBPyConnection, root: Path, raw: bool = True) -> None:
    """Create a view for every normalised and derived table of a lake, and with ``raw`` for the raw tables."""
    if raw:
        _raw_views(db, root)
    _views(db, root / "normalised")
    _views(db, root / "tables")


def connect(root: Path, raw: bool = True) -> duckdb.DuckDBPyConnection:
    """Return a connection with a view for every table of a lake (see ``views``)."""
    db = duckdb.connect()
    views(db, root, raw)
    return db
