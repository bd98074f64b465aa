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
        group = found.get(key)
        if group is None:
            group = found[key] = Group(key, explicit)
        group.members.append(o)
    return list(found.values())


def _keys(observed: list[Observed]) -> list[tuple[str, bool]]:
    """A span's conversation: what it says, else what the spans around it say, else the only one of its trace."""
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
    """Who made ids (of calls, of responses) and who names them: rows of (group, emitter, id, content), a digest each.
    The content is the call's name and arguments, 0 where it is not told: an id that is counted, or named after the
    tool, is the same in many conversations."""

    made: list[Tie] = field(default_factory=list)
    named: list[Tie] = field(default_factory=list)

    def add(self, g: Group) -> None:
        """Adds a group's rows. What it names and made itself, in the same process, ties it to nobody."""
        made = {(o.emitter, *tie) for o in g.members if o.kind == "inference" for tie in _made_ids(o)}
        own = {(emitter, name) for emitter, name, _ in made}
        named: set[tuple[str, str, int]] = set()
        read: dict[str, set[int]] = defaultdict(set)  # messages that several spans tell are looked at once
        for o in g.members:
            if o.kind == "inference":
                known = read[o.emitter]
                news = [m for m in o.input if id(m) not in known]
                known.update(map(id, news))
                for name, call in _told_calls(news):
                    if (o.emitter, name) not in own:
                        named.add((o.emitter, name, _content(call)))
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
    """For each group that names others' ids, who made them: in the same process, else anywhere. An id that two
    groups made, of calls that agree with what is named, proves nothing; nor does one of another call."""
    here: dict[tuple[int, int, int], _Makers] = {}
    anywhere: dict[tuple[int, int], _Makers] = {}
    asked = {name for _, _, name, _ in ties.named}
    own: set[tuple[int, int, int]] = set()
    for group, emitter, name, content in ties.made:
        if name in asked:
            own.add((group, emitter, name))
            for kind in (content, _ANY):
                _add(here, (emitter, name, kind), group)
                _add(anywhere, (name, kind), group)
    told = {(group, emitter, name) for group, emitter, name, content in ties.named if content}
    found: dict[int, set[int]] = defaultdict(set)
    for group, emitter, name, content in ties.named:
        # As in ``Ties.add``, for parts of one group that were read apart.
        if (group, emitter, name) in own or (not content and (group, emitter, name) in told):
            continue
        kinds = (content, 0) if content else (_ANY,)
        makers = [m for k in kinds if (m := here.get((emitter, name, k)))]
        makers = makers or [m for k in kinds if (m := anywhere.get((name, k)))]
        one = {owner for m in makers for owner in m}
        if len(one) == 1 and group not in one:
            found[group] |= one
    return dict(found)


_ANY = -1  # the content of any call
_Makers = tuple[int, int]  # the least and the greatest group: one, if they are the same


def _add(makers: dict[Any, _Makers], key: Any, group: int) -> None:
    least, greatest = makers.get(key, (group, group))
    makers[key] = min(least, group), max(greatest, group)


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


def _made_ids(o: Observed) -> list[tuple[str, int]]:
    """The ids of the calls that a model call made, with their content, and its response's."""
    if o.kind != "inference":
        return []
    said = chain(o.output, *o.alternatives)
    calls = [p for m in said for p in m["parts"] if p["type"] == "tool_call" and p.get("id")]
    made = [(str(p["id"]), _content(p)) for p in calls]
    return [*made, (o.response_id, 0)] if o.response_id else made


def _content(call: Part | None) -> int:
    """A digest of a call's name and arguments; 0 if it does not tell them."""
    if call is None or call.get("arguments") is None:
        return 0
    return int.from_bytes(key_of([call["name"], call["arguments"]])[:8]) >> 1 or 1


def _told_calls(messages: list[NormalMessage]) -> list[tuple[str, Part | None]]:
    """Ids of the calls that messages tell, also where a framework tells them as text, each with the call if it is
    told, not only answered."""
    out: list[tuple[str, Part | None]] = []
    for part in (p for m in messages for p in m["parts"]):
        if part.get("id"):
            out.append((str(part["id"]), part if part["type"] == "tool_call" else None))
        elif isinstance(part.get("content"), str) and "id" in part["content"]:
            out += [(name, None) for name in _QUOTED_ID.findall(part["content"])]
    return out
