"""Show what a new mapping changes: normalise the raw rows again, beside the tables, and compare.

Conversations are compared by what other rooms read of them (``ASPECTS``). The columns of an aspect are those that both
sides have, since an older version may have had fewer.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from ingest.errors import UserError
from ingest.storage import kept
from ingest.storage.catalog import write_json
from ingest.tables import build as tables

STATE = "tables/state.json"
ASIDE = "renormalised"
EXAMPLES = 5  # of each kind
ASPECTS: dict[str, tuple[str, tuple[str, ...], str]] = {  # aspect: table, columns, order
    "messages": ("messages", ("role", "content", "tool_calls", "tool_call_id", "name"), "position"),
    "tool_calls": (
        "tool_calls",
        ("tool", "call_id", "arguments", "content", "is_error", "error_class", "latency_ms", "repairs"),
        "call_index",
    ),
    "outcomes": ("outcomes", ("name", "score", "label", "explanation"), "time_ns, name, span_id"),
    "flags": ("conversations", ("flags",), "conversation_id"),
    "tools": ("conversations", ("tools",), "conversation_id"),
    "agent": ("conversations", ("agent",), "conversation_id"),
}


@dataclass
class Changes:
    """The result of a renormalisation.

    ``mapping_before`` and ``mapping_after`` are mapping versions. ``rows_changed`` says that the raw rows differ from
    those of the present tables, ``privacy_changed`` that the privacy settings or the key differ; then not every change
    comes from the mapping.

    ``by_dialect`` has, for each dialect (several of one conversation joined by +), the numbers of conversations:
    same, added, removed, changed, and for changed ones the number per aspect. ``examples`` are dicts:
    conversation_id, dialect, kind, and for a changed one its aspects with the values before and now.
    """

    mapping_before: int
    mapping_after: int
    rows_changed: bool
    privacy_changed: bool = False
    applied: bool = False
    same: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    by_dialect: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)


def renormalise(root: Path, state: dict[str, Any], apply: bool) -> Changes:
    """Build the tables beside the present ones and compare; with ``apply`` they replace them. ``state`` describes their
    inputs; the caller holds the lake's lock. Raises ``UserError`` if there are no tables to compare with."""
    try:
        before = json.loads((root / STATE).read_text())["of"]
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"the lake {root} has no tables yet to compare with; make them with: rehearsal ingest --lake {root}"
        ) from None
    aside = root / ASIDE
    shutil.rmtree(aside, ignore_errors=True)  # of a killed one
    try:
        rows = tables.build(root, aside)
        changed = (before.get(what) != state[what] for what in ("rows", "privacy"))
        changes = Changes(before["mapping"], state["mapping"], *changed)
        _compare(root, aside, changes)
        if apply:
            _take_place(root, aside)
            write_json(root / STATE, {"of": state, "rows": rows})
            changes.applied = True
        return changes
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _take_place(root: Path, aside: Path) -> None:
    (root / STATE).unlink()  # after a kill here the next reader rebuilds the tables
    for path in sorted([*aside.glob("*/*.parquet"), aside / "tables" / kept.REPORT]):
        os.replace(path, root / path.relative_to(aside))


# -------------------------------------------------------------------------------------------- comparing


def _compare(root: Path, aside: Path, changes: Changes) -> None:
    with duckdb.connect() as db:
        for side, directory in (("old", root), ("new", aside)):
            for path in (directory / "tables").glob("*.parquet"):
                quoted = str(path).replace("'", "''")
                db.execute(f"CREATE VIEW {side}_{path.stem} AS SELECT * FROM read_parquet('{quoted}')")
        for side in ("old", "new"):
            db.execute(f"CREATE TABLE {side} AS {_facts(db, side)}")
        db.execute(f"CREATE TABLE compared AS {_COMPARED}")
        _count(db, changes)
        for kind in ("changed", "added", "removed"):
            changes.examples += _examples(db, kind)


def _facts(db: duckdb.DuckDBPyConnection, side: str) -> str:
    """A query for a digest of each aspect, by conversation."""
    digests, joins = [], []
    for aspect, (table, _, order) in ASPECTS.items():
        row = f"row({', '.join(_columns(db, aspect))})"
        joins.append(
            f"LEFT JOIN (SELECT conversation_id, md5(CAST(list({row} ORDER BY {order}) AS VARCHAR)) AS digest"
            f" FROM {side}_{table} GROUP BY conversation_id) AS of_{aspect} USING (conversation_id)"
        )
        digests.append(f"coalesce(of_{aspect}.digest, '') AS {aspect}")
    return (
        f"SELECT conversation_id, array_to_string(dialects, '+') AS dialect, {', '.join(digests)}"
        f" FROM {side}_conversations {' '.join(joins)}"
    )


def _columns(db: duckdb.DuckDBPyConnection, aspect: str) -> list[str]:
    table, wanted, _ = ASPECTS[aspect]
    found = [{c[0] for c in db.execute(f"DESCRIBE {side}_{table}").fetchall()} for side in ("old", "new")]
    return [c for c in wanted if all(c in columns for columns in found)]


_DIFFERS = {aspect: f"old.{aspect} IS DISTINCT FROM new.{aspect}" for aspect in ASPECTS}
_COMPARED = f"""
    SELECT conversation_id, coalesce(nullif(new.dialect, ''), nullif(old.dialect, ''), 'none') AS dialect,
        CASE WHEN old.messages IS NULL THEN 'added' WHEN new.messages IS NULL THEN 'removed'
             WHEN {" OR ".join(_DIFFERS.values())} THEN 'changed' ELSE 'same' END AS kind,
        {", ".join(f"{sql} AS {aspect}" for aspect, sql in _DIFFERS.items())}
    FROM old FULL JOIN new USING (conversation_id)
"""


def _count(db: duckdb.DuckDBPyConnection, changes: Changes) -> None:
    kinds = ("same", "added", "removed", "changed")
    counts = [f"count(*) FILTER (kind = '{kind}')" for kind in kinds]
    counts += [f"count(*) FILTER (kind = 'changed' AND {aspect})" for aspect in ASPECTS]
    for dialect, *numbers in db.execute(
        f"SELECT dialect, {', '.join(counts)} FROM compared GROUP BY dialect ORDER BY dialect"
    ).fetchall():
        changes.by_dialect[dialect] = dict(zip((*kinds, *ASPECTS), numbers, strict=True))
        for kind in kinds:
            setattr(changes, kind, getattr(changes, kind) + changes.by_dialect[dialect][kind])


def _examples(db: duckdb.DuckDBPyConnection, kind: str) -> list[dict[str, Any]]:
    found = db.execute(
        f"SELECT conversation_id, dialect, {', '.join(ASPECTS)} FROM compared WHERE kind = ?"
        " QUALIFY row_number() OVER (PARTITION BY dialect ORDER BY conversation_id) <= 2"
        " ORDER BY conversation_id LIMIT ?",
        [kind, EXAMPLES],
    ).fetchall()
    out = []
    for conversation_id, dialect, *differs in found:
        example = {"conversation_id": conversation_id, "dialect": dialect, "kind": kind}
        if kind == "changed":
            aspects = [a for a, d in zip(ASPECTS, differs, strict=True) if d]
            example["aspects"] = {a: _difference(db, a, conversation_id) for a in aspects}
        out.append(example)
    return out


def _difference(db: duckdb.DuckDBPyConnection, aspect: str, conversation_id: str) -> dict[str, Any]:
    """The numbers of rows before and now, and the first pair that differs (position, before, now)."""
    table, _, order = ASPECTS[aspect]
    columns = _columns(db, aspect)
    sides = [
        db.execute(
            f"SELECT {', '.join(columns)} FROM {side}_{table} WHERE conversation_id = ? ORDER BY {order}",
            [conversation_id],
        ).fetchall()
        for side in ("old", "new")
    ]
    old, new = ([dict(zip(columns, row, strict=True)) for row in rows] for rows in sides)
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    before, now = (rows[at] if at < len(rows) else None for rows in (old, new))
    if before and now:
        keys = [k for k in columns if before[k] != now[k]]
        before, now = ({k: side[k] for k in keys} for side in (before, now))
    return {"rows_before": len(old), "rows_now": len(new), "place": at, "before": before, "now": now}
