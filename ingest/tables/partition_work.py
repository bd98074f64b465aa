"""The steps of a normalisation in parts, as functions of rows and tables. ``partitioned`` and ``spark`` run them.

A shard holds the raw rows of some traces, a bucket some groups of spans. Between the steps, groups and conversations
that belong together are moved to one bucket by the columns beside the pickled objects.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ingest.conversations.assembly import (
    Assembled,
    Left,
    conversations_of,
    given_ids,
    groups_of,
    join_by_history,
    tie_hashes,
)
from ingest.conversations.grouping import Group, Ties, digest
from ingest.conversations.hidden_history import Evidence
from ingest.formats.otlp import to_table
from ingest.messages.normal import Evaluation
from ingest.privacy.conversations import Privacy
from ingest.tables.normalise import NORMALISED, Normalised, add_conversations, named, read, rows_of
from ingest.tables.packing import pack_conversation, pack_spans, unpack_spans

GROUPS = pa.schema([("digest", pa.int64()), ("key", pa.string()), ("explicit", pa.bool_()), ("members", pa.binary())])
TIES = pa.schema([("owner", pa.int64()), ("emitter", pa.int64()), ("name", pa.int64()), ("content", pa.int64())])
ASSEMBLED = pa.schema(
    [("number", pa.int64()), ("ends", pa.list_(pa.binary())), ("beginnings", pa.list_(pa.binary())),
     ("explicit", pa.bool_()), ("given", pa.list_(pa.int64())), ("conversation", pa.binary())]
)  # fmt: skip
TOLD = pa.schema(
    [("conversation_id", pa.string()), ("names", pa.list_(pa.string())), ("trace_ids", pa.list_(pa.string())),
     ("response_ids", pa.list_(pa.string())), ("known", pa.binary())]
)  # fmt: skip
Rows = list[tuple[Any, ...]]
MAX_GOING_ON = 0.05  # of a bucket's conversations, if their rows are to be written as soon as they are assembled


@dataclass
class Shard:
    """What was read of a shard: rows of ``GROUPS`` and of ``TIES`` (ids made, ids named), the evidence for hidden
    histories, judgements without a span in exactly one group, and counts: spans by dialect, items by kind, and log
    records that were not understood."""

    groups: Rows
    made: Rows
    named: Rows
    evidence: Evidence
    evaluations: list[Evaluation]
    dialect_counts: dict[str, int] = field(default_factory=dict)
    read_counts: dict[str, int] = field(default_factory=dict)
    unread_records: dict[str, int] = field(default_factory=dict)


def read_shard(spans: Iterable[pa.RecordBatch], records: Iterable[pa.RecordBatch]) -> Shard:
    """Read all spans of some traces, in the order of arrival."""
    counts: dict[str, int] = {}
    found: dict[str, int] = {}
    unread: dict[str, int] = {}
    observed, judged = read(rows_of(spans, "spans"), rows_of(records, "log_records"), counts, found, unread)
    ties, evidence, left = Ties(), Evidence(), Left()
    rows: Rows = []
    for g in groups_of(observed, judged, left):
        ties.add(g)
        evidence.add(g.members)
        rows.append((g.digest, g.key, g.explicit, pack_spans(g.members)))
    return Shard(rows, ties.made, ties.named, evidence, left.judgements, counts, found, unread)


def assemble_bucket(
    tables: Iterable[pa.Table], origins: dict[int, set[int]], evidence: Evidence, left: Left
) -> list[Assembled]:
    """Return the conversations of a bucket's groups; add what is in none of them to ``left``. ``tables`` have the
    schema ``GROUPS``; one group may have several rows."""
    found: dict[str, Group] = {}
    for table in tables:
        for row in table.to_pylist():
            g = found.setdefault(row["key"], Group(row["key"], row["explicit"]))
            g.members += unpack_spans(row["members"])
    return conversations_of(found.values(), origins, evidence, left)


def stand_alone(conversations: Sequence[Assembled]) -> bool:
    """Guess whether almost no conversation continues in another bucket: the others have no assistant turn that is
    known from a history only."""
    return sum(map(_repeats_others, conversations)) <= MAX_GOING_ON * len(conversations)


def _repeats_others(c: Assembled) -> bool:
    return any(turn.message["role"] == "assistant" and not turn.sent for turn in c.thread.turns)


def index_of(conversations: Iterable[Assembled], packed: bool) -> pa.Table:
    """Return rows of ``ASSEMBLED``, which show what conversations continue each other. With ``packed``, the rows have
    the conversations themselves."""
    rows: Rows = []
    for number, c in enumerate(conversations):
        ends, beginnings = tie_hashes(c)
        given = [digest(call_id) for call_id in sorted(given_ids(c))]
        told = pack_conversation(c) if packed else None
        rows.append((number, ends, beginnings, c.explicit, given, told))
    return to_table(rows, ASSEMBLED)


def write_bucket(conversations: list[Assembled], privacy: Privacy | None) -> dict[str, pa.Table]:
    """Return the rows of a bucket's conversations by table: the normalised tables, and ``told``, by which judgements
    without a span find their conversations and the personal values in them."""
    joined = join_by_history(conversations)
    made = Normalised()
    add_conversations(made.rows, joined, privacy)
    told: Rows = []
    for c in joined:
        known = pickle.dumps(privacy.known_of(c.conversation_id), 5) if privacy else None
        n = named(c)
        told.append((n.conversation_id, sorted(n.names), sorted(n.trace_ids), sorted(n.response_ids), known))
    return {**{n: to_table(made.rows[n], schema) for n, schema in NORMALISED.items()}, "told": to_table(told, TOLD)}
