"""What happens to the originals after tables were built: raw parts and journal segments kept, encrypted or dropped.

Encrypted parts (``encrypted``) replace the plain ones in the catalog; tables are built from them with the key. For
dropped parts, the hashes of the rows stay (a repetition still adds nothing) and so do the normalised rows
(``kept``). In both cases sealed journal segments that were fully read are removed, because the raw parts had all
their rows.
"""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ingest import session_ids
from ingest.journal import segments as journal
from ingest.storage import catalog as catalogs
from ingest.storage import encrypted, kept, landing
from ingest.storage.catalog import RAW, Catalog, Part


def read_table(root: Path, name: str, empty: pa.Table) -> pa.Table:
    """A whole raw table with the hour of its partition, as DuckDB reads the plain ones."""
    tables = []
    for part in catalogs.parts(root, name):
        table = encrypted.open_part(root, part).read()
        hour = pa.array([part.parent.name.removeprefix("hour=")] * table.num_rows, pa.string())
        tables.append(table.append_column("hour", hour))
    return pa.concat_tables(tables) if tables else empty


def put_away(root: Path, catalog: Catalog, mode: str) -> None:
    """Apply the lake's settings to the originals, after tables were built from all of them. The rows that the
    catalog and ``ingest.storage.kept`` have together stay the same. The caller holds the lake's lock."""
    if mode == "keep":
        return
    if mode == "encrypt":
        _encrypt(root, catalog)
    elif any(catalog.parts.values()):
        _drop(root, catalog)
    if catalog.replaced:
        catalogs.save(root, catalog)
        catalogs.remove_replaced(root, catalog)
    _drop_segments(root, catalog)


def _encrypt(root: Path, catalog: Catalog) -> None:
    for name in RAW:
        for part in [p for p in catalog.parts[name] if not encrypted.is_encrypted(p.path)]:
            new = Part(part.path + encrypted.SUFFIX, part.rows, part.digest)
            target = root / new.path
            catalogs.write_file(target, encrypted.sealed(root, target, (root / part.path).read_bytes()))
            catalogs.replace(catalog, name, [part], [new])


def _drop(root: Path, catalog: Catalog) -> None:
    """Commit the kept rows first, with the parts they came from; from then on those parts are gone, even after a
    kill."""
    keys = {}
    for name in RAW:
        if parts := catalog.parts[name]:
            found = [_keys(encrypted.open_part(root, root / p.path), name) for p in parts]
            keys[name] = pa.concat_tables(found)
    digest = catalogs.with_dropped(root, catalog.digest())
    kept.freeze(root, keys, [p.path for name in RAW for p in catalog.parts[name]], digest)
    catalogs.leave_dropped(root, catalog)


def _keys(part: pq.ParquetFile, name: str) -> pa.Table:
    """The ``kept.KEYS`` of a part's rows. A log record without a trace has its session in the place of the trace
    (``session_ids``), because retention keeps a session until its last record is old."""
    if name != "log_records":
        return part.read(kept.KEYS)
    rows = part.read([*kept.KEYS, "attributes", "body", "resource"])
    with duckdb.connect() as db:
        db.register("part", rows)
        trace = f"CASE WHEN replace(trace_id, '0', '') = '' THEN {session_ids.trace_sql('part')} END"
        query = f"SELECT row_hash, coalesce({trace}, trace_id) AS trace_id, arrived_at_ns FROM part"
        return db.sql(query).to_arrow_table().cast(rows.select(kept.KEYS).schema)


def _drop_segments(root: Path, catalog: Catalog) -> None:
    """Segments with requests that could not be understood stay."""
    gone = []
    for path in journal.segments(root / "journal", sealed_only=True):
        known = catalog.journal.get(path.stem)
        if known and not known.unreadable and landing.is_read(path, known):
            os.unlink(path)
            gone.append(path.stem)
    if gone:
        for stem in gone:
            del catalog.journal[stem]
        catalogs.save(root, catalog)
