"""Random mixtures of all corpora, normalised in memory, which is cheap enough for hundreds of them: nothing is lost or
counted twice, and neither the order of arrival nor reading the traces apart changes a row."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_conservation import CHANGES, CORPORA, QUIET, Values, pieces

from ingest.conversations.assembly import Left, conversations_of, groups_of, join_by_history
from ingest.conversations.grouping import Group, Ties, origins
from ingest.conversations.hidden_history import Evidence
from ingest.conversations.judgements import Index
from ingest.formats import otlp
from ingest.tables.conservation import _facts
from ingest.tables.normalise import (
    COLUMNS,
    Normalised,
    add_conversations,
    evaluation_row,
    left_rows,
    named,
    normalise,
    read,
)
from ingest.tables.packing import pack_spans, unpack_spans

Raw = dict[str, list[tuple[Any, ...]]]
SHARDS = 3


def raw_rows(found: list[Values]) -> Raw:
    """The raw rows of requests, each once, as a lake has them."""
    rows = otlp.Rows()
    for piece in found:
        otlp.add_json_request(piece, rows, 0, "test")
    out: Raw = {}
    for name, schema in otlp.SCHEMAS.items():
        at = [schema.get_field_index(column) for column in COLUMNS[name]]
        known = schema.get_field_index("row_hash")
        once = {row[known]: row for row in reversed(getattr(rows, name))}
        out[name] = [tuple(row[i] for i in at) for row in reversed(once.values())]
    return out


def tables_of(made: Normalised) -> dict[str, list[str]]:
    """The rows of each table, the order aside, and the counts."""
    rows = {name: sorted(json.dumps(row, default=str) for row in found) for name, found in made.rows.items()}
    return rows | {"read_counts": [f"{kind} {count}" for kind, count in sorted(made.read_counts.items())]}


def read_apart(raw: Raw, shard_of: dict[str, int]) -> Normalised:
    """What is made of traces that are read in shards, whose groups meet as packed spans."""
    ties, evidence, counts = Ties(), Evidence(), Counter[str]()
    groups: dict[str, Group] = {}
    left, index, out = Left(), Index(), Normalised()
    for shard in range(SHARDS):
        here = {name: [row for row in rows if shard_of.get(row[0], 0) == shard] for name, rows in raw.items()}
        kinds: dict[str, int] = {}
        for g in groups_of(*read(here["spans"], here["log_records"], {}, kinds), left):
            ties.add(g)
            evidence.add(g.members)
            groups.setdefault(g.key, Group(g.key, g.explicit)).members += unpack_spans(pack_spans(g.members))
        counts.update(kinds)
    conversations = join_by_history(conversations_of(groups.values(), origins(ties), evidence, left))
    add_conversations(out.rows, conversations, None)
    for c in conversations:
        index.add(named(c))
    out.rows["evaluations"] += [evaluation_row(e, *index.find(e), None) for e in left.judgements]
    out.rows["placements"] += left_rows(left)
    out.read_counts = dict(counts)
    return out


def faults(raw: Raw, made: Normalised) -> list[tuple[Any, ...]]:
    """Outputs and executions of the raw rows that are nowhere, in several conversations, or not as told."""
    places: dict[tuple[str, str, str], list[tuple[Any, ...]]] = defaultdict(list)
    for conversation_id, trace_id, span_id, kind, position, reason in made.rows["placements"]:
        places[kind, trace_id, span_id].append((conversation_id, position, reason))
    bodies = {row[0]: row for row in made.rows["message_bodies"]}
    messages = {(row[0], row[1]): (bodies[row[2]], row[4]) for row in made.rows["conversation_messages"]}
    rebuilt = {row[0] for row in made.rows["conversation_facts"] if "rebuilt" in row[6]}
    out: list[tuple[Any, ...]] = []
    for kind, trace_id, span_id, role, calls, says in _facts(read(raw["spans"], raw["log_records"], {})[0]):
        found = places[kind, trace_id, span_id]
        homes = {c for c, _, _ in found if c is not None}
        reasons = {reason for _, _, reason in found if reason}
        if len(homes) > 1 or not (homes or reasons):
            out.append((kind, trace_id, span_id, "in", homes))
        elif not homes and role and kind == "inference" and reasons != {"around_model_calls"}:
            out.append((kind, trace_id, span_id, "has output, but counts as", reasons))
        elif homes and role and not homes & rebuilt:
            spots = [messages[c, position] for c, position, _ in found if (c, position) in messages]
            if not any(_is_there(kind, role, calls, says, *spot) for spot in spots):
                out.append((kind, trace_id, span_id, "not as told", role, calls))
    return out


def _is_there(kind: str, role: str, calls: list[str], says: bool, body: tuple[Any, ...], name: str | None) -> bool:
    made = [call["name"] for call in json.loads(body[3] or "[]")]
    if kind == "inference":
        is_whole = made == calls or (len(made) > len(calls) and not Counter(calls) - Counter(made))
        return body[1] == role and is_whole and (body[2] is not None or not says)
    is_named = not calls or name == calls[0] or calls[0] in made
    return is_named and (not says or (body[1] == "tool" and body[2] is not None))


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[list[Values], int]:
    """Rows of some corpora, each kept or changed, and a seed. A corpus may come twice, in other traces. The changes are
    drawn with the seed: a draw of its own for each row would be too much data for an example."""
    names = draw(st.lists(st.sampled_from(sorted(CORPORA)), min_size=1, max_size=3))
    kinds = [*draw(st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=4)), "kept"]
    seed = draw(st.integers(0, 2**32))
    rng = Random(seed)
    rows = [piece for number, name in enumerate(names, 1) for piece in pieces(CORPORA[name], number)]
    return [made for piece in rows for made in CHANGES[rng.choice(kinds)](piece)], seed


@pytest.mark.slow
@settings(deadline=None, max_examples=300, suppress_health_check=QUIET)
@given(mixtures())
def test_random_mixtures_are_conserved(mixture: tuple[list[Values], int]) -> None:
    found, seed = mixture
    rng, raw = Random(seed), raw_rows(found)
    whole = normalise(raw["spans"], raw["log_records"])
    assert not faults(raw, whole)
    shuffled = {name: rng.sample(rows, len(rows)) for name, rows in raw.items()}
    assert tables_of(normalise(shuffled["spans"], shuffled["log_records"])) == tables_of(whole)
    traces = sorted({row[0] for rows in raw.values() for row in rows if row[0]})
    apart = read_apart(raw, {trace_id: rng.randrange(SHARDS) for trace_id in traces})
    assert tables_of(apart) == tables_of(whole)
