"""Which spans belong to one conversation: by conversation id, by trace, and by what a call's history proves.

``split`` needs all spans of a trace and nothing else; what ties groups of different traces is in ``Ties``, which is
small. So traces can be read apart from each other, and only groups that are tied must meet.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

import xxhash

from ingest.conversations.executions import ancestors, by_span
from ingest.messages.normal import Observed
from ingest.messages.shapes import NormalMessage

_QUOTED_ID = re.compile(r"""['"](?:tool_call_)?id['"]:\s*['"]([\w.:-]{6,})['"]""")  # calls told as text


@dataclass(slots=True)
class Group:
    """The spans of one conversation. ``explicit`` if an id says so, else ``key`` is a trace id."""

    key: str
    explicit: bool
    members: list[Observed] = field(default_factory=list)

    @property
    def digest(self) -> int:
        """The key in 63 bits."""
        return digest(self.key)


def digest(text: str) -> int:
    """63 bits that tell keys and ids apart: an integer of every engine, which knows no unsigned ones."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "replace")) >> 1


def split(observed: list[Observed]) -> list[Group]:
    """Every span in exactly one group, in the order of their first spans."""
    found: dict[str, Group] = {}
    for o, (key, explicit) in zip(observed, _keys(observed), strict=True):
        found.setdefault(key, Group(key, explicit)).members.append(o)
    return list(found.values())


def _keys(observed: list[Observed]) -> list[tuple[str, bool]]:
    """A span's conversation: what it says, else what the spans around it say, else the only one of its trace."""
    spans = by_span(observed)
    of_trace: dict[str, set[str]] = defaultdict(set)
    for o in observed:
        if o.conversation_id:
            of_trace[o.trace_id].add(o.conversation_id)
    out = []
    for o in observed:
        said = o.conversation_id or next((a.conversation_id for a in ancestors(o, spans) if a.conversation_id), None)
        if said is None and len(of_trace[o.trace_id]) == 1:
            said = next(iter(of_trace[o.trace_id]))
        out.append((said or o.trace_id, said is not None))
    return out


@dataclass
class Ties:
    """Who made ids (of calls, of responses) and who names them: rows of (group, emitter, id), a digest each."""

    made: list[tuple[int, int, int]] = field(default_factory=list)
    named: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, g: Group) -> None:
        """Adds a group's rows. What it names and made itself, in the same process, ties it to nobody."""
        made = {(o.emitter, name) for o in g.members for name in _made_ids(o)}
        named: set[tuple[str, str]] = set()
        read: dict[str, set[int]] = defaultdict(set)  # messages that several spans tell are looked at once
        for o in g.members:
            if o.kind == "inference":
                known = read[o.emitter]
                news = [m for m in o.input if id(m) not in known]
                known.update(map(id, news))
                named.update((o.emitter, name) for name in told_ids(news))
                if o.previous_response_id:
                    named.add((o.emitter, o.previous_response_id))
        named -= made
        key = g.digest
        emitters = {emitter: digest(emitter) for emitter in {*(e for e, _ in made), *(e for e, _ in named)}}
        self.made += [(key, emitters[emitter], digest(name)) for emitter, name in made]
        self.named += [(key, emitters[emitter], digest(name)) for emitter, name in named]


def origins(ties: Ties) -> dict[int, set[int]]:
    """For each group that names others' ids, who made them: in the same process, else anywhere. An id that two
    groups made proves nothing."""
    here: dict[tuple[int, int], set[int]] = defaultdict(set)
    anywhere: dict[int, set[int]] = defaultdict(set)
    for group, emitter, name in ties.made:
        here[emitter, name].add(group)
        anywhere[name].add(group)
    found: dict[int, set[int]] = defaultdict(set)
    for group, emitter, name in ties.named:
        makers = here.get((emitter, name)) or anywhere.get(name, set())
        if len(makers) == 1 and group not in makers:
            found[group] |= makers
    return dict(found)


def joined(found: Iterable[Group], made_by: Mapping[int, set[int]]) -> list[Group]:
    """The groups, oldest first, a group without a conversation id joined to the oldest of those that made the calls
    or the response that its history names (``made_by``, of ``origins``)."""
    ordered = sorted(found, key=lambda g: (min(o.start_ns for o in g.members), g.key))
    kept: list[Group] = []
    now: dict[int, tuple[int, Group]] = {}
    for place, g in enumerate(ordered):
        key = g.digest
        known = [now[k] for k in made_by.get(key, ()) if k in now]
        target = min(known, key=lambda found: found[0])[1] if known else None
        if target is None or (g.explicit and target.explicit):
            now[key] = place, g
            kept.append(g)
            continue
        target.members += g.members
        now[key] = place, target
        if g.explicit:
            target.key, target.explicit = g.key, True
    for g in kept:
        _by_trace(g)
    return kept


def _by_trace(g: Group) -> None:
    """Orders the spans by the beginning of their traces, and leaves the order within each: it must not matter which
    of two traces was read first."""
    first: dict[str, int] = {}
    for o in g.members:
        first[o.trace_id] = min(o.start_ns, first.get(o.trace_id, o.start_ns))
    if len(first) > 1:
        g.members.sort(key=lambda o: (first[o.trace_id], o.trace_id))


def _made_ids(o: Observed) -> set[str]:
    if o.kind != "inference":
        return set()
    said = chain(o.output, *o.alternatives)
    calls = {str(p["id"]) for m in said for p in m["parts"] if p["type"] == "tool_call" and p.get("id")}
    return calls | ({o.response_id} if o.response_id else set())


def told_ids(messages: list[NormalMessage]) -> set[str]:
    """Ids of the calls that messages tell, also where a framework tells them as text."""
    out: set[str] = set()
    for part in (p for m in messages for p in m["parts"]):
        if part.get("id"):
            out.add(str(part["id"]))
        elif isinstance(part.get("content"), str) and "id" in part["content"]:
            out.update(_QUOTED_ID.findall(part["content"]))
    return out
