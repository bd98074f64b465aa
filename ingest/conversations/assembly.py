"""Observed spans become conversations: grouped by conversation id or trace, threaded, linked, joined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import xxhash

from ingest.conversations import grouping, hidden_history
from ingest.conversations.executions import BySpan, ancestors, by_span, demote_inferred, merge_nested
from ingest.conversations.grouping import Group
from ingest.conversations.linking import Link, link
from ingest.conversations.runs import rebuild
from ingest.conversations.threads import Thread, thread
from ingest.messages.normal import Evaluation, Observed
from ingest.messages.parts import is_unread


@dataclass(slots=True)
class Assembled:
    """One conversation, whole: what the normalised tables are written from."""

    conversation_id: str
    thread: Thread
    links: list[Link]
    agent: str
    started_at_ns: int
    ended_at_ns: int
    trace_ids: set[str]
    dialects: set[str]
    flags: set[str] = field(default_factory=set)
    explicit: bool = False  # an id says that these spans are one conversation


def assemble(observed: Iterable[Observed]) -> list[Assembled]:
    """The conversations in these spans, oldest first."""
    found, ties = groups_of(list(observed)), grouping.Ties()
    evidence = hidden_history.Evidence()
    for g in found:
        ties.add(g)
        evidence.add(g.members)
    return join_by_history(conversations_of(found, grouping.origins(ties), evidence))


def groups_of(observed: list[Observed]) -> list[Group]:
    """The groups in these spans, which are all those of their traces."""
    demote_inferred(observed)
    return grouping.split(merge_nested(observed))


def conversations_of(
    groups: Iterable[Group], origins: Mapping[int, set[int]], evidence: hidden_history.Evidence
) -> list[Assembled]:
    """The conversations of groups, among them all those that ``origins`` ties to one another."""
    joined = grouping.joined(groups, origins)
    for g in joined:
        evidence.mark(g.members)
    return [a for g in joined for a in _conversations(g)]


def _conversations(g: Group) -> list[Assembled]:
    calls, executions = rebuild(g.members)
    threads = thread(calls or [o for o in g.members if o.kind == "agent"])
    spans = by_span(g.members)
    out = []
    for number, t in enumerate(_kept(threads), 1):
        links = link(t, executions)
        used = {id(x.execution) for x in links}
        executions = [e for e in executions if id(e) not in used]
        out.append(_assembled(g, t, links, spans, number))
    return out


def _kept(threads: list[Thread]) -> list[Thread]:
    """Every thread but those that are a beginning of another."""
    paths = [tuple(turn.key for turn in t.turns) for t in threads]
    return [
        t
        for t, path in zip(threads, paths, strict=True)
        if not any(len(p) > len(path) and p[: len(path)] == path for p in paths)
    ]


def _assembled(g: Group, t: Thread, links: list[Link], spans: BySpan, number: int) -> Assembled:
    starts_late = hidden_history.FLAG in t.spans[0].flags
    if t.system is not None and not starts_late:
        t.turns.insert(0, t.system)
    flags = set(t.flags) | {"call_without_result" for x in links if x.answer is None}
    flags |= {f for x in links if x.execution for f in x.execution.flags}
    if any(is_unread(part) for turn in t.turns for part in turn.parts):
        flags.add("unread_part")
    if number > 1:
        flags.add("branch")
    if t.system is None or starts_late:
        flags.add("missing_system")
    around = [a.agent for o in t.spans[:1] for a in ancestors(o, spans) if a.agent]
    agent = t.agent or next(iter(around), None) or next((o.agent for o in g.members if o.agent), None) or ""
    told_by = {o.dialect for o in t.spans}
    t.spans, t.system, t.read = [], None, ([], 0)  # what they told is in the turns
    for x in links:
        x.forget_span()
    return Assembled(
        g.key if number == 1 else f"{g.key}/{number}", t, links, agent, t.start_ns, t.end_ns,
        {o.trace_id for o in g.members}, told_by, flags, g.explicit and number == 1,
    )  # fmt: skip


def join_by_history(conversations: list[Assembled]) -> list[Assembled]:
    """Turns in traces of their own: a later one repeats the earlier as history and goes on. Where both have a
    conversation id (some libraries give every turn a new one), the ids of the calls must be the same too.
    Oldest first."""
    by_path: dict[bytes, Assembled] = {}
    out: dict[int, Assembled] = {}
    for c in sorted(conversations, key=_age):
        hashes = path_hashes(c)
        earlier = next((by_path[h] for h in reversed(hashes[:-1]) if h in by_path), None)
        if earlier is not None and id(earlier) in out and _may_join(earlier, c):
            del out[id(earlier)]
            c = _joined(earlier, c)
        if hashes:
            by_path[hashes[-1]] = c
        out[id(c)] = c
    return sorted(out.values(), key=_age)


def _age(c: Assembled) -> tuple[int, str]:
    return c.started_at_ns, c.conversation_id


def _may_join(earlier: Assembled, later: Assembled) -> bool:
    if not earlier.explicit and not later.explicit:
        return True
    if earlier.ended_at_ns > later.ended_at_ns:
        return False
    return bool(given_ids(earlier) & given_ids(later))


def given_ids(c: Assembled) -> set[str]:
    """The ids of the calls, those that were made up left out."""
    return {x.call["id"] for x in c.links if "id_made" not in x.repairs}


def path_hashes(c: Assembled) -> list[bytes]:
    """A hash after each message but the system's. One conversation goes on where another ended if the last hash of
    that one is a hash of this one."""
    state, out = xxhash.xxh3_128(), []
    for turn in c.thread.turns:
        if turn.message["role"] == "system":
            continue
        state.update(turn.key)
        out.append(state.digest())
    return out


def _joined(earlier: Assembled, later: Assembled) -> Assembled:
    _take_own(later)
    later.conversation_id, later.explicit = earlier.conversation_id, earlier.explicit
    known = {id_of(x): x for x in earlier.links}
    for x in later.links:
        before = known.get(id_of(x))
        if before is not None and before.ran is not None and x.ran is None:
            x.ran = before.ran
            if x.answer and before.answer:
                for key in ("is_error", "error_class", "latency_ms"):
                    if key in before.answer.message:
                        x.answer.message[key] = before.answer.message[key]  # type: ignore[literal-required]
    later.thread.start_ns = later.started_at_ns = earlier.started_at_ns
    later.agent = earlier.agent or later.agent
    later.trace_ids |= earlier.trace_ids
    later.dialects |= earlier.dialects
    later.flags |= earlier.flags - {"call_without_result"}
    later.thread.tools = later.thread.tools or earlier.thread.tools
    later.thread.response_ids |= earlier.thread.response_ids
    for mine, theirs in zip(later.thread.turns, earlier.thread.turns, strict=False):
        mine.start_ns, mine.span_id, mine.trace_id = theirs.start_ns, theirs.span_id, theirs.trace_id
    return later


def _take_own(c: Assembled) -> None:
    """Gives a conversation messages of its own: branches of one conversation share those that they begin with."""
    own = {id(turn): replace(turn, message=turn.message.copy()) for turn in c.thread.turns}
    c.thread.turns = [own[id(turn)] for turn in c.thread.turns]
    for x in c.links:
        x.call_turn = own[id(x.call_turn)]
        x.answer = own[id(x.answer)] if x.answer else None


def id_of(x: Link) -> tuple[Any, ...]:
    """What tells a call of one telling of a conversation in another."""
    return (x.call.get("id"), x.call["name"])


def conversation_of(e: Evaluation, conversations: dict[str, str], responses: dict[str, str]) -> str | None:
    """The conversation that an evaluation judges: by id, by the response it names, or by its trace."""
    if e.response_id and e.response_id in responses:
        return responses[e.response_id]
    return e.conversation_id or conversations.get(e.trace_id)
