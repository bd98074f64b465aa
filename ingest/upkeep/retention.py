"""Drop raw rows that arrived long ago, and the journal segments that held them; conversations go as a whole.

A row stays while it is young, or while it belongs to a trace of a conversation with a young row. Conversations that
share a trace stay together. Dropped rows stay dropped: the manifest holds the time since which rows count
(``rows_from_ns``), so reading an old segment again does not restore them. Rows that were kept after their raw rows
were dropped (``ingest.storage.kept``) expire by the arrival of their raw rows.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from ingest import session_ids
from ingest.journal import segments as journal
from ingest.storage import catalog as catalogs
from ingest.storage import compaction, encrypted, landing
from ingest.storage import kept as kept_rows
from ingest.storage.catalog import RAW, Catalog, Part
from ingest.storage.known import as_array
from ingest.tables import build as tables

MANIFEST = "lake.json"
_UNTRACED = "replace({}.trace_id, '0', '') = ''"


@dataclass
class Retained:
    """What expired, or would: rows of each raw table (``of`` this many) and about how many bytes; conversations that
    go, and older ones that are kept whole; sealed journal segments."""

    before_ns: int
    dry_run: bool
    rows: dict[str, int] = field(default_factory=dict)
    of: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    conversations: int = 0
    kept_whole: int = 0
    segments: int = 0
    segment_bytes: int = 0
    not_landed: int = 0


def retain(root: Path, catalog: Catalog, before_ns: int, dry_run: bool) -> Retained:
    """Drop rows that arrived before a time (ns since 1970) and commit. The tables must be current; the caller holds the
    lake's lock and rebuilds them afterwards."""
    done = Retained(before_ns, dry_run, of={name: catalog.rows(name) for name in RAW})
    old = _old_segments(root, catalog, done)
    with compaction.sorter(root) as db:
        tables.views(db, root)
        _dropped_before(db, root)
        _keep(db, before_ns)
        done.conversations, done.kept_whole = _conversations(db, before_ns)
        for name in RAW:
            dropped = _dropped(db, root, name, catalog.parts[name], before_ns)
            done.rows[name] = sum(dropped.values())
            done.bytes += sum(_share(root, part, count) for part, count in dropped.items())
            if not dry_run:
                for part, count in dropped.items():
                    kept = [] if count == part.rows else _rewrite(db, root, name, part, before_ns)
                    catalogs.replace(catalog, name, [part], kept)
        if not dry_run:
            _commit(root, catalog, before_ns, old)
            _expire_kept(db, root, before_ns)
    return done


def _commit(root: Path, catalog: Catalog, before_ns: int, old: list[Path]) -> None:
    """Commit the time first, then the rows, then the segments; after a kill the next run continues."""
    manifest = json.loads((root / MANIFEST).read_text())
    manifest["rows_from_ns"] = max(before_ns, manifest.get("rows_from_ns", 0))
    catalogs.write_json(root / MANIFEST, manifest)
    catalogs.save(root, catalog)
    for path in old:
        os.unlink(path)
    catalogs.remove_replaced(root, catalog)


def _old_segments(root: Path, catalog: Catalog, done: Retained) -> list[Path]:
    """Sealed segments whose every record arrived before the time and has landed."""
    out = []
    for path in journal.segments(root / "journal"):
        if not landing.is_read(path, catalog.journal.get(path.stem)):
            done.not_landed += 1
        elif path.suffix == ".rjl" and journal.newest_arrival(path) < done.before_ns:
            out.append(path)
    done.segments, done.segment_bytes = len(out), sum(p.stat().st_size for p in out)
    return out


def _keep(db: duckdb.DuckDBPyConnection, before_ns: int) -> None:
    """Create ``kept`` (traces) and ``kept_loose`` (hashes of evaluations without a trace, and of the records of
    sessions, for which the session stands in the place of a trace) that must stay."""
    no_trace = _UNTRACED.format("l") + " AND " + _UNTRACED.format("e")
    db.execute(f"""
        CREATE TABLE of_sessions AS
            SELECT {session_ids.trace_sql("l")} AS session, row_hash, arrived_at_ns FROM log_records AS l
            WHERE {_UNTRACED.format("l")} AND session IS NOT NULL;
        CREATE TABLE arrived AS
            SELECT trace_id, min(arrived_at_ns) AS oldest, max(arrived_at_ns) AS newest
            FROM (SELECT trace_id, arrived_at_ns FROM spans UNION ALL SELECT trace_id, arrived_at_ns FROM log_records
                UNION ALL SELECT trace_id, arrived_at_ns FROM dropped_spans
                UNION ALL SELECT trace_id, arrived_at_ns FROM dropped_log_records
                UNION ALL SELECT session, arrived_at_ns FROM of_sessions) AS raw
            WHERE NOT {_UNTRACED.format("raw")} GROUP BY trace_id;
        CREATE TABLE belongs AS
            SELECT conversation_id, unnest(trace_ids) AS trace_id FROM conversations
            UNION SELECT conversation_id, trace_id FROM evaluations AS e
            WHERE conversation_id IS NOT NULL AND NOT {_UNTRACED.format("e")};
        CREATE TABLE loose AS
            SELECT e.conversation_id, l.row_hash, l.arrived_at_ns
            FROM evaluations AS e JOIN log_records AS l
                ON e.span_id = l.span_id AND e.time_ns = coalesce(nullif(l.time_ns, 0), l.observed_time_ns)
            WHERE e.conversation_id IS NOT NULL AND {no_trace};
        CREATE TABLE kept AS
            SELECT trace_id FROM arrived WHERE newest >= {before_ns}
            UNION SELECT trace_id FROM belongs
            WHERE conversation_id IN (SELECT conversation_id FROM loose WHERE arrived_at_ns >= {before_ns});
    """)
    while db.execute("""
        INSERT INTO kept
        SELECT DISTINCT others.trace_id
        FROM kept JOIN belongs AS mine USING (trace_id) JOIN belongs AS others USING (conversation_id)
        WHERE others.trace_id NOT IN (SELECT trace_id FROM kept)
    """).fetchall()[0][0]:
        pass
    db.execute(f"""
        CREATE TABLE kept_loose AS SELECT row_hash FROM loose WHERE arrived_at_ns >= {before_ns}
            OR conversation_id IN (SELECT conversation_id FROM belongs JOIN kept USING (trace_id))
        UNION SELECT row_hash FROM of_sessions WHERE session IN (SELECT trace_id FROM kept)
    """)


def _stays(before_ns: int) -> str:
    return (
        f"(part.arrived_at_ns >= {before_ns} OR part.trace_id IN (SELECT trace_id FROM kept)"
        " OR part.row_hash IN (SELECT row_hash FROM kept_loose))"
    )


def _conversations(db: duckdb.DuckDBPyConnection, before_ns: int) -> tuple[int, int]:
    """How many conversations go, and how many stay although some of their rows are old."""
    gone, whole = db.execute("""
        SELECT count(*) FILTER (kept_traces = 0), count(*) FILTER (kept_traces > 0 AND old_rows)
        FROM (
            SELECT conversation_id, count(kept.trace_id) AS kept_traces, min(oldest) < ? AS old_rows
            FROM (SELECT conversation_id, unnest(trace_ids) AS trace_id FROM conversations)
            LEFT JOIN (SELECT DISTINCT trace_id FROM kept) AS kept USING (trace_id)
            LEFT JOIN arrived USING (trace_id)
            GROUP BY conversation_id
        )
    """, [before_ns]).fetchall()[0]
    return gone, whole


def _dropped(
    db: duckdb.DuckDBPyConnection, root: Path, name: str, parts: list[Part], before_ns: int
) -> dict[Part, int]:
    """The number of dropped rows per part; parts that lose none are left out."""
    counts: dict[str, int] = defaultdict(int)
    if plain := [p for p in parts if not encrypted.is_encrypted(p.path)]:
        found = f"read_parquet({compaction.listed(root, plain)}, filename=true)"
        query = f"SELECT filename, count(*) FROM {found} AS part WHERE NOT {_stays(before_ns)} GROUP BY filename"
        counts.update(db.execute(query).fetchall())
    for part in parts:
        if part not in plain:
            keys = encrypted.open_part(root, root / part.path).read(kept_rows.KEYS)
            counts[str(root / part.path)] = part.rows - len(_staying(db, keys, before_ns))
    return {p: counts[str(root / p.path)] for p in parts if counts[str(root / p.path)]}


def _staying(db: duckdb.DuckDBPyConnection, keys: pa.Table, before_ns: int) -> list[int]:
    """The positions of the rows that stay, by their ``kept.KEYS``."""
    numbered = keys.append_column("position", pa.array(range(keys.num_rows), pa.int64()))
    db.register("numbered", numbered)
    query = f"SELECT position FROM numbered AS part WHERE {_stays(before_ns)} ORDER BY position"
    found = [row[0] for row in db.execute(query).fetchall()]
    db.unregister("numbered")
    return found


def _rewrite(db: duckdb.DuckDBPyConnection, root: Path, name: str, part: Part, before_ns: int) -> list[Part]:
    """The rest of a part as a new part; of an encrypted one nothing is written in plain text."""
    if not encrypted.is_encrypted(part.path):
        return compaction.write_sorted(db, root, name, [part], f"WHERE {_stays(before_ns)}")
    table = encrypted.open_part(root, root / part.path).read()
    rest = table.take(_staying(db, table.select(kept_rows.KEYS), before_ns))
    return catalogs.write(root, name, rest, encrypt=True)


def _dropped_before(db: duckdb.DuckDBPyConnection, root: Path) -> None:
    """Makes ``dropped_spans`` and ``dropped_log_records``: the keys of rows of which only what was made is kept."""
    for name in RAW:
        if parts := kept_rows.hash_files(root, name):
            listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in parts)
            found = f"SELECT DISTINCT * FROM read_parquet([{listed}])"
        else:
            found = "SELECT ''::BLOB AS row_hash, '' AS trace_id, 0::BIGINT AS arrived_at_ns WHERE false"
        db.execute(f"CREATE VIEW dropped_{name} AS {found}")


def _expire_kept(db: duckdb.DuckDBPyConnection, root: Path, before_ns: int) -> None:
    gone = db.execute("""
        SELECT conversation_id FROM (SELECT conversation_id, unnest(trace_ids) AS trace_id FROM conversations)
        LEFT JOIN (SELECT DISTINCT trace_id, true AS stays FROM kept) USING (trace_id)
        GROUP BY conversation_id HAVING count(stays) = 0
    """).fetchall()
    digest = {}
    for name in RAW:
        query = f"SELECT row_hash FROM dropped_{name} AS part WHERE {_stays(before_ns)}"
        digest[name] = catalogs.digest_of(as_array(db.sql(query).to_arrow_table()["row_hash"]))
    kept_rows.expire(root, [row[0] for row in gone], before_ns, digest)


def _share(root: Path, part: Part, rows: int) -> int:
    return (root / part.path).stat().st_size * rows // part.rows
