"""Group spans into conversations: by conversation id, by trace, and by ids of calls and responses in histories.

``split`` needs all spans of a trace and nothing else. ``Ties`` holds the ids that connect groups of different traces;
it is small. So traces can be read by different processes, and only groups with ties must be in one process.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import xxhash

from ingest.conversations.executions import Scopes, by_span
from ingest.messages.chatform import key_of
from ingest.messages.normal import Observed
from ingest.messages.parts import Part
from ingest.messages.shapes import NormalMessage

_QUOTED_ID = re.compile(r"""['"](?:tool_call_)?id['"]:\s*['"]([\w.:-]{6,})['"]""")  # calls told as text


@dataclass(slots=True)
class Group:
    """The spans of one conversation. ``key`` is the conversation id if ``explicit``, else a trace id."""

    key: str
    explicit: bool
    members: list[Observed] = field(default_factory=list)

    @property
    def digest(self) -> int:
        """The 63-bit digest of the key."""
        return digest(self.key)


def digest(text: str) -> int:
    """Return a 63-bit digest: it fits the signed 64-bit integers of DuckDB and Spark."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "replace")) >> 1


def split(observed: list[Observed]) -> list[Group]:
    """Put every span into exactly one group. Groups are in the order of their first spans."""
    found: dict[str, Group] = {}
    for o, (key, explicit) in zip(observed, _keys(observed), strict=True):
        group = found.get(key)
        if group is None:
            group = found[key] = Group(key, explicit)
        group.members.append(o)
    return list(found.values())


def _keys(observed: list[Observed]) -> list[tuple[str, bool]]:
    """Return the group key of each span and whether it is a conversation id: that of the span, else of the nearest
    enclosing span that has one, else the only one of its trace, else the trace id."""
    if all(o.conversation_id for o in observed):
        return [(o.conversation_id or "", True) for o in observed]
    scopes = Scopes(by_span(observed))
    of_trace: dict[str, set[str]] = defaultdict(set)
    for o in observed:
        if o.conversation_id:
            of_trace[o.trace_id].add(o.conversation_id)
    out = []
    for o in observed:
        said = o.conversation_id or next((a.conversation_id for a in scopes.around(o) if a.conversation_id), None)
        if said is None and len(of_trace[o.trace_id]) == 1:
            said = next(iter(of_trace[o.trace_id]))
        out.append((said or o.trace_id, said is not None))
    return out


Tie = tuple[int, int, int, int]


@dataclass
class Ties:
    """Ids of calls and responses: rows of (group, emitter, id, content), each a digest. ``made`` has the ids that a
    group's outputs made, ``named`` those that its histories name. The content is the call's name and arguments, or 0
    where they are not known. It is compared because counted ids occur in many conversations."""

    made: list[Tie] = field(default_factory=list)
    named: list[Tie] = field(default_factory=list)

    def add(self, g: Group) -> None:
        """Add the rows of a group. Ids that it both made and names, in one process, are left out of ``named``."""
        made = {(o.emitter, *tie) for o in g.members if o.kind == "inference" for tie in _made_ids(o)}
        own: dict[tuple[str, str], set[int]] = defaultdict(set)
        for emitter, name, content in made:
            own[emitter, name].add(content)
        named: set[tuple[str, str, int]] = set()
        read: dict[str, set[int]] = defaultdict(set)  # messages that several spans tell are looked at once
        for o in g.members:
            if o.kind == "inference":
                known = read[o.emitter]
                news = [m for m in o.input if id(m) not in known]
                known.update(map(id, news))
                for name, call in _told_calls(news):
                    content = _content(call)
                    if not _is_own(own.get((o.emitter, name)), content):
                        named.add((o.emitter, name, content))
                if o.previous_response_id and (o.emitter, o.previous_response_id) not in own:
                    named.add((o.emitter, o.previous_response_id, 0))
        told = {(emitter, name) for emitter, name, content in named if content}
        key = g.digest
        emitters = {emitter: digest(emitter) for emitter in {e for e, *_ in (*made, *named)}}
        self.made += [(key, emitters[emitter], digest(name), content) for emitter, name, content in made]
        self.named += [
            (key, emitters[emitter], digest(name), content)
            for emitter, name, content in named
            if content or (emitter, name) not in told  # an answer beside its call
        ]


def origins(ties: Ties) -> dict[int, set[int]]:
    """Return, for each group that names ids of others, the groups that made them: in the same process, else in any. An
    id proves nothing if two groups made it for calls with the named content, or if the content differs."""
    here: dict[tuple[int, int, int], _Makers] = {}
    anywhere: dict[tuple[int, int], _Makers] = {}
    asked = {name for _, _, name, _ in ties.named}
    own: dict[tuple[int, int, int], set[int]] = defaultdict(set)
    for group, emitter, name, content in ties.made:
        if name in asked:
            own[group, emitter, name].add(content)
            for kind in (content, _ANY):
                _add(here, (emitter, name, kind), group)
                _add(anywhere, (name, kind), group)
    told = {(group, emitter, name) for group, emitter, name, content in ties.named if content}
    found: dict[int, set[int]] = defaultdict(set)
    for group, emitter, name, content in ties.named:
        # As in ``Ties.add``, for parts of one group that were read apart.
        made = own.get((group, emitter, name))
        if _is_own(made, content) or (not content and (group, emitter, name) in told):
            continue
        kinds = (content, 0) if content else (_ANY,)
        makers = [m for k in kinds if (m := here.get((emitter, name, k)))]
        makers = makers or [m for k in kinds if (m := anywhere.get((name, k)))]
        one = {owner for m in makers for owner in m}
        if len(one) == 1 and group not in one:
            found[group] |= one
    return dict(found)


def _is_own(made: set[int] | None, content: int) -> bool:
    """Return whether a call that a group names is one that it made. If ids are counted in each answer, later calls have
    the same id, so the content is compared."""
    return made is not None and (not content or content in made or 0 in made)


_ANY = -1  # the content of any call
_Makers = tuple[int, int]  # the least and the greatest group: one, if they are the same


def _add(makers: dict[Any, _Makers], key: Any, group: int) -> None:
    least, greatest = makers.get(key, (group, group))
    makers[key] = min(least, group), max(greatest, group)


def joined(found: Iterable[Group], made_by: Mapping[int, set[int]]) -> list[Group]:
    """Return the groups, oldest first. A group is joined to the oldest of the groups that made the ids its history
    names (``made_by``, from ``origins``), unless both have a conversation id."""
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
    """Sort the spans of a group by the start of their traces, stably, so that the order in which traces were read does
    not matter."""
    first: dict[str, int] = {}
    for o in g.members:
        first[o.trace_id] = min(o.start_ns, first.get(o.trace_id, o.start_ns))
    if len(first) > 1:
        g.members.sort(key=lambda o: (first[o.trace_id], o.trace_id))


def _made_ids(o: Observed) -> list[tuple[str, int]]:
    """Return the ids of the calls that a model call made, each with its content, and the id of its response."""
    if o.kind != "inference":
        return []
    said = chain(o.output, *o.alternatives)
    calls = [p for m in said for p in m["parts"] if p["type"] == "tool_call" and p.get("id")]
    made = [(str(p["id"]), _content(p)) for p in calls]
    return [*made, (o.response_id, 0)] if o.response_id else made


def _content(call: Part | None) -> int:
    """Return a digest of a call's name and arguments; 0 if the arguments are not known."""
    if call is None or call.get("arguments") is None:
        return 0
    return int.from_bytes(key_of([call["name"], call["arguments"]])[:8]) >> 1 or 1


def _told_calls(messages: list[NormalMessage]) -> list[tuple[str, Part | None]]:
    """Return the ids of the calls in messages, also of those that a framework wrote into a text; each with the call's
    part, or None for an id of an answer."""
    out: list[tuple[str, Part | None]] = []
    for part in (p for m in messages for p in m["parts"]):
        if part.get("id"):
            out.append((str(part["id"]), part if part["type"] == "tool_call" else None))
        elif isinstance(part.get("content"), str) and "id" in part["content"]:
            out += [(name, None) for name in _QUOTED_ID.findall(part["content"])]
    return out
