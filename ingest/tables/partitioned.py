"""Normalise in parts, on several cores and in bounded memory. The tables are equal to those of one piece.

1. The raw rows are divided into shards by trace (``shards``). Most traces are read from the raw files directly.
2. The spans of each shard are read and split into groups; the groups are put into buckets
   (``partition_work.read_shard``).
3. Groups of different traces are connected by ids that one made and another names. These ids are few. Connected groups
   are moved to one bucket.
4. The conversations of each bucket are assembled. If almost all seem complete, their rows are written immediately.
5. If a conversation continues one of another bucket (by the hashes of their paths), both are moved to one bucket, and
   the rows of both buckets are written, or written again.
6. The rows are joined to one file a table. Judgements without a span are attributed last.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingest.conversations.assembly import Assembled, Left
from ingest.conversations.hidden_history import Evidence
from ingest.formats.otlp import to_table
from ingest.messages.normal import Evaluation
from ingest.privacy.conversations import Totals
from ingest.privacy.lakes import open_privacy
from ingest.tables import partition_work as work
from ingest.tables.normalise import COLUMNS, NORMALISED, evaluation_row, left_rows
from ingest.tables.packing import unpack_conversation
from ingest.tables.runners import Runner, listed, out_of_core, quoted
from ingest.tables.shards import Stretch, extent, stretches

ASIDE = "normalising"
BATCH = 4096
# For files that are read again soon: most columns are pickled, and values do not repeat.
ASIDE_AS: dict[str, Any] = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}
Edges = Iterable[tuple[int, int]]


@dataclass
class Made:
    """Counts: spans by dialect, items read by kind, log records not understood; and what privacy replaced."""

    dialect_counts: dict[str, int]
    read_counts: dict[str, int]
    unread_records: dict[str, int]
    totals: Totals | None


def normalise_in_parts(root: Path, raw: dict[str, list[Path]], into: Path, shards: int, runner: Runner) -> Made:
    """Write the normalised tables of raw Parquet files into a directory, one file each."""
    each = runner.each
    open_privacy(root)  # makes the key, before several processes could
    with _aside(root) as aside, out_of_core(aside / "spilled") as db:
        read = _read(db, aside, raw, shards, runner)
        evidence = Evidence()
        for shard in read:
            evidence.merge(shard.evidence)
        origins = _origins(db, aside)
        away = meet(((a, b) for a, found in origins.items() for b in found), lambda group: group % shards)
        _move_groups(aside, read, away)
        buckets = list(_buckets(aside, read, away, origins, evidence, shards))
        written: list[_Written | None] = each(_assemble_bucket, [(*bucket, root) for bucket in buckets])
        moved = meet(_going_on(db, aside), lambda c: c >> 40)
        met = {c >> 40 for c in moved} | set(moved.values())
        each(_assemble_bucket, [(*buckets[b], None) for b in met if written[b]])
        _move_conversations(aside, moved)
        gone: dict[int, set[int]] = defaultdict(set)
        for conversation in moved:
            gone[conversation >> 40].add(conversation & (1 << 40) - 1)
        left = [b for b in range(shards) if b in met or not written[b]]
        for b, now in zip(left, each(_write_bucket, [(aside, b, gone[b], root) for b in left]), strict=True):
            written[b] = now
        totals = [w.totals for w in written if w and w.totals]
        into.mkdir(parents=True, exist_ok=True)
        (found,) = each(_write_loose, [(aside, totals, root)])
        each(_join_files, [(aside, name, into) for name in NORMALISED])
        counts: Counter[str] = Counter()
        kinds: Counter[str] = Counter()
        unread: Counter[str] = Counter()
        for shard in read:
            counts.update(shard.dialect_counts)
            kinds.update(shard.read_counts)
            unread.update(shard.unread_records)
        return Made(dict(counts), dict(kinds), dict(unread), found)


def _read(
    db: duckdb.DuckDBPyConnection, aside: Path, raw: dict[str, list[Path]], buckets: int, runner: Runner
) -> list[_ReadShard]:
    """Read every shard: first the stretches of the raw files, then the shuffled rest."""
    lying = stretches(db, raw["spans"], raw["log_records"], buckets)
    tasks = [(aside, number, buckets, stretch) for number, stretch in enumerate(lying)]
    read: list[_ReadShard] = runner.each(_read_stretch, tasks)
    rest = {**raw, "spans": sorted(aside.glob("apart-*.parquet"))} if lying else raw
    left, whole = (sum(extent(files)[0] for files in found.values()) for found in (rest, raw))
    shards = -(-buckets * left // max(1, whole))
    for name, files in rest.items():
        if files:
            runner.shuffle(files, COLUMNS[name], shards, aside / name)
    return read + runner.each(_read_shard, [(aside, len(read) + s, buckets, s) for s in range(shards)])


# ------------------------------------------------------------------- the steps of each process


@dataclass
class _ReadShard:
    """The result of reading a shard. ``buckets`` are the buckets of its groups, in the order of the row groups of its
    file."""

    buckets: list[int]
    evidence: Evidence
    dialect_counts: dict[str, int]
    read_counts: dict[str, int]
    unread_records: dict[str, int]


def _read_stretch(aside: Path, number: int, buckets: int, stretch: Stretch) -> _ReadShard:
    """Read the traces of a stretch, and write the rows of the traces in ``apart`` aside."""
    apart: list[pa.RecordBatch] = []
    read = _leave(aside, number, buckets, _here(stretch, apart), ())
    if apart:
        pq.write_table(pa.Table.from_batches(apart), aside / f"apart-{number:06}.parquet", **ASIDE_AS)
    return read


def _here(stretch: Stretch, apart: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the rows to read of a stretch. Add the others to ``apart``."""
    for here, others in stretch.divided(COLUMNS["spans"]):
        if len(others):
            apart.append(others)
        yield here


def _read_shard(aside: Path, number: int, buckets: int, shard: int) -> _ReadShard:
    """Read a shard of the shuffled rows."""
    return _leave(aside, number, buckets, _shuffled(aside / "spans", shard), _shuffled(aside / "log_records", shard))


def _shuffled(divided: Path, shard: int) -> list[pa.RecordBatch]:
    """Return a shard's rows in the order of arrival."""
    files = sorted((divided / f"shard={shard}").glob("*.parquet"))
    if not files:
        return []
    table = pa.concat_tables([pq.ParquetFile(path).read() for path in files])
    table = table.sort_by([("filename", "ascending"), ("file_row_number", "ascending")])
    batches: list[pa.RecordBatch] = table.drop_columns(["filename", "file_row_number"]).to_batches(BATCH)
    return batches


def _leave(
    aside: Path, number: int, buckets: int, spans: Iterable[pa.RecordBatch], records: Iterable[pa.RecordBatch]
) -> _ReadShard:
    """Write the groups of a shard, sorted by bucket, its ties and its judgements."""
    shard = work.read_shard(spans, records)
    of_bucket: dict[int, work.Rows] = defaultdict(list)
    for row in shard.groups:
        of_bucket[row[0] % buckets].append(row)
    with pq.ParquetWriter(aside / f"groups-{number}.parquet", work.GROUPS, **ASIDE_AS) as writer:
        for bucket in sorted(of_bucket):
            rows = of_bucket[bucket]
            writer.write_table(to_table(rows, work.GROUPS), row_group_size=len(rows))
    for name, tied in (("made", shard.made), ("named", shard.named)):
        pq.write_table(to_table(tied, work.TIES), aside / f"{name}-{number}.parquet", **ASIDE_AS)
    _leave_loose(aside / f"loose-shard-{number}.pickle", shard.evaluations)
    counts = shard.dialect_counts, shard.read_counts, shard.unread_records
    return _ReadShard(sorted(of_bucket), shard.evidence, *counts)


def _leave_loose(path: Path, judgements: list[Evaluation]) -> None:
    if judgements:
        path.write_bytes(pickle.dumps(judgements, 5))


@dataclass
class _Written:
    """The result of a bucket whose rows are written: what privacy replaced in them."""

    totals: Totals | None


def _assemble_bucket(
    aside: Path, bucket: int, where: list[tuple[int, int]], gone: set[int], origins: dict[int, set[int]],
    evidence: Evidence, lake: Path | None,
) -> _Written | None:  # fmt: skip
    """Assemble the conversations of a bucket and write them, packed. ``where`` lists its shards and row groups,
    ``gone`` the groups that were moved away; groups that were moved here are in a file of their own. With ``lake``, and
    if almost no conversation seems to continue in another bucket, write their rows instead of packing them."""
    left = Left()
    conversations = work.assemble_bucket(_groups(aside, bucket, where, gone), origins, evidence, left)
    _leave_loose(aside / f"loose-bucket-{bucket}.pickle", left.judgements)
    nowhere = to_table(left_rows(left), NORMALISED["placements"])
    pq.write_table(nowhere, aside / f"placements-left-{bucket}.parquet", **ASIDE_AS)
    at_once = lake is not None and work.stand_alone(conversations)
    index = work.index_of(conversations, packed=not at_once)
    pq.write_table(index, aside / f"assembled-{bucket}.parquet", **ASIDE_AS, row_group_size=BATCH)
    return _write_rows(aside, bucket, conversations, lake) if lake and at_once else None


def _groups(aside: Path, bucket: int, where: list[tuple[int, int]], gone: set[int]) -> Iterator[pa.Table]:
    left = pa.array(sorted(gone), pa.int64())
    for number, row_group in where:
        table = pq.ParquetFile(aside / f"groups-{number}.parquet").read_row_group(row_group)
        yield table.filter(pc.invert(pc.is_in(table["digest"], left)))
    if (came := aside / f"moved-{bucket}.parquet").exists():
        yield pq.read_table(came)


def _write_bucket(aside: Path, bucket: int, gone: set[int], lake: Path) -> _Written:
    """Write the rows of a bucket's conversations except ``gone``, which were moved to another bucket. Conversations
    that were moved here are in a file of their own."""
    conversations = _conversations(aside / f"assembled-{bucket}.parquet", gone)
    conversations += _conversations(aside / f"going-on-{bucket}.parquet", set())
    return _write_rows(aside, bucket, conversations, lake)


def _write_rows(aside: Path, bucket: int, conversations: list[Assembled], lake: Path) -> _Written:
    privacy = open_privacy(lake)
    for name, table in work.write_bucket(conversations, privacy).items():
        pq.write_table(table, aside / f"{name}-{bucket}.parquet", **ASIDE_AS)
    return _Written(privacy.totals() if privacy else None)


def _conversations(path: Path, gone: set[int]) -> list[Assembled]:
    if not path.exists():
        return []
    out = []
    for batch in pq.ParquetFile(path).iter_batches(BATCH, columns=["number", "conversation"]):
        out += [unpack_conversation(row["conversation"]) for row in batch.to_pylist() if row["number"] not in gone]
    return out


# -------------------------------------------------------------------------------- directories


@contextmanager
def _aside(root: Path) -> Iterator[Path]:
    aside = root / ASIDE
    shutil.rmtree(aside, ignore_errors=True)  # of a killed one
    aside.mkdir()
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def meet(edges: Edges, place: Callable[[int], int]) -> dict[int, int]:
    """Return the new place of each item that must move, so that all items connected by ``edges``, directly or
    indirectly, are in one place."""
    parent: dict[int, int] = {}

    def root(x: int) -> int:
        while (above := parent.setdefault(x, x)) != x:
            parent[x] = parent[above]
            x = above
        return x

    for a, b in edges:
        a, b = root(a), root(b)
        parent[max(a, b)] = min(a, b)
    return {x: place(root(x)) for x in parent if place(root(x)) != place(x)}


# ------------------------------------------------------------------------------ connected groups


def _origins(db: duckdb.DuckDBPyConnection, aside: Path) -> dict[int, set[int]]:
    """Compute ``grouping.origins`` for all shards, in SQL."""
    found = db.execute(f"""
        WITH told AS (SELECT * FROM read_parquet({listed(sorted(aside.glob("made-*.parquet")))})),
        made AS (SELECT * FROM told UNION ALL SELECT * REPLACE (-1 AS content) FROM told),
        named AS (  -- as in grouping.Ties.add, for parts of one group that were read apart
            SELECT DISTINCT calls.* FROM read_parquet({listed(sorted(aside.glob("named-*.parquet")))}) AS calls
            ANTI JOIN told
                ON told.owner = calls.owner AND told.emitter = calls.emitter AND told.name = calls.name
                AND (calls.content = 0 OR told.content IN (calls.content, 0))
            QUALIFY content <> 0 OR max(content) OVER (PARTITION BY owner, emitter, name) = 0
        ),
        here AS (
            SELECT emitter, name, content, min(owner) AS least, max(owner) AS greatest FROM made
            GROUP BY emitter, name, content
        ),
        anywhere AS (
            SELECT name, content, min(owner) AS least, max(owner) AS greatest FROM made GROUP BY name, content
        ),
        wanted AS (  -- calls that agree: of the same content, or of none that is told
            SELECT owner, emitter, name, content, unnest(CASE WHEN content = 0 THEN [-1] ELSE [content, 0] END) AS kind
            FROM named
        ),
        makers AS (
            SELECT
                wanted.owner, wanted.emitter, wanted.name, wanted.content,
                coalesce(min(here.least), min(anywhere.least)) AS least,
                CASE WHEN min(here.least) IS NULL THEN max(anywhere.greatest) ELSE max(here.greatest) END AS greatest
            FROM wanted
            LEFT JOIN here
                ON wanted.emitter = here.emitter AND wanted.name = here.name AND wanted.kind = here.content
            LEFT JOIN anywhere ON wanted.name = anywhere.name AND wanted.kind = anywhere.content
            GROUP BY ALL
        )
        SELECT DISTINCT owner, least FROM makers WHERE least = greatest AND least <> owner
    """).fetchall()
    out: dict[int, set[int]] = defaultdict(set)
    for group, origin in found:
        out[group].add(origin)
    return dict(out)


def _move_groups(aside: Path, read: list[_ReadShard], away: dict[int, int]) -> None:
    """Copy groups that must move into a file of their new bucket."""
    if not away:
        return
    writers: dict[int, pq.ParquetWriter] = {}
    wanted = pa.array(sorted(away), pa.int64())
    for number, shard in enumerate(read):
        file = pq.ParquetFile(aside / f"groups-{number}.parquet")
        for row_group in range(len(shard.buckets)):
            digests = file.read_row_group(row_group, columns=["digest"])["digest"]
            at = pc.index_in(digests, wanted)
            if at.null_count == len(at):
                continue
            table = file.read_row_group(row_group).filter(pc.is_valid(at))
            targets = [away[d] for d in table["digest"].to_pylist()]
            for target in sorted(set(targets)):
                if target not in writers:
                    writers[target] = pq.ParquetWriter(aside / f"moved-{target}.parquet", work.GROUPS)
                writers[target].write_table(table.filter(pa.array([t == target for t in targets])))
    for writer in writers.values():
        writer.close()


def _buckets(
    aside: Path, read: list[_ReadShard], away: dict[int, int], origins: dict[int, set[int]], evidence: Evidence,
    shards: int,
) -> Iterator[tuple[Any, ...]]:  # fmt: skip
    """The arguments of ``_assemble_bucket`` but the lake, for each bucket."""
    where: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, shard in enumerate(read):
        for row_group, bucket in enumerate(shard.buckets):
            where[bucket].append((number, row_group))
    gone: dict[int, set[int]] = defaultdict(set)
    for group in away:
        gone[group % shards].add(group)
    tied: dict[int, dict[int, set[int]]] = defaultdict(dict)
    for group, found in origins.items():
        tied[away.get(group, group % shards)][group] = found
    for bucket in range(shards):
        yield aside, bucket, where[bucket], gone[bucket], tied[bucket], evidence


# ------------------------------------------------------ conversations that continue elsewhere


def _going_on(db: duckdb.DuckDBPyConnection, aside: Path) -> list[tuple[int, int]]:
    """Return pairs of conversations of which the second may continue the first, as bucket << 40 | number."""
    return db.execute(f"""
        WITH found AS (
            SELECT
                (regexp_extract(filename, 'assembled-(\\d+)', 1)::BIGINT << 40) + number AS conversation,
                ends, beginnings, explicit, given
            FROM read_parquet({listed(sorted(aside.glob("assembled-*.parquet")))}, filename=true)
        ),
        earlier AS (SELECT conversation, unnest(ends) AS place, explicit, given FROM found),
        later AS (SELECT conversation, unnest(beginnings) AS place, explicit, given FROM found)
        SELECT DISTINCT earlier.conversation, later.conversation
        FROM earlier INNER JOIN later USING (place)
        WHERE earlier.conversation <> later.conversation
            AND (NOT (earlier.explicit OR later.explicit) OR list_has_any(earlier.given, later.given))
    """).fetchall()


def _move_conversations(aside: Path, moved: dict[int, int]) -> None:
    rows: dict[int, list[Any]] = defaultdict(list)
    wanted: dict[int, dict[int, int]] = defaultdict(dict)
    for conversation, target in moved.items():
        wanted[conversation >> 40][conversation & (1 << 40) - 1] = target
    for bucket, targets in wanted.items():
        for batch in pq.ParquetFile(aside / f"assembled-{bucket}.parquet").iter_batches(BATCH):
            for row in batch.to_pylist():
                if row["number"] in targets:
                    rows[targets[row["number"]]].append(tuple(row.values()))
    for target, found in rows.items():
        pq.write_table(to_table(found, work.ASSEMBLED), aside / f"going-on-{target}.parquet")


# ----------------------------------------------------------------------------------- the tables


def _join_files(aside: Path, name: str, into: Path) -> None:
    found = f"SELECT * FROM read_parquet({listed(sorted(aside.glob(f'{name}-*.parquet')))})"
    partial = into / f"{name}.tmp"
    with out_of_core(aside / f"{name}.spilled") as db:
        if name == "message_bodies":  # unique within a bucket; most are in one bucket only
            db.execute(f"""
                CREATE VIEW found AS {found};
                CREATE TABLE again AS SELECT message_hash FROM found GROUP BY message_hash HAVING count(*) > 1
            """)
            found = "SELECT * FROM found ANTI JOIN again USING (message_hash)"
            once = "SELECT DISTINCT ON (message_hash) * FROM found SEMI JOIN again USING (message_hash)"
            if db.execute("SELECT count(*) FROM again").fetchone() != (0,):
                found += f" UNION ALL {once}"
        db.execute(f"COPY ({found}) TO {quoted(partial)} (FORMAT parquet, COMPRESSION zstd)")
    os.replace(partial, into / f"{name}.parquet")


def _write_loose(aside: Path, totals: list[Totals], lake: Path) -> Totals | None:
    """Write the rows of judgements without a span, each with the conversation that it names. Return all that privacy
    replaced."""
    privacy = open_privacy(lake)
    rows: list[tuple[Any, ...]] = []
    left = sorted(aside.glob("loose-*.pickle"))
    with out_of_core(aside / "loose.spilled") as db:
        if left:
            _told_conversations(db, aside)
        for path in left:
            judgements: list[Evaluation] = pickle.loads(path.read_bytes())
            for e, (conversation_id, by, known) in zip(judgements, _judged(db, judgements), strict=True):
                if privacy and conversation_id:
                    privacy.remember(conversation_id, pickle.loads(known) if known else {})
                rows.append(evaluation_row(e, conversation_id, by, privacy))
    pq.write_table(to_table(rows, NORMALISED["evaluations"]), aside / "evaluations-loose.parquet", **ASIDE_AS)
    if privacy is None:
        return None
    whole = privacy.totals()
    for part in totals:
        whole.merge(part)
    return whole


def _told_conversations(db: duckdb.DuckDBPyConnection, aside: Path) -> None:
    """Create the tables by which judgements find their conversations."""
    db.execute(f"""
        CREATE VIEW told AS SELECT * FROM read_parquet({listed(sorted(aside.glob("told-*.parquet")))});
        CREATE TABLE names AS
            SELECT 'response' AS kind, unnest(response_ids) AS name, conversation_id FROM told
            UNION ALL SELECT 'conversation', unnest(names), conversation_id FROM told
            UNION ALL SELECT 'trace', unnest(trace_ids), conversation_id FROM told
    """)


def _judged(
    db: duckdb.DuckDBPyConnection, judgements: list[Evaluation]
) -> list[tuple[str | None, str | None, bytes | None]]:
    """Return each judgement's conversation, the kind of id that found it (like ``judgements.Index.find``), and the
    personal values known of the conversation."""
    asked = [
        (number, kind, name)
        for number, e in enumerate(judgements)
        for kind, name in (("response", e.response_id), ("conversation", e.conversation_id), ("trace", e.trace_id))
        if name
    ]
    schema = pa.schema([("number", pa.int64()), ("kind", pa.string()), ("name", pa.string())])
    db.register("asked", to_table(asked, schema))
    found = db.execute("""
        WITH hits AS (SELECT number, kind, conversation_id FROM asked INNER JOIN names USING (kind, name)),
        ranked AS (
            SELECT number, CASE kind WHEN 'response' THEN 1 WHEN 'conversation' THEN 3 ELSE 4 END AS place, kind,
                conversation_id
            FROM hits
            UNION ALL
            SELECT made.number, 2, 'response', made.conversation_id
            FROM hits AS made INNER JOIN hits AS told
                ON made.number = told.number AND made.conversation_id = told.conversation_id
            WHERE made.kind = 'response' AND told.kind = 'trace'
        ),
        ones AS (
            SELECT number, place, kind, min(conversation_id) AS conversation_id FROM ranked
            GROUP BY number, place, kind HAVING count(DISTINCT conversation_id) = 1
        ),
        best AS (SELECT * FROM ones QUALIFY row_number() OVER (PARTITION BY number ORDER BY place) = 1)
        SELECT best.number, best.conversation_id, best.kind, told.known
        FROM best INNER JOIN told ON best.conversation_id = told.conversation_id
    """).fetchall()
    db.unregister("asked")
    of = {number: (conversation_id, by, known) for number, conversation_id, by, known in found}
    return [of.get(number, (None, None, None)) for number in range(len(judgements))]
