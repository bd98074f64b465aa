"""GenAI events of the standard that name no span. The events of one model call are read like those of a span."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import xxhash

from ingest.dialects.logs.events import session_of
from ingest.dialects.otel import DETAILS
from ingest.messages.normal import LogRecord, Span
from ingest.session_ids import KEYS, TRACE

_CHOICE = "gen_ai.choice"
_MESSAGE = (".message", _CHOICE)


def spans_of(records: Iterable[LogRecord]) -> Iterator[Span]:
    """One span for each model call in records without trace ids: a details event, or the messages of a session up to a
    choice. Messages without a session are ignored."""
    open_calls: dict[str, list[LogRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda r: r.time_ns):
        session = session_of(record)
        if record.event_name == DETAILS:
            yield _span([record], session)
        elif session is not None and record.event_name.startswith("gen_ai.") and record.event_name.endswith(_MESSAGE):
            call = open_calls[session]
            call.append(record)
            if record.event_name == _CHOICE:
                yield _span(open_calls.pop(session), session)
    for session, left in open_calls.items():  # asked, and not answered
        yield _span(left, session)


def _span(told: list[LogRecord], session: str | None) -> Span:
    identity = xxhash.xxh3_128_hexdigest(
        repr([(r.time_ns, r.body, r.attributes) for r in told]).encode("utf-8", "replace")
    )
    trace_id = TRACE + session if session else identity
    attributes = {k: v for k, v in told[-1].attributes.items() if k in KEYS or k.startswith("gen_ai.")}
    return Span(
        trace_id, identity[:16], "", "", 0, told[0].time_ns, told[-1].time_ns, attributes, [], 0, "", told[0].scope, "",
        told[0].resource, records=told,
    )  # fmt: skip
