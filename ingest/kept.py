"""Normalised rows that outlive their raw rows: what was made of them before they were dropped.

A conversation of which more comes later is told anew if what comes repeats all of it, as agents' histories do;
surrogates are the same, so that can be seen. Else what comes is a conversation of its own, ``ID/later``.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

RAW = ("spans", "log_records")
REPORT = "privacy.json"
Rows = dict[str, list[tuple[Any, ...]]]


def names(root: Path) -> list[str]:
    """The names of what was kept: they change whenever raw rows are dropped."""
    return [str(p.relative_to(root)) for p in sorted((root / "kept").glob("hashes-*.parquet"))]


def hashes(root: Path, name: str) -> list[bytes]:
    """The hashes of the dropped rows of one raw table."""
    found = (root / "kept").glob(f"hashes-{name}-*.parquet")
    return [h for path in found for h in pq.read_table(path)["row_hash"].to_pylist()]


def freeze(root: Path, dropped: Mapping[str, Iterable[bytes]]) -> None:
    """Keeps the normalised rows as they are now, and the hashes of the raw rows that are about to go."""
    if not dropped:
        return
    now = time.time_ns()
    for path in sorted((root / "normalised").glob("*.parquet")):
        _write(pq.read_table(path), root / "kept" / path.name)
    report = root / "tables" / REPORT
    if report.exists():
        aside = root / "kept" / "privacy.tmp"
        aside.write_bytes(report.read_bytes())
        os.replace(aside, root / "kept" / REPORT)
    known = {name: set(hashes(root, name)) for name in dropped}
    for name, found in dropped.items():
        table = pa.table({"row_hash": pa.array([h for h in found if h not in known[name]], pa.binary())})
        _write(table, root / "kept" / f"hashes-{name}-{now}.parquet")


def _write(table: pa.Table, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(".tmp")
    pq.write_table(table, aside, compression="zstd")
    os.replace(aside, target)


def read(root: Path, name: str) -> list[tuple[Any, ...]]:
    """The kept rows of one normalised table."""
    path = root / "kept" / f"{name}.parquet"
    if not path.exists():
        return []
    table = pq.read_table(path)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True)) if table.num_rows else []


def with_kept(root: Path, made: Rows) -> Rows:
    """New rows and kept ones as one; every list's first column is the conversation's id, but the messages'."""
    old: Rows = {name: read(root, name) for name in made}
    if not old["conversation_facts"]:
        return made
    before, after = _messages(old), _messages(made)
    gone, renamed = set(), {}
    for conversation_id, said in after.items():
        name = conversation_id
        while name in before and not said[: len(before[name])] == before[name]:
            if set(said) <= set(before[name]):
                name = ""  # it says nothing new
                break
            name += "/later"
        renamed[conversation_id] = name
        gone.add(name)
    told_by = {trace: row[0] for row in old["conversation_facts"] for trace in row[8]}
    out: Rows = {}
    for name, rows in made.items():
        if name == "message_bodies":
            out[name] = list({row[0]: row for row in (*old[name], *rows)}.values())
            continue
        if name == "evaluations":  # a judgement stays, whatever becomes of its conversation
            new = [(row[0] or told_by.get(row[6]), *row[1:]) for row in rows]
            out[name] = list(dict.fromkeys([*old[name], *((renamed.get(r[0]) or r[0], *r[1:]) for r in new)]))
            continue
        kept = [row for row in old[name] if row[0] not in gone]
        out[name] = kept + [(renamed.get(row[0], row[0]), *row[1:]) for row in rows if renamed.get(row[0], row[0])]
    return out


def _messages(rows: Rows) -> dict[str, list[str]]:
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for conversation_id, position, digest, *_ in rows["conversation_messages"]:
        found[conversation_id].append((position, digest))
    return {conversation_id: [digest for _, digest in sorted(said)] for conversation_id, said in found.items()}


def with_kept_report(root: Path, report: dict[str, Any]) -> dict[str, Any]:
    """A privacy report with the counts of what was kept added; surrogates that occur in both count twice."""
    path = root / "kept" / REPORT
    return _sum(json.loads(path.read_text()), report) if path.exists() else report


def _sum(a: Any, b: Any) -> Any:
    if isinstance(a, dict) and isinstance(b, dict):
        return {key: _sum(a.get(key), b.get(key)) for key in sorted({*a, *b})}
    if a is None or b is None or isinstance(b, bool):
        return a if b is None else b
    return a + b


def add_counts(root: Path, counts: dict[str, int]) -> None:
    """Adds the kept spans to the counts by dialect."""
    for dialect, spans in read(root, "dialects"):
        counts[dialect] = counts.get(dialect, 0) + spans
