"""Check that every model output, tool execution and judgement of the raw rows is counted exactly once.

``summed`` compares two counts that every build makes: items read, and items in the tables. ``audit`` is independent of
both: it reads the raw rows again and looks up each item in the tables. The message at the position in ``placements``
must have the same calls, an execution with a result must have a tool message with content, and a judgement of a span
must belong to the conversation of the span.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ingest.conversations.executions import merge_tellings
from ingest.conversations.judgements import identity
from ingest.formats.otlp import SCHEMAS, to_table
from ingest.messages.chatform import to_turns
from ingest.messages.normal import Evaluation, Observed
from ingest.storage import catalog, encrypted, kept
from ingest.tables.normalise import COLUMNS, Rows, read, rows_of
from ingest.tables.runners import LocalRunner, out_of_core, quoted
from ingest.tables.shards import extent, shards_for

ASIDE = "auditing"
EXAMPLES = 3
KINDS = {"inference": "model outputs", "execution": "tool executions", "judgement": "judgements"}
_FACTS = pa.schema(
    [("kind", pa.string()), ("trace_id", pa.string()), ("span_id", pa.string()), ("role", pa.string()),
     ("calls", pa.list_(pa.string())), ("says", pa.bool_())]
)  # fmt: skip
_JUDGED = pa.schema(
    [("trace_id", pa.string()), ("span_id", pa.string()), ("name", pa.string()), ("score", pa.float64()),
     ("time_ns", pa.int64()), ("response_id", pa.string())]
)  # fmt: skip


@dataclass
class Count:
    """Counts of one kind: items in the raw rows, items in exactly one conversation (``placed``), items in none by
    reason (``left``). Faults: ``missing`` without a reason, in several conversations (``twice``), or with other content
    than in the raw rows (``wrong``)."""

    raw: int = 0
    placed: int = 0
    left: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    twice: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)  # "trace/span: what"

    @property
    def holds(self) -> bool:
        """Whether all of them are accounted for."""
        faults = self.missing or self.twice or self.wrong
        return not faults and self.raw == self.placed + sum(self.left.values())


@dataclass
class Balance:
    """The counts of model outputs (``inference``), tool executions (``execution``) and judgements (``judgement``)."""

    inference: Count = field(default_factory=Count)
    execution: Count = field(default_factory=Count)
    judgement: Count = field(default_factory=Count)

    @property
    def counts(self) -> dict[str, Count]:
        """By kind."""
        return {kind: getattr(self, kind) for kind in KINDS}

    @property
    def holds(self) -> bool:
        """Whether nothing is lost or counted twice."""
        return all(count.holds for count in self.counts.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "holds": self.holds}

    def lines(self) -> list[str]:
        """A sentence for each kind."""
        return [_line(KINDS[kind], count) for kind, count in self.counts.items()]


def _line(what: str, c: Count) -> str:
    left = ", ".join(f"{reason} {n}" for reason, n in sorted(c.left.items()))
    told = f"{what}: {c.raw} in the raw rows, {c.placed} in exactly one conversation"
    told += f", {sum(c.left.values())} in none ({left})" if left else ""
    faults = {"missing": c.missing, "in several": c.twice, "not as told": c.wrong}
    if any(faults.values()):
        told += "; NOT ACCOUNTED FOR: " + ", ".join(f"{name} {n}" for name, n in faults.items() if n)
    return "\n  ".join([told, *c.examples])


def summed(db: duckdb.DuckDBPyConnection) -> Balance:
    """Return the balance of the counts of items read and of items in the tables. ``db`` must see the lake's tables."""
    out = Balance()
    for kind, told in db.execute("SELECT kind, told FROM read_counts").fetchall():
        out.counts[kind].raw = told
    for kind, homes, reason, n in db.execute(
        f"SELECT kind, homes, reason, count(*) FROM ({_PLACED}) GROUP BY ALL"
    ).fetchall():
        _add(out.counts[kind], homes, reason, n)
    rows = "SELECT conversation_id IS NOT NULL, count(*) FROM evaluations GROUP BY ALL"
    for is_attributed, n in db.execute(rows).fetchall():
        _add(out.judgement, int(is_attributed), "unattributed", n)
    for count in out.counts.values():
        count.missing = max(0, count.raw - count.placed - count.twice - sum(count.left.values()))
    return out


def _add(count: Count, homes: int, reason: str, n: int) -> None:
    if homes == 1:
        count.placed += n
    elif homes > 1:
        count.twice += n
    else:
        count.left[reason] = count.left.get(reason, 0) + n


_PLACED = """
    SELECT kind, trace_id, span_id, count(DISTINCT conversation_id) AS homes, min(reason) AS reason
    FROM placements GROUP BY kind, trace_id, span_id
"""


# ----------------------------------------------------------------------------------------- the audit


def audit(root: Path, db: duckdb.DuckDBPyConnection) -> Balance:
    """Return the balance of the raw rows, which are read again, and the tables that ``db`` sees. If the lake dropped
    raw rows, only the counts can be compared."""
    if kept.digest(root):
        return summed(db)
    db.register("no_facts", to_table([], _FACTS))
    db.register("no_judged", to_table([], _JUDGED))
    db.execute("CREATE TEMP TABLE facts AS FROM no_facts; CREATE TEMP TABLE judged AS FROM no_judged")
    for spans, records in _by_traces(root):
        observed, judgements = read(spans, records, {})
        _take(db, "facts", to_table(list(_facts(observed)), _FACTS))
        told = {identity(e): e for e in (*judgements, *(e for o in observed for e in o.evaluations))}
        _take(db, "judged", to_table([_judged(e) for e in told.values()], _JUDGED))
    out = Balance()
    for kind in ("inference", "execution"):
        _compare_spans(db, kind, out.counts[kind])
    _compare_judgements(db, out.judgement)
    return out


def _take(db: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    db.register("taken", rows)
    db.execute(f"INSERT INTO {name} SELECT * FROM taken")
    db.unregister("taken")


def _by_traces(root: Path) -> Iterator[tuple[Rows, Rows]]:
    """Yield the raw rows in sets of traces that fit into memory."""
    raw = {name: catalog.parts(root, name) for name in SCHEMAS}
    files = [path for paths in raw.values() for path in paths]
    count = 1 if any(map(encrypted.is_encrypted, files)) else shards_for(*extent(files))
    if count == 1:
        spans, records = (rows_of(_batches(root, name, raw[name]), name) for name in ("spans", "log_records"))
        yield spans, records
        return
    aside = root / ASIDE
    shutil.rmtree(aside, ignore_errors=True)  # of a killed one
    aside.mkdir()
    try:
        for name, paths in raw.items():
            if paths:
                LocalRunner(0).shuffle(paths, COLUMNS[name], count, aside / name)
        for shard in range(count):
            yield _shard(aside, "spans", shard), _shard(aside, "log_records", shard)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _batches(root: Path, name: str, paths: list[Path]) -> Iterator[pa.RecordBatch]:
    for path in paths:
        yield from encrypted.open_part(root, path).iter_batches(8192, columns=COLUMNS[name])


def _shard(aside: Path, name: str, shard: int) -> Rows:
    found = aside / name / f"shard={shard}"
    if not found.is_dir():
        return ()
    with out_of_core(aside / "spilled") as db:
        query = f"SELECT {', '.join(COLUMNS[name])} FROM read_parquet({quoted(found / '*.parquet')})"
        return list(rows_of(db.sql(query).to_arrow_table().to_batches(8192), name))


def _facts(observed: list[Observed]) -> Iterable[tuple[Any, ...]]:
    """Yield what the tables must have of each span: a row for each output message of a model call, one for an
    execution, and one without a role for a model call without output."""
    for o in merge_tellings(observed):
        if o.kind == "inference":
            for key, output in zip(o.output_keys, (o.output, *o.alternatives), strict=True):
                turns = [turn.message for m in output for turn in to_turns(m)]
                for m in turns:
                    calls = [call["name"] for call in m.get("tool_calls") or ()]
                    yield "inference", *key, m["role"], calls, m.get("content") is not None
                if not turns:
                    yield "inference", *key, None, [], False
        elif o.kind == "execution":
            yield "execution", *o.key, "tool", [o.tool_name] if o.tool_name else [], o.result is not None


def _judged(e: Evaluation) -> tuple[Any, ...]:
    return e.trace_id, e.span_id, e.name, e.score, e.time_ns, e.response_id


_AT = """
    SELECT p.kind, p.trace_id, p.span_id, m.role, m.content IS NOT NULL AS says, m.name,
        coalesce(list_transform(from_json(m.tool_calls, '[{"name": "VARCHAR"}]'), lambda x: x.name), []) AS calls
    FROM placements AS p
    INNER JOIN messages AS m ON p.conversation_id = m.conversation_id AND p.position = m.position
"""
_REBUILT = """
    SELECT p.kind, p.trace_id, p.span_id FROM placements AS p
    INNER JOIN conversations AS c ON p.conversation_id = c.conversation_id WHERE list_contains(c.flags, 'rebuilt')
"""
_IS_THERE = {
    "inference": """f.role = spot.role AND (spot.says OR NOT f.says)
        AND (f.calls = spot.calls OR (len(f.calls) < len(spot.calls) AND list_has_all(spot.calls, f.calls)))""",
    "execution": """(len(f.calls) = 0 OR spot.name = f.calls[1] OR list_contains(spot.calls, f.calls[1]))
        AND (NOT f.says OR (spot.role = 'tool' AND spot.says))""",
}


def _compare_spans(db: duckdb.DuckDBPyConnection, kind: str, count: Count) -> None:
    """Compare the spans of one kind. A rebuilt run has messages of its own, so only its placements are compared."""
    found = db.execute(f"""
        WITH facts AS (SELECT * FROM facts WHERE kind = $kind),
        spans AS (SELECT DISTINCT kind, trace_id, span_id FROM facts),
        placed AS ({_PLACED}),
        found AS ({_AT}),
        there AS (
            SELECT DISTINCT f.* FROM facts AS f INNER JOIN found AS spot
                ON f.kind = spot.kind AND f.trace_id = spot.trace_id AND f.span_id = spot.span_id AND {_IS_THERE[kind]}
        ),
        wrong AS (
            SELECT DISTINCT kind, trace_id, span_id
            FROM (SELECT * FROM facts WHERE role IS NOT NULL EXCEPT SELECT * FROM there)
        )
        SELECT
            spans.trace_id, spans.span_id, coalesce(placed.homes, 0), placed.reason,
            wrong.kind IS NOT NULL AND rebuilt.kind IS NULL
        FROM spans
        LEFT JOIN placed USING (kind, trace_id, span_id)
        LEFT JOIN wrong USING (kind, trace_id, span_id)
        LEFT JOIN (SELECT DISTINCT * FROM ({_REBUILT})) AS rebuilt USING (kind, trace_id, span_id)
    """, {"kind": kind})  # fmt: skip
    while rows := found.fetchmany(10_000):
        for trace_id, span_id, homes, reason, is_wrong in rows:
            count.raw += 1
            what = ""
            if homes == 0 and reason is None:
                count.missing, what = count.missing + 1, "missing"
            elif homes == 1 and is_wrong:
                count.wrong, what = count.wrong + 1, "not as told in its conversation"
            elif homes == 0 and is_wrong and kind == "inference" and reason != "around_model_calls":
                count.wrong, what = count.wrong + 1, f"has output, but counts as {reason}"
            else:
                _add(count, homes, reason, 1)
                what = "in several conversations" if homes > 1 else ""
            if what and len(count.examples) < EXAMPLES:
                count.examples.append(f"{trace_id}/{span_id}: {what}")


def _compare_judgements(db: duckdb.DuckDBPyConnection, count: Count) -> None:
    found = db.execute("""
        WITH raw AS (
            SELECT trace_id, span_id, name, time_ns, score, count(*) AS n, max(response_id) AS response_id FROM judged
            GROUP BY ALL
        ),
        told AS (
            SELECT e.trace_id, e.span_id, e.name, e.time_ns, e.score, count(*) AS n,
                count(e.conversation_id) AS attributed, min(e.conversation_id) AS conversation_id,
                bool_and(e.conversation_id IS NULL OR c.conversation_id IS NOT NULL) AS exist
            FROM evaluations AS e LEFT JOIN conversations AS c ON e.conversation_id = c.conversation_id
            GROUP BY ALL
        ),
        homes AS (
            SELECT trace_id, span_id, min(conversation_id) AS home FROM placements
            WHERE conversation_id IS NOT NULL GROUP BY ALL
        )
        SELECT raw.trace_id, raw.span_id, raw.n, coalesce(told.n, 0), coalesce(told.attributed, 0),
            told.exist AND (raw.response_id IS NOT NULL OR home IS NULL OR told.conversation_id = home)
        FROM raw
        LEFT JOIN told ON raw.trace_id = told.trace_id AND raw.span_id = told.span_id AND raw.name = told.name
            AND raw.time_ns = told.time_ns AND raw.score IS NOT DISTINCT FROM told.score
        LEFT JOIN homes ON raw.trace_id = homes.trace_id AND raw.span_id = homes.span_id
    """).fetchall()
    for trace_id, span_id, n, told, attributed, is_right in found:
        count.raw += n
        missing, twice = max(0, n - told), max(0, told - n)
        wrong = min(n, told) if told and not is_right else 0
        count.missing += missing
        count.twice += twice
        count.wrong += wrong
        if not wrong:
            count.placed += min(n, attributed)
            if told > attributed:
                count.left["unattributed"] = count.left.get("unattributed", 0) + min(n, told - attributed)
        if (missing or twice or wrong) and len(count.examples) < EXAMPLES:
            what = "missing" if missing else "twice" if twice else "not of the conversation of its span"
            count.examples.append(f"{trace_id}/{span_id}: {what}")
