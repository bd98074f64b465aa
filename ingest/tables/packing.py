"""Pack spans and conversations for other processes: pickles of plain tuples.

Pickling the objects themselves would call Python code for each object, which is much slower for millions of spans.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import fields
from itertools import starmap
from operator import attrgetter

from ingest.conversations.assembly import Assembled
from ingest.conversations.links import Link
from ingest.conversations.threads import Thread
from ingest.messages.chatform import Turn
from ingest.messages.normal import Observed

_OBSERVED = attrgetter(*(f.name for f in fields(Observed)))
_TURN = attrgetter(*(f.name for f in fields(Turn)))


def pack_spans(spans: Sequence[Observed]) -> bytes:
    """Return observed spans as bytes."""
    return pickle.dumps(list(map(_OBSERVED, spans)), 5)


def unpack_spans(packed: bytes) -> list[Observed]:
    """The same again."""
    return list(starmap(Observed, pickle.loads(packed)))


def pack_conversation(c: Assembled) -> bytes:
    """Return a conversation as bytes."""
    t = c.thread
    places: dict[int | None, int] = {id(turn): place for place, turn in enumerate(t.turns)}
    links = [
        (x.call, places[id(x.call_turn)], None if x.answer is None else places[id(x.answer)], x.repairs, x.ran)
        for x in c.links
    ]
    head = (c.conversation_id, c.agent, c.started_at_ns, c.ended_at_ns, c.trace_ids, c.dialects, c.flags, c.explicit,
            c.names)  # fmt: skip
    placed = [(trace_id, span_id, kind, places.get(id(turn))) for trace_id, span_id, kind, turn in c.placed]
    thread = (t.agent, t.response_ids, t.tools, t.start_ns, t.end_ns, t.flags, t.is_branch)
    return pickle.dumps((head, thread, list(map(_TURN, t.turns)), links, placed, c.judged), 5)


def unpack_conversation(packed: bytes) -> Assembled:
    """The same again."""
    head, thread, told, linked, found, judged = pickle.loads(packed)
    turns = list(starmap(Turn, told))
    links = [
        Link(call, turns[at], None if answer is None else turns[answer], None, repairs, ran)
        for call, at, answer, repairs, ran in linked
    ]
    placed = [(*span, None if at is None else turns[at]) for *span, at in found]
    agent, response_ids, tools, start_ns, end_ns, flags, is_branch = thread
    whole = Thread(turns, None, agent, response_ids, tools, start_ns, end_ns, [], flags, None, is_branch)
    conversation_id, agent_name, started, ended, traces, dialects, all_flags, explicit, names = head
    return Assembled(
        conversation_id, whole, links, agent_name, started, ended, traces, dialects, all_flags, explicit, names,
        placed, judged,
    )  # fmt: skip
