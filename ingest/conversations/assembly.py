"""Observed spans become conversations: grouped by conversation id or trace, threaded, linked, joined."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from operator import attrgetter
from typing import Any

from ingest.conversations import grouping, hidden_history, judgements
from ingest.conversations.evidence import model_spoke, say_something
from ingest.conversations.executions import (
    DEMOTED,
    BySpan,
    Scopes,
    by_span,
    demote_inferred,
    merge_nested,
    merge_tellings,
)
from ingest.conversations.grouping import Group
from ingest.conversations.less_complete import fill_in, may_be_last, may_tell_less
from ingest.conversations.linking import link
from ingest.conversations.links import Link
from ingest.conversations.runs import rebuild
from ingest.conversations.threads import Thread, absorb, path_digests, thread
from ingest.messages.chatform import Turn
from ingest.messages.normal import Evaluation, Observed, SpanKey
from ingest.messages.parts import READ, is_unread

KINDS = ("inference", "execution")
Placement = tuple[str, str, str, Turn | None]  # trace, span, kind, and the turn that it told


@dataclass(slots=True)
class Assembled:
    """One conversation: the normalised tables are written from it."""

    conversation_id: str
    thread: Thread
    links: list[Link]
    agent: str
    started_at_ns: int
    ended_at_ns: int
    trace_ids: set[str]
    dialects: set[str]
    flags: set[str] = field(default_factory=set)
    explicit: bool = False  # its spans have a conversation id
    names: set[str] = field(default_factory=set)  # the conversation ids of its spans
    placed: list[Placement] = field(default_factory=list)
    judged: list[Evaluation] = field(default_factory=list)
    path: list[bytes] | None = None  # ``path_hashes``, once they are known


@dataclass
class Left:
    """What is in no conversation: spans with the reason, as (trace, span, kind, reason); and judgements that belong to
    no span of a conversation."""

    spans: list[tuple[str, str, str, str]] = field(default_factory=list)
    judgements: list[Evaluation] = field(default_factory=list)


def assemble(
    observed: Iterable[Observed], judged: Sequence[Evaluation] = (), left: Left | None = None
) -> list[Assembled]:
    """Return the conversations of spans, oldest first. ``judged`` are judgements that come with no span, from log
    records."""
    left = left if left is not None else Left()
    found, ties = groups_of(list(observed), judged, left), grouping.Ties()
    evidence = hidden_history.Evidence()
    for g in found:
        ties.add(g)
        evidence.add(g.members)
    return join_by_history(conversations_of(found, grouping.origins(ties), evidence, left))


def groups_of(observed: list[Observed], judged: Sequence[Evaluation] = (), left: Left | None = None) -> list[Group]:
    """Return the groups of spans. ``observed`` must hold all spans of its traces. The order is by trace and time, so
    the order of arrival does not matter."""
    observed = merge_tellings(observed)
    observed.sort(key=attrgetter("trace_id", "start_ns"))
    if any(a.start_ns == b.start_ns and a.trace_id == b.trace_id for a, b in pairwise(observed)):
        observed.sort(key=lambda o: (o.trace_id, o.start_ns, o.kind != "inference", o.end_ns, len(o.input), o.span_id))
    demote_inferred(observed)
    observed = merge_nested(observed)
    told = judgements.take_off(observed)
    groups = grouping.split(observed)
    loose = judgements.place([*told, *judged], observed, groups)
    if left is not None:
        left.judgements += loose
    return groups


def conversations_of(
    groups: Iterable[Group],
    origins: Mapping[int, set[int]],
    evidence: hidden_history.Evidence,
    left: Left | None = None,
) -> list[Assembled]:
    """Return the conversations of groups. ``groups`` must hold all groups that ``origins`` ties to each other."""
    left = left if left is not None else Left()
    joined = grouping.joined(groups, origins)
    for g in joined:
        evidence.mark(g.members)
    return [a for g in joined for a in _conversations(g, left)]


def _conversations(g: Group, left: Left) -> list[Assembled]:
    scopes = Scopes(by_span(g.members))
    calls, executions = rebuild(g.members, scopes)
    threads = absorb(thread(calls or [o for o in g.members if o.kind == "agent"], scopes))
    links, free = link(threads, executions, scopes)
    told: dict[int, int] = defaultdict(int)
    placed = [_placed(t, number, links, told) for number, t in enumerate(threads)]
    place_of = {key: n for n, found in enumerate(placed) for key in _keys(found)}
    _leave(g, place_of, left)
    judged = _judged(g, place_of, threads, scopes.spans, left)
    traces = _traces(g, place_of, len(threads))
    agents = {o.agent for o in g.members if o.agent}
    lone = agents.pop() if len(agents) == 1 else ""
    return [_assembled(g, t, links[n], scopes, n, placed[n], judged[n], traces[n], lone) for n, t in enumerate(threads)]


def _keys(placed: Iterable[Placement]) -> Iterable[SpanKey]:
    return ((trace_id, span_id) for trace_id, span_id, *_ in placed)


def _placed(t: Thread, number: int, links: list[list[Link]], told: dict[int, int]) -> list[Placement]:
    """Return the spans of a thread, each with its turn: a message of a model call, or the result of a tool. ``links``
    are those of all threads, ``number`` is that of this one. ``told`` counts the answers of each model call that are
    placed already: the first is the call's own, the others are alternatives."""
    out: list[Placement] = []
    also: list[Placement] = []  # these may be linked to a call of another thread
    for x in links[number]:
        turn = x.answer or x.call_turn
        for e in x.attempts:
            out.append((e.trace_id, e.span_id, e.kind, turn))
            if e.also:
                out += [(*other, turn) for other in e.also]
    for o, said in t.told:
        if not o.rebuilt:
            kind = "inference" if o.also and any(k == DEMOTED for *_, k in o.also) else o.kind
            span_id = o.span_id
            if o.alternatives:
                span_id = o.output_key(told[id(o)])[1]
                told[id(o)] += 1
            out += [(o.trace_id, span_id, kind, turn) for turn in said or (None,)]
        if o.also:
            also += [(*other, said[-1] if said else None) for other in o.also]
    if also:
        known = _linked(links).union(_keys(out))
        out += [found for found in also if found[:2] not in known]
    return out


def _linked(links: Iterable[Iterable[Link]]) -> set[SpanKey]:
    """Return the executions that are linked to a call of any thread. They are placed at that call only."""
    attempts = [e for of_thread in links for x in of_thread for e in x.attempts]
    return {e.key for e in attempts} | {(trace_id, span_id) for e in attempts for trace_id, span_id, _ in e.also}


def _leave(g: Group, place_of: Mapping[SpanKey, int], left: Left) -> None:
    """Add the spans of a group that are in none of its threads to ``left``, with the reason."""
    for o in g.members:
        if (o.trace_id, o.span_id) in place_of:
            continue
        if o.kind in KINDS:
            own = [(*key, o.kind) for key in o.output_keys]
            left.spans += [(*key, _reason(o)) for key in (*own, *o.also)]
        elif o.also:
            left.spans += [(*key, "around_model_calls") for key in o.also if key[2] == DEMOTED]


def _reason(o: Observed) -> str:
    if o.kind == "execution":
        return "no_call"  # no message has this call
    return "redacted" if "redacted" in o.flags else "no_content"


def _judged(
    g: Group, place_of: Mapping[SpanKey, int], threads: list[Thread], spans: BySpan, left: Left
) -> dict[int, list[Evaluation]]:
    out: dict[int, list[Evaluation]] = defaultdict(list)
    for o in g.members:
        for e in o.evaluations:
            number = judgements.thread_of(e, place_of, threads, spans)
            if number is None:
                left.judgements.append(e)
            else:
                out[number].append(e)
    return out


def _traces(g: Group, place_of: Mapping[SpanKey, int], count: int) -> list[set[str]]:
    """Return the trace ids of each thread. Traces of no thread are given to the first one."""
    out: list[set[str]] = [set() for _ in range(count)]
    if count == 1:
        out[0] = {o.trace_id for o in g.members}
    elif count:
        for (trace_id, _), number in place_of.items():
            out[number].add(trace_id)
        out[0] |= {o.trace_id for o in g.members} - set().union(*out)
    return out


def _assembled(
    g: Group, t: Thread, links: list[Link], scopes: Scopes, number: int, placed: list[Placement],
    judged: list[Evaluation], trace_ids: set[str], lone_agent: str,
) -> Assembled:  # fmt: skip
    starts_late = hidden_history.FLAG in t.told[0][0].flags
    if t.system is not None and not starts_late:
        t.turns.insert(0, t.system)
    flags = set(t.flags) | {"call_without_result" for x in links if x.answer is None}
    flags |= {f for x in links if x.execution for f in x.execution.flags}
    if any(part["type"] not in READ and is_unread(part) for turn in t.turns for part in turn.parts):
        flags.add("unread_part")
    if t.is_branch:
        flags.add("branch")
    if t.system is None or starts_late:
        flags.add("missing_system")
    around = [a.agent for o, _ in t.told[:1] for a in scopes.around(o) if a.agent]
    agent = t.agent or next(iter(around), None) or lone_agent
    told_by = {o.dialect for o, _ in t.told}
    t.told, t.system, t.read, t.scope = [], None, ([], 0, None), None  # the turns have their content now
    for x in links:
        x.forget_span()
    return Assembled(
        f"{g.key}/{number + 1}" if number else g.key, t, links, agent, t.start_ns, t.end_ns, trace_ids, told_by,
        flags, g.explicit and not number, {g.key} if g.explicit else set(), placed, judged,
    )  # fmt: skip


# -------------------------------------------------------------------------------- across groups


def join_by_history(conversations: list[Assembled]) -> list[Assembled]:
    """Join conversations whose turns are in separate traces: the later one repeats the earlier one as its history.
    Where both have a conversation id (some libraries give every turn a new one), they must have a call id in common.
    Turns without content prove nothing, nor does a beginning that several conversations share. Oldest first."""
    by_path: dict[bytes, list[Assembled]] = defaultdict(list)
    by_question: dict[bytes, list[Assembled]] = defaultdict(list)  # the path without the last turn, an answer
    out: dict[int, Assembled] = {}
    for c in sorted(conversations, key=_age):
        hashes = path_hashes(c)
        known = next((found for found in _begun(c, hashes, by_path, by_question) if _any_tie(found, c)), [])
        earlier = _only((e for e in known if id(e) in out), c)
        if earlier is not None:
            del out[id(earlier)]
            c = _joined(earlier, c)
        if hashes:
            by_path[hashes[-1]].append(c)
        if len(hashes) > 1 and c.thread.turns[-1].sent:
            by_question[hashes[-2]].append(c)
        out[id(c)] = c
    return sorted(out.values(), key=_age)


Paths = Mapping[bytes, list[Assembled]]


def _begun(c: Assembled, hashes: list[bytes], by_path: Paths, by_question: Paths) -> Iterator[list[Assembled]]:
    """Yield the conversations that a conversation may continue, those with the longest path first: they are its
    beginning, or they are that but for a last answer that one of both has less complete."""
    turns = _spoken(c)
    for n in range(len(hashes) - 2, -1, -1):
        if found := by_path.get(hashes[n]):
            yield found
        elif n and may_tell_less(turns[n]) and (found := by_question.get(hashes[n - 1])):
            yield [e for e in found if _precedes(e, c) and may_be_last(e.thread.turns[-1], turns, n)]


def _precedes(earlier: Assembled, later: Assembled) -> bool:
    """Whether a conversation ended before the other one was told, with the same system prompt."""
    prompts = [c.thread.turns[0].key for c in (earlier, later) if c.thread.turns[0].message["role"] == "system"]
    return earlier.ended_at_ns <= later.started_at_ns and len(set(prompts)) < 2


def _only(found: Iterable[Assembled], later: Assembled) -> Assembled | None:
    """Return the conversation that ``later`` continues, None if there is none or several. Of several, one with a call
    id in common is chosen."""
    ids = given_ids(later)
    may = list(islice((e for e in found if _may_join(e, later)), None if ids else 2))
    if len(may) > 1:
        may = [e for e in may if given_ids(e) & ids]
    return may[0] if len(may) == 1 else None


def _age(c: Assembled) -> tuple[int, str]:
    return c.started_at_ns, c.conversation_id


def _any_tie(found: Iterable[Assembled], later: Assembled) -> bool:
    return any(_are_tied(e, later) for e in found)


def _are_tied(earlier: Assembled, later: Assembled) -> bool:
    """Whether the ids of two conversations allow that one continues the other."""
    return not (earlier.explicit or later.explicit) or bool(given_ids(earlier) & given_ids(later))


def _may_join(earlier: Assembled, later: Assembled) -> bool:
    turns = earlier.thread.turns
    if not say_something(turns) or not _are_tied(earlier, later):
        return False
    if earlier.explicit or later.explicit:
        return earlier.ended_at_ns <= later.ended_at_ns
    return model_spoke(turns) or not (earlier.agent and later.agent and earlier.agent != later.agent)


def given_ids(c: Assembled) -> set[str]:
    """Return the ids of the calls, without those that ingest made."""
    return {x.call["id"] for x in c.links if "id_made" not in x.repairs}


def path_hashes(c: Assembled) -> list[bytes]:
    """Return a hash of the path up to each message, without system messages. A conversation continues another one if
    the last hash of the other is among its own. The hashes are computed once: joining does not change turn keys."""
    if c.path is None:
        c.path = path_digests(_spoken(c))
    return c.path


def tie_hashes(c: Assembled) -> tuple[list[bytes], list[bytes]]:
    """Return the hashes of a conversation's end and those of its beginnings: a conversation may continue another one
    only if one of its beginnings is an end of the other. The hashes of questions, whose answers may differ, are
    marked."""
    hashes, turns = path_hashes(c), _spoken(c)
    ends = hashes[-1:] + ([b"?" + hashes[-2]] if len(hashes) > 1 and turns[-1].sent else [])
    asked = [b"?" + hashes[n - 1] for n in range(1, len(hashes) - 1) if may_tell_less(turns[n])]
    return ends, hashes[:-1] + asked


def _spoken(c: Assembled) -> list[Turn]:
    return [turn for turn in c.thread.turns if turn.message["role"] != "system"]


def _joined(earlier: Assembled, later: Assembled) -> Assembled:
    _take_own(later)
    spoken = list(zip(_spoken(earlier), _spoken(later), strict=False))
    if filled := fill_in(spoken, earlier.links, later.thread.turns):
        later.links = [*filled, *later.links]
        if not any("orphan_result" in turn.flags for turn in later.thread.turns):
            later.flags.discard("orphan_result")
    later.conversation_id, later.explicit = earlier.conversation_id, earlier.explicit or later.explicit
    known = {id_of(x): x for x in earlier.links}
    for x in later.links:
        before = known.get(id_of(x))
        if before is not None and before.ran is not None and x.ran is None:
            x.ran = before.ran
            if x.answer and before.answer:
                for key in ("is_error", "error_class", "latency_ms"):
                    if key in before.answer.message:
                        x.answer.message[key] = before.answer.message[key]  # type: ignore[literal-required]
    for theirs, mine in spoken:
        content = theirs.message.get("content")
        if content is not None and mine.message.get("content") is None and mine.message["role"] == "tool":
            mine.message["content"] = content  # the later history lacks it
    now = {id(theirs): mine for theirs, mine in spoken}
    later.placed = [*((t, s, kind, now.get(id(turn))) for t, s, kind, turn in earlier.placed), *later.placed]
    later.judged = earlier.judged + later.judged
    later.names |= earlier.names
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
    """Copy the messages of a conversation. Branches of one conversation share the turns before they diverge."""
    own = {id(turn): replace(turn, message=turn.message.copy()) for turn in c.thread.turns}
    c.thread.turns = [own[id(turn)] for turn in c.thread.turns]
    for x in c.links:
        x.call_turn = own[id(x.call_turn)]
        x.answer = own[id(x.answer)] if x.answer else None
    c.placed = [(t, s, kind, own.get(id(turn))) for t, s, kind, turn in c.placed]


def id_of(x: Link) -> tuple[Any, ...]:
    """Return what identifies a call in two records of one conversation: its id and its tool."""
    return (x.call.get("id"), x.call["name"])
