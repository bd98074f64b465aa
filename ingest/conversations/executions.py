"""Merge spans that were exported twice, and nested spans of one tool execution.

A span may be exported when it begins and when it ends, or by two collectors; the fuller record counts. One execution
often has several nested spans: of a framework, an MCP client, an MCP server, a second instrumentation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from ingest.messages.chatform import key_of
from ingest.messages.normal import Observed, SpanKey

BySpan = dict[SpanKey, Observed]
MAX_DEPTH = 64  # ends the walk where parents form a cycle
_FIELDS = ("tool_name", "call_id", "arguments", "result", "error_message", "agent", "conversation_id")
_TOLD = (*_FIELDS, "parent_span_id", "dialect", "model", "response_id", "previous_response_id", "input", "output",
         "alternatives", "tools", "input_tokens", "emitter")  # fmt: skip


def by_span(observed: Sequence[Observed]) -> BySpan:
    """Return spans by (trace id, span id)."""
    return {(o.trace_id, o.span_id): o for o in observed}


def ancestors(o: Observed, spans: BySpan) -> list[Observed]:
    """The spans around a span, from the nearest outwards."""
    out: list[Observed] = []
    at = spans.get((o.trace_id, o.parent_span_id))
    while at is not None and len(out) < MAX_DEPTH:
        out.append(at)
        at = spans.get((at.trace_id, at.parent_span_id))
    return out


class Scope(NamedTuple):
    """The position of a span: the name of the nearest enclosing agent, the key of the nearest enclosing agent or tool
    span (``run``), the key of the nearest enclosing model call (``within``), and the tools of the nearest enclosing
    agent, if its span defines them."""

    agent: str | None
    run: SpanKey
    within: SpanKey | None
    tools: list[dict[str, Any]]


class Scopes:
    """The scopes of spans, computed once for each parent."""

    def __init__(self, spans: BySpan) -> None:
        self.spans = spans
        self._known: dict[SpanKey, Scope] = {}
        self._around: dict[SpanKey, list[Observed]] = {}

    def around(self, o: Observed) -> list[Observed]:
        """The spans around a span, from the nearest outwards."""
        at = o.trace_id, o.parent_span_id
        known = self._around.get(at)
        if known is None:
            known = self._around[at] = ancestors(o, self.spans)
        return known

    def of(self, o: Observed) -> Scope:
        """Return the scope of a span."""
        at = o.trace_id, o.parent_span_id
        known = self._known.get(at)
        if known is None:
            known = self._known[at] = self._read(o)
        return known

    def at(self, key: SpanKey) -> Scope | None:
        """Return the scope of the span with a key; None if there is no such span."""
        o = self.spans.get(key)
        return self.of(o) if o else None

    def _read(self, o: Observed) -> Scope:
        around = self.around(o)
        agent = next((a.agent for a in around if a.kind == "agent" and a.agent), None)
        run = next((a.key for a in around if a.kind in ("agent", "execution")), (o.trace_id, ""))
        within = next((a.key for a in around if a.kind == "inference"), None)
        tools = next((a.tools for a in around if a.kind == "agent" and (a.tools or a.agent)), [])
        return Scope(agent, run, within, tools)


# --------------------------------------------------------------------------- one span exported twice


def merge_tellings(observed: list[Observed]) -> list[Observed]:
    """Return each span once: its fullest record, completed from the others. The order of arrival does not matter."""
    if len({(o.trace_id, o.span_id) for o in observed}) == len(observed):
        return observed
    tellings: dict[SpanKey, list[Observed]] = defaultdict(list)
    for o in observed:
        tellings[o.key].append(o)
    return [_merged(found) if len(found) > 1 else found[0] for found in tellings.values()]


def _merged(tellings: list[Observed]) -> Observed:
    whole, *others = sorted(tellings, key=lambda o: (_fullness(o), o.end_ns, repr(o)), reverse=True)
    last = max(tellings, key=lambda o: (o.end_ns, o.is_error, repr(o)))
    for o in others:
        if whole.kind == "other":
            whole.kind = o.kind
        for name in _TOLD:
            if not getattr(whole, name) and getattr(whole, name) is not False and getattr(o, name):
                setattr(whole, name, getattr(o, name))
        whole.evaluations += [e for e in o.evaluations if e not in whole.evaluations]
    whole.is_error, whole.error_type, whole.error_message = last.is_error, last.error_type, last.error_message
    whole.start_ns = min((o.start_ns for o in tellings if o.start_ns), default=0)
    whole.end_ns = last.end_ns
    return whole


def _fullness(o: Observed) -> int:
    parts = sum(len(m["parts"]) for m in (*o.input, *o.output))
    told = (o.result is not None, o.arguments is not None, bool(o.call_id), bool(o.tool_name), bool(o.response_id))
    return 2 * (parts + sum(told)) + (o.kind != "other") - o.is_cut


# ---------------------------------------------------------------- one execution in nested spans


def merge_nested(observed: list[Observed]) -> list[Observed]:
    """Return the spans without executions that repeat an enclosing execution, which takes over their fields. An error
    of the inner span counts: a client that passes an error on has not failed itself. Of several inner attempts the last
    one decides the outcome."""
    runs = {o.span_id for o in observed if o.kind == "execution"}
    if not any(o.parent_span_id in runs for o in observed):
        return observed  # no execution encloses another span
    scopes = Scopes(by_span(observed))
    outer_of: dict[int, Observed] = {}
    for o in observed:
        if o.kind == "execution":
            around = next((a for a in scopes.around(o) if a.kind == "execution"), None)
            if around is not None and _same_run(o, around):
                outer_of[id(o)] = around
    decided: set[int] = set()
    for o in sorted((o for o in observed if id(o) in outer_of), key=lambda o: -o.start_ns):
        outer = outer_of[id(o)]
        _take(outer, o, is_last=id(outer) not in decided)
        decided.add(id(outer))
    return [o for o in observed if id(o) not in outer_of]


def _same_run(inner: Observed, outer: Observed) -> bool:
    if inner.tool_name and outer.tool_name and inner.tool_name != outer.tool_name and not _is_shown(inner, outer):
        return False
    if inner.call_id and outer.call_id and inner.call_id != outer.call_id:
        return False
    told_twice = inner.arguments is not None and outer.arguments is not None
    return not told_twice or key_of(inner.arguments) == key_of(outer.arguments)


def _is_shown(inner: Observed, outer: Observed) -> bool:
    """Whether two names may differ because one of them is only a display name (a class, a span name). Both spans must
    have arguments."""
    told_twice = inner.arguments is not None and outer.arguments is not None
    return told_twice and inner.is_display_name != outer.is_display_name


def _take(outer: Observed, inner: Observed, is_last: bool) -> None:
    if outer.is_display_name and inner.tool_name and not inner.is_display_name:
        outer.tool_name, outer.is_display_name = inner.tool_name, False
    for name in _FIELDS:
        if getattr(outer, name) in (None, "") and (is_last or name != "error_message"):
            setattr(outer, name, getattr(inner, name))
    if is_last:
        outer.is_error = outer.is_error or inner.is_error
        outer.error_type = outer.error_type or inner.error_type
    outer.flags += inner.flags
    outer.evaluations += inner.evaluations
    outer.also += [(*inner.key, inner.kind), *inner.also]


def name_by_calls(executions: list[Observed], calls: list[Observed]) -> None:
    """Rename executions whose spans have display names (Get Order) to the tool names that the models call."""
    names = {p["name"] for c in calls for m in c.output for p in m["parts"] if p["type"] == "tool_call"}
    strange = [e for e in executions if e.tool_name and e.tool_name not in names]
    if not strange or not names:
        return
    found: dict[str, set[str]] = {}
    for name in names:
        found.setdefault(plain_name(name), set()).add(name)
    for e in strange:
        same = found.get(plain_name(e.tool_name or ""), set())
        if len(same) == 1:
            e.tool_name = next(iter(same))


def plain_name(name: str) -> str:
    """Return a tool's name in lower case without separators."""
    return "".join(c for c in name.lower() if c.isalnum())


def demote_inferred(observed: list[Observed]) -> None:
    """Turn inferred model calls into agent spans where they enclose model calls, or where they name no model and other
    calls of their trace do."""
    if not any(o.dialect == "inferred" for o in observed):
        return
    spans = by_span(observed)
    calls = [o for o in observed if o.kind == "inference" and (o.input or o.output)]
    modelled = {o.trace_id for o in calls if o.model or o.dialect != "inferred"}
    for o in calls:
        for around in ancestors(o, spans):
            if around.kind == "inference" and around.dialect == "inferred":
                _demote(around)
        if o.kind == "inference" and o.dialect == "inferred" and not o.model and o.trace_id in modelled:
            _demote(o)


DEMOTED = "demoted"


def _demote(o: Observed) -> None:
    o.kind = "agent"
    o.also += [(*key, DEMOTED) for key in o.output_keys]
