"""Normalised rows that outlive their raw rows: built before the raw rows were dropped.

kept/hashes-TABLE-*.parquet which raw rows were dropped and when they arrived; stays when the kept rows expire
kept/now-*/ the normalised rows, the privacy report, and ``dropped.json``; the newest one counts

A ``now-*`` directory is renamed into place as a whole. This commits a drop and names the raw parts that are gone
with it. If later rows of a kept conversation repeat all of it, as agents' histories do, it is rebuilt from them;
equal surrogates show the repetition. Otherwise the later rows become a conversation of their own, ``ID/later``.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingest.journal.segments import sync_path

REPORT = "privacy.json"
DROPPED = "dropped.json"
KEYS = ["row_hash", "trace_id", "arrived_at_ns"]
Rows = dict[str, list[tuple[Any, ...]]]


def _now(root: Path) -> Path | None:
    """The directory that counts."""
    return max((root / "kept").glob("now-*"), default=None)


def _dropped(root: Path) -> dict[str, Any]:
    now = _now(root)
    return json.loads((now / DROPPED).read_text()) if now else {"parts": [], "digest": {}}


def dropped_parts(root: Path) -> set[str]:
    """The raw parts that were dropped last, relative to the lake."""
    return set(_dropped(root)["parts"])


def digest(root: Path) -> dict[str, str]:
    """The digest of each raw table's dropped rows, which decides whether kept rows count
    (``ingest.storage.catalog``)."""
    return dict(_dropped(root)["digest"])


def hash_files(root: Path, name: str) -> list[Path]:
    """The dropped rows of a raw table, as Parquet files with the columns ``KEYS``."""
    return sorted((root / "kept").glob(f"hashes-{name}-*.parquet"))


def hashes(root: Path, name: str) -> list[pa.ChunkedArray]:
    """The hashes of the dropped rows of one raw table."""
    return [pq.read_table(path, columns=["row_hash"])["row_hash"] for path in hash_files(root, name)]


def freeze(root: Path, keys: Mapping[str, pa.Table], parts: Sequence[str], digest: Mapping[str, str]) -> None:
    """Keep the normalised rows and the report as they are now. ``keys`` describes the raw rows in ``parts``, which
    are gone with it; ``digest`` covers all rows ever dropped."""
    aside = _aside(root)
    for name, table in keys.items():
        _write(table, root / "kept" / f"hashes-{name}-{time.time_ns():020d}.parquet")
    for path in [*sorted((root / "normalised").glob("*.parquet")), root / "tables" / REPORT]:
        if path.exists():
            _copy(path, aside / path.name)
    _commit(root, aside, parts, digest)


def expire(root: Path, conversations: Sequence[str], before_ns: int, digest: Mapping[str, str]) -> int:
    """Drop the kept rows of these conversations, and older judgements without one; return how many of the conversations
    were kept here. ``digest`` covers the rows that remain."""
    now = _now(root)
    facts = pq.read_table(now / "conversation_facts.parquet") if now else None
    gone = pa.array(conversations, pa.string())
    if now is None or facts is None or not (found := pc.sum(pc.is_in(facts["conversation_id"], gone)).as_py()):
        return 0
    aside = _aside(root)
    tables = {path.name: pq.read_table(path) for path in sorted(now.glob("*.parquet"))}
    for name, table in tables.items():
        if "conversation_id" in table.column_names:
            stays = pc.invert(pc.is_in(table["conversation_id"], gone))
            if name == "evaluations.parquet":
                old = pc.less(table["time_ns"], before_ns)
                stays = pc.and_not(stays, pc.and_(pc.is_null(table["conversation_id"]), old))
            tables[name] = table.filter(stays)
    said = tables["conversation_messages.parquet"]["message_hash"]
    bodies = tables["message_bodies.parquet"]
    tables["message_bodies.parquet"] = bodies.filter(pc.is_in(bodies["message_hash"], said.combine_chunks()))
    for name, table in tables.items():
        _write(table, aside / name)
    _copy(now / REPORT, aside / REPORT)
    _commit(root, aside, _dropped(root)["parts"], digest)
    return int(found)


def _aside(root: Path) -> Path:
    aside = root / "kept" / "aside"
    shutil.rmtree(aside, ignore_errors=True)  # of a killed one
    aside.mkdir(parents=True)
    return aside


def _commit(root: Path, aside: Path, parts: Sequence[str], digest: Mapping[str, str]) -> None:
    (aside / DROPPED).write_text(json.dumps({"parts": list(parts), "digest": dict(digest)}))
    for path in [*aside.iterdir(), aside, root / "kept"]:
        sync_path(path)
    old = sorted((root / "kept").glob("now-*"))
    os.replace(aside, root / "kept" / f"now-{time.time_ns():020d}")
    sync_path(root / "kept")
    for directory in old:
        shutil.rmtree(directory)


def _copy(path: Path, target: Path) -> None:
    target.write_bytes(path.read_bytes())


def _write(table: pa.Table, target: Path) -> None:
    aside = target.with_suffix(".tmp")
    pq.write_table(table, aside, compression="zstd")
    sync_path(aside)
    os.replace(aside, target)


def read(root: Path, name: str) -> list[tuple[Any, ...]]:
    """The kept rows of one normalised table."""
    now = _now(root)
    if now is None or not (now / f"{name}.parquet").exists():
        return []
    table = pq.read_table(now / f"{name}.parquet")
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True)) if table.num_rows else []


def with_kept(root: Path, made: Rows) -> Rows:
    """New and kept rows combined. The first column of every list is the conversation id, except for messages."""
    old: Rows = {name: read(root, name) for name in made}
    if not old["conversation_facts"]:
        return made
    before, after = _messages(old), _messages(made)
    gone, renamed, repeated = set(), {}, {}
    for conversation_id, said in after.items():
        name = conversation_id
        while name in before and not said[: len(before[name])] == before[name]:
            if set(said) <= set(before[name]):
                repeated[conversation_id] = name
                name = ""  # a repetition
                break
            name += "/later"
        renamed[conversation_id] = name
        gone.add(name)
    told_by: dict[str, set[str]] = defaultdict(set)
    for row in old["conversation_facts"]:
        for trace in row[8]:
            told_by[trace].add(row[0])
    out: Rows = {}
    for name, rows in made.items():
        if name == "message_bodies":
            out[name] = list({row[0]: row for row in (*old[name], *rows)}.values())
            continue
        if name == "evaluations":  # judgements stay even if their conversation goes
            new = [(row[0] or _lone(told_by.get(row[6])), *row[1:]) for row in rows]
            out[name] = list(dict.fromkeys([*old[name], *((renamed.get(r[0]) or r[0], *r[1:]) for r in new)]))
            continue
        kept = [row for row in old[name] if row[0] not in gone]
        if name == "placements":  # of what says nothing new, in the conversation that said it before
            of = {key: value for key, value in renamed.items() if value} | repeated
            out[name] = kept + [(of.get(row[0], row[0]), *row[1:]) for row in rows]
            continue
        out[name] = kept + [(renamed.get(row[0], row[0]), *row[1:]) for row in rows if renamed.get(row[0], row[0])]
    return out


def _lone(found: set[str] | None) -> str | None:
    return next(iter(found)) if found and len(found) == 1 else None


def _messages(rows: Rows) -> dict[str, list[str]]:
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for conversation_id, position, digest, *_ in rows["conversation_messages"]:
        found[conversation_id].append((position, digest))
    return {conversation_id: [digest for _, digest in sorted(said)] for conversation_id, said in found.items()}


def with_kept_report(root: Path, report: dict[str, Any]) -> dict[str, Any]:
    """A privacy report with the counts of kept rows added; surrogates that occur in both count twice."""
    now = _now(root)
    return _sum(json.loads((now / REPORT).read_text()), report) if now else report


def _sum(a: Any, b: Any) -> Any:
    if isinstance(a, dict) and isinstance(b, dict):
        return {key: _sum(a.get(key), b.get(key)) for key in sorted({*a, *b})}
    if a is None or b is None or isinstance(b, bool):
        return a if b is None else b
    return a + b


def add_counts(root: Path, name: str, counts: dict[str, int]) -> None:
    """Add the kept counts: spans by dialect, or items read by kind."""
    for what, count in read(root, name):
        counts[what] = counts.get(what, 0) + count
