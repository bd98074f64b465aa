"""Attribute judgements (evaluations) to conversations. Nothing is guessed; the first rule that applies decides:

1. The thread of the judged span. For a model call or an execution this is the thread of the call; for an agent, that
   of its nearest model calls; for any other span, that of the calls in it and around it, if there is exactly one.
2. The thread with the response that the judgement names.
3. The thread of the conversation id, else of the trace, if there is exactly one.

Otherwise the judgement is unattributed: a row of ``evaluations`` without a conversation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ingest.conversations.executions import BySpan, ancestors, by_span
from ingest.conversations.grouping import Group
from ingest.conversations.threads import Thread
from ingest.messages.normal import Evaluation, Observed, SpanKey

Children = Mapping[SpanKey, Sequence[Observed]]


def take_off(observed: Iterable[Observed]) -> list[Evaluation]:
    """Remove the judgements from spans and return them."""
    out: list[Evaluation] = []
    for o in observed:
        if o.evaluations:
            out += o.evaluations
            o.evaluations = []
    return out


def identity(e: Evaluation) -> tuple[object, ...]:
    """Return what identifies a judgement. A judgement that arrives twice counts once."""
    return (e.trace_id, e.span_id, e.name, e.score, e.label, e.explanation, e.response_id, e.conversation_id, e.time_ns)


def place(judgements: Sequence[Evaluation], observed: Sequence[Observed], groups: Sequence[Group]) -> list[Evaluation]:
    """Put each judgement, with its ``anchors``, on a span of the group that has its thread. Return the judgements whose
    span is missing or has calls in several groups."""
    if not judgements:
        return []
    spans = by_span(observed)
    for o in observed:
        for trace_id, span_id, _ in o.also:
            spans.setdefault((trace_id, span_id), o)
    traces = {e.trace_id for e in judgements}
    children: dict[SpanKey, list[Observed]] = defaultdict(list)
    for o in observed:
        if o.trace_id in traces and o.parent_span_id:
            children[o.trace_id, o.parent_span_id].append(o)
    group_of = {o.key: n for n, g in enumerate(groups) for o in g.members if o.trace_id in traces}
    loose = []
    for e in {identity(e): e for e in judgements}.values():
        at = spans.get((e.trace_id, e.span_id))
        anchors = _anchors(at, spans, children) if at else ()
        owners = {group_of[key] for key in anchors[0] if key in group_of} if anchors else set()
        if len(owners) != 1:
            loose.append(e)
            continue
        e.anchors = tuple(keys for keys in anchors if {group_of.get(key) for key in keys} == owners)
        spans[e.anchors[0][0]].evaluations.append(e)
    return loose


def _anchors(o: Observed, spans: BySpan, children: Children) -> tuple[tuple[SpanKey, ...], ...]:
    """Return the spans whose thread is the thread of ``o``: several alternatives, the best first."""
    around = _around(o, spans, children)
    if o.kind in ("inference", "execution"):
        found = [(o.key,), around]
    elif o.kind == "agent":
        found = [(o.key,), _nearest_calls(o, children), around]
    else:
        found = [tuple(dict.fromkeys((*_nearest_calls(o, children), *around)))]
    return tuple(keys for keys in found if keys)


def _around(o: Observed, spans: BySpan, children: Children) -> tuple[SpanKey, ...]:
    for a in ancestors(o, spans):
        if a.kind in ("inference", "execution"):
            return (a.key,)
        if a.kind == "agent" and (found := _nearest_calls(a, children)):
            return found
    return ()


def _nearest_calls(o: Observed, children: Children) -> tuple[SpanKey, ...]:
    """Return the nearest model calls below a span, or else the nearest executions: fewest agents between first, then
    fewest spans. Spans below an execution are not searched."""
    level, seen = [(o, 0)], {o.key}
    calls: dict[int, list[SpanKey]] = {}
    runs: dict[int, list[SpanKey]] = {}
    while level:
        below: list[tuple[Observed, int]] = []
        here: dict[int, list[SpanKey]] = defaultdict(list)
        ran: dict[int, list[SpanKey]] = defaultdict(list)
        for at, agents in level:
            for child in children.get(at.key, ()):
                if child.key in seen:
                    continue
                seen.add(child.key)
                if child.kind == "inference":
                    here[agents].append(child.key)
                elif child.kind == "execution":
                    ran[agents].append(child.key)
                else:
                    below.append((child, agents + (child.kind == "agent" and bool(child.agent))))
        calls = {**here, **calls}
        runs = {**ran, **runs}
        level = below
    found = calls or runs
    return tuple(found[min(found)]) if found else ()


def thread_of(e: Evaluation, place_of: Mapping[SpanKey, int], threads: Sequence[Thread], spans: BySpan) -> int | None:
    """Return the number of a judgement's thread in its group; None if there is not exactly one."""
    o = spans.get((e.trace_id, e.span_id))
    if e.response_id and o and o.kind == "inference" and o.response_id not in (None, e.response_id):
        judged = [n for n, t in enumerate(threads) if e.response_id in t.response_ids]
        if len(judged) == 1:
            return judged[0]  # it stands on the judge's own call
    for keys in e.anchors:
        found = {place_of[key] for key in keys if key in place_of}
        if len(found) > 1 and o:
            found = _told_by(o, found, threads)
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _told_by(o: Observed, found: set[int], threads: Sequence[Thread]) -> set[int]:
    """Of several threads, return the one whose last message is the output of the agent's span."""
    said = [p.get("content") for m in o.output for p in m["parts"] if p["type"] == "text" and p.get("content")]
    same = {n for n in found if said and threads[n].turns[-1].message.get("content") == said[-1]}
    return same if len(same) == 1 else found


# ------------------------------------------------------------------------ judgements without a span


@dataclass(frozen=True)
class Named:
    """The ids by which one conversation is found."""

    conversation_id: str
    names: frozenset[str]  # the conversation ids of its spans
    trace_ids: frozenset[str]
    response_ids: frozenset[str]


@dataclass
class Index:
    """Finds conversations by response, conversation and trace ids."""

    by_response: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    by_name: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    by_trace: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, told: Named) -> None:
        """Add a conversation."""
        for found, names in (
            (self.by_response, told.response_ids), (self.by_name, told.names), (self.by_trace, told.trace_ids)
        ):  # fmt: skip
            for name in names:
                found[name].add(told.conversation_id)

    def find(self, e: Evaluation) -> tuple[str | None, str | None]:
        """Return the conversation of a judgement and the kind of id that found it; (None, None) if no id finds exactly
        one."""
        of_trace = self.by_trace.get(e.trace_id, set())
        made = self.by_response.get(e.response_id or "", set())
        for by, found in (
            ("response", made), ("response", made & of_trace),
            ("conversation", self.by_name.get(e.conversation_id or "", set())), ("trace", of_trace),
        ):  # fmt: skip
            if len(found) == 1:
                return next(iter(found)), by
        return None, None
