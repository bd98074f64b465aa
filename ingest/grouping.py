"""Which spans belong to one conversation: by conversation id, by trace, and by what a call's history proves."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

from ingest.executions import ancestors, by_span
from ingest.normal import Observed
from ingest.shapes import NormalMessage

_QUOTED_ID = re.compile(r"""['"](?:tool_call_)?id['"]:\s*['"]([\w.:-]{6,})['"]""")  # calls told as text


@dataclass(slots=True)
class Group:
    """The spans of one conversation. ``explicit`` if an id says so, else ``key`` is a trace id."""

    key: str
    explicit: bool
    members: list[Observed] = field(default_factory=list)


def groups(observed: list[Observed]) -> list[Group]:
    """Every span in exactly one group, the oldest group first."""
    found: dict[str, Group] = {}
    for o, (key, explicit) in zip(observed, _keys(observed), strict=True):
        found.setdefault(key, Group(key, explicit)).members.append(o)
    ordered = sorted(found.values(), key=lambda g: min(o.start_ns for o in g.members))
    return _joined_by_ids(ordered)


def _keys(observed: list[Observed]) -> list[tuple[str, bool]]:
    """A span's conversation: what it says, else what the spans around it say, else the only one of its trace."""
    spans = by_span(observed)
    of_trace: dict[str, set[str]] = defaultdict(set)
    for o in observed:
        if o.conversation_id:
            of_trace[o.trace_id].add(o.conversation_id)
    out = []
    for o in observed:
        around = [o, *ancestors(o, spans)]
        said = next((a.conversation_id for a in around if a.conversation_id), None)
        if said is None and len(of_trace[o.trace_id]) == 1:
            said = next(iter(of_trace[o.trace_id]))
        out.append((said or o.trace_id, said is not None))
    return out


def _joined_by_ids(ordered: list[Group]) -> list[Group]:
    """Joins a group without a conversation id to the one whose model made the calls, or the response, that its
    history names. An id that two groups made proves nothing."""
    made: dict[tuple[str, str], set[str]] = defaultdict(set)
    for g in ordered:
        for o in g.members:
            for name in _made_ids(o):
                made[o.emitter, name].add(g.key)
                made["", name].add(g.key)
    kept: dict[str, Group] = {}
    now: dict[str, str] = {}
    for g in ordered:
        earlier = next((now[k] for k in _named(g, made) if k in now), None)
        target = kept.get(earlier or "")
        if target is None or (g.explicit and target.explicit):
            kept[g.key] = g
            now[g.key] = g.key
        else:
            target.members += g.members
            now[g.key] = target.key
            if g.explicit:
                target.key, target.explicit = g.key, True
                kept[g.key] = target
    return list({id(g): g for g in kept.values()}.values())


def _made_ids(o: Observed) -> set[str]:
    if o.kind != "inference":
        return set()
    calls = {p["id"] for m in o.output for p in m["parts"] if p["type"] == "tool_call" and p.get("id")}
    return calls | ({o.response_id} if o.response_id else set())


def _named(g: Group, made: dict[tuple[str, str], set[str]]) -> list[str]:
    """Keys of the groups that made what this group's histories name: in the same process, else anywhere."""
    out: list[str] = []
    for o in g.members:
        names = told_ids(o.input) | ({o.previous_response_id} if o.previous_response_id else set())
        for name in names if o.kind == "inference" else ():
            origins = made.get((o.emitter, name)) or made.get(("", name), set())
            if len(origins) == 1 and g.key not in origins:
                out += origins
    return out


def told_ids(messages: list[NormalMessage]) -> set[str]:
    """Ids of the calls that messages tell, also where a framework tells them as text."""
    out: set[str] = set()
    for part in (p for m in messages for p in m["parts"]):
        if part.get("id"):
            out.add(str(part["id"]))
        elif isinstance(part.get("content"), str) and "id" in part["content"]:
            out.update(_QUOTED_ID.findall(part["content"]))
    return out
