"""One run of a tool is often told by several spans, one within the other: a framework's, an MCP client's, an
MCP server's, a second instrumentation's. They become one."""

from __future__ import annotations

from ingest.messages.chatform import key_of
from ingest.messages.normal import Observed

BySpan = dict[tuple[str, str], Observed]
MAX_DEPTH = 64  # a cycle of parents must not hang us
_FIELDS = ("tool_name", "call_id", "arguments", "result", "error_message", "agent", "conversation_id")


def by_span(observed: list[Observed]) -> BySpan:
    """The spans by trace and span id."""
    return {(o.trace_id, o.span_id): o for o in observed}


def ancestors(o: Observed, spans: BySpan) -> list[Observed]:
    """The spans around a span, from the nearest outwards."""
    out: list[Observed] = []
    at = spans.get((o.trace_id, o.parent_span_id))
    while at is not None and len(out) < MAX_DEPTH:
        out.append(at)
        at = spans.get((at.trace_id, at.parent_span_id))
    return out


def merge_nested(observed: list[Observed]) -> list[Observed]:
    """The same spans without those executions that only repeat the one around them, which now has what they
    knew. An error inside counts: a client that hands an error answer on has itself not failed."""
    spans = by_span(observed)
    outer_of: dict[int, Observed] = {}
    for o in observed:
        if o.kind == "execution":
            around = next((a for a in ancestors(o, spans) if a.kind == "execution"), None)
            if around is not None and _same_run(o, around):
                outer_of[id(o)] = around
    for o in sorted((o for o in observed if id(o) in outer_of), key=lambda o: -o.start_ns):
        _take(outer_of[id(o)], o)
    return [o for o in observed if id(o) not in outer_of]


def _same_run(inner: Observed, outer: Observed) -> bool:
    if inner.tool_name and outer.tool_name and inner.tool_name != outer.tool_name and not _is_shown(inner, outer):
        return False
    if inner.call_id and outer.call_id and inner.call_id != outer.call_id:
        return False
    told_twice = inner.arguments is not None and outer.arguments is not None
    return not told_twice or key_of(inner.arguments) == key_of(outer.arguments)


def _is_shown(inner: Observed, outer: Observed) -> bool:
    """Whether the names may differ because one of two spans that tell the same arguments only shows a name for people
    (a class, a span's name)."""
    told_twice = inner.arguments is not None and outer.arguments is not None
    return told_twice and inner.is_display_name != outer.is_display_name


def _take(outer: Observed, inner: Observed) -> None:
    if outer.is_display_name and inner.tool_name and not inner.is_display_name:
        outer.tool_name, outer.is_display_name = inner.tool_name, False
    for name in _FIELDS:
        if getattr(outer, name) in (None, ""):
            setattr(outer, name, getattr(inner, name))
    outer.is_error = outer.is_error or inner.is_error
    outer.error_type = outer.error_type or inner.error_type
    outer.flags += inner.flags


def name_by_calls(executions: list[Observed], calls: list[Observed]) -> None:
    """Gives executions the names by which models call their tools, where spans show names for people (Get Order)."""
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
    """A tool's name without case and separators."""
    return "".join(c for c in name.lower() if c.isalnum())


def demote_inferred(observed: list[Observed]) -> None:
    """A span read only by its shape that has model calls within is no model call but what led to them; nor is
    one that names no model, where others of its trace do."""
    if not any(o.dialect == "inferred" for o in observed):
        return
    spans = by_span(observed)
    calls = [o for o in observed if o.kind == "inference" and (o.input or o.output)]
    modelled = {o.trace_id for o in calls if o.model or o.dialect != "inferred"}
    for o in calls:
        for around in ancestors(o, spans):
            if around.kind == "inference" and around.dialect == "inferred":
                around.kind = "agent"
        if o.dialect == "inferred" and not o.model and o.trace_id in modelled:
            o.kind = "agent"
