"""Model calls become threads of messages: every call repeats the history, each message is kept once.

A thread is a path in the prefix tree of messages. A call that repeats a thread and goes on extends it; one
that was already told by another span (double instrumentation, a parent span) adds nothing; one that departs
from it makes a branch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import is_

from ingest.messages.chatform import Turn, to_turns
from ingest.messages.normal import Observed
from ingest.messages.shapes import NormalMessage


@dataclass(slots=True)
class Thread:
    """One path: the system prompt apart, because agents rewrite it from call to call."""

    turns: list[Turn]
    system: Turn | None = None
    agent: str | None = None
    response_ids: set[str] = field(default_factory=set)
    tools: list[dict[str, object]] = field(default_factory=list)
    start_ns: int = 0
    end_ns: int = 0
    spans: list[Observed] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    read: tuple[list[NormalMessage], int] = ([], 0)  # the last history, which became the first so many turns
    ends: dict[str, int] = field(default_factory=dict)  # how many turns there were when a response or a state ended


def thread(observed: list[Observed]) -> list[Thread]:
    """The threads of one conversation's model calls, oldest first."""
    threads: list[Thread] = []
    for seen in sorted(observed, key=lambda o: (o.start_ns, o.kind != "inference", o.end_ns)):
        system, history, said = _turns(seen, *_known(threads, seen))
        if history or said:
            _place(threads, seen, system, history, said)
        for other in seen.alternatives:
            _place(threads, seen, system, [*history], _said(seen, other))
    return threads


def _known(threads: list[Thread], seen: Observed) -> tuple[int, list[Turn]]:
    """How many messages of a call's history are those of the call before, and the turns that they became: with most
    calls all of these, which then need not be made and compared again."""
    if len(threads) != 1 or seen.is_cut:
        return 0, []
    messages, turns = threads[0].read
    goes_on = turns > 0 and len(seen.input) >= len(messages) and all(map(is_, messages, seen.input))
    return (len(messages), threads[0].turns[:turns]) if goes_on else (0, [])


def _turns(seen: Observed, read: int, known: list[Turn]) -> tuple[Turn | None, list[Turn], list[Turn]]:
    system: Turn | None = None
    history = known
    for message in seen.input[read:]:
        for turn in to_turns(message):
            if turn.message["role"] == "system" and not history:
                system = system or turn.seen(seen.start_ns, seen.span_id, seen.trace_id, False)
            else:
                history.append(turn.seen(seen.start_ns, seen.span_id, seen.trace_id, False))
    return system, history, _said(seen, seen.output)


def _said(seen: Observed, output: list[NormalMessage]) -> list[Turn]:
    return [t.seen(seen.end_ns, seen.span_id, seen.trace_id, True) for m in output for t in to_turns(m)]


def _place(
    threads: list[Thread], seen: Observed, system: Turn | None, history: list[Turn], said: list[Turn]
) -> None:
    """Extends the thread that the call continues, or starts one."""
    told = history
    history = _completed(threads, history) if seen.is_cut else history
    best, shared = None, -1
    for candidate in reversed(threads):
        n = common_prefix(candidate.turns, history)
        if n > shared and (n or not history):
            best, shared = candidate, n
    if best is not None and best.turns and shared >= len(best.turns) - 1 and _retell(best, history):
        shared = common_prefix(best.turns, history)
    abridged = _abridged(threads, history) if best is None or shared < len(best.turns) else None
    named = _named(threads, seen, history) if seen.previous_response_id or seen.state_id else None
    if named is not None:
        best, shared, history = named
    elif abridged is not None:
        best, shared, history = abridged
    elif best is None or shared == 0:
        best, shared, history = _continued(threads, seen, history)
    if best is None:
        best = Thread(_kept([*history, *said]), start_ns=seen.start_ns)
        threads.append(best)
    else:
        best = _extend(threads, best, shared, history, said)
    if seen.response_id:
        best.ends.setdefault(seen.response_id, len(history) + len(said))
    if seen.state_id:
        best.ends[_STATE + seen.state_id] = len(history) + len(said)
    if history is told and len(threads) == 1:
        best.read = seen.input, len(history)
    _note(best, seen, system)


def _note(t: Thread, seen: Observed, system: Turn | None) -> None:
    if t.system is None and system is not None:
        system.keep()
        t.system = system
    t.agent = t.agent or seen.agent
    t.tools = seen.tools or t.tools
    t.end_ns = max(t.end_ns, seen.end_ns)
    t.flags.update(seen.flags)
    t.spans.append(seen)
    if seen.response_id:
        t.response_ids.add(seen.response_id)


def _completed(threads: list[Thread], history: list[Turn]) -> list[Turn]:
    """A cut history that is the beginning of a thread, but for its last message, stood for the whole thread."""
    for t in reversed(threads):
        n = common_prefix(t.turns, history)
        if n and n >= len(history) - 1:
            return list(t.turns)
    return history


def _abridged(threads: list[Thread], history: list[Turn]) -> tuple[Thread, int, list[Turn]] | None:
    """A history that keeps what was said and leaves out the tool calls: it goes on after the whole thread."""
    for t in reversed(threads):
        said = [x for x in t.turns if x.message["role"] != "tool" and not x.message.get("tool_calls")]
        if 1 < len(said) < len(t.turns) and said[-1] is t.turns[-1] and same_turns(said, history[: len(said)]):
            return t, len(t.turns), [*t.turns, *history[len(said) :]]
    return None


def _retell(t: Thread, history: list[Turn]) -> bool:
    """Puts what the thread ends with as the history tells it, if that is the same answer in its parts: an exporter
    wrote the text and the calls of an answer that the provider's tools interrupted, and left out what these gave."""
    at = len(t.turns) - 1
    last = t.turns[at]
    if len(history) <= at + 1 or last.message["role"] != "assistant" or history[at].key == last.key:
        return False
    end = next((i for i in range(at, len(history)) if history[i].message["role"] not in _ANSWERING), len(history))
    told = history[at:end]
    if len(told) < 2 or not _words([last]) or _words(told) != _words([last]) or not _calls([last]) <= _calls(told):
        return False
    for turn in _kept(told):
        turn.start_ns, turn.span_id, turn.trace_id, turn.sent = last.start_ns, last.span_id, last.trace_id, last.sent
    t.turns[at:] = told
    t.ends = {response: n if n <= at else n + len(told) - 1 for response, n in t.ends.items()}
    t.read = ([], 0)
    return True


_ANSWERING = ("assistant", "tool")


def _words(turns: list[Turn]) -> str:
    """All that an assistant said, without spaces: exporters join texts in several ways."""
    return "".join("".join((x.message.get("content") or "").split()) for x in turns if x.message["role"] == "assistant")


def _calls(turns: list[Turn]) -> set[str]:
    return {c["name"] for x in turns for c in x.message.get("tool_calls") or ()}


def _named(
    threads: list[Thread], seen: Observed, history: list[Turn]
) -> tuple[Thread, int, list[Turn]] | None:
    """A stateful call sends only what is new and names the response, or the conversation, that it goes on from: what it
    sends stands behind that, unless it tells the whole history all the same."""
    name = seen.previous_response_id or f"{_STATE}{seen.state_id}"
    for t in reversed(threads):
        at = t.ends.get(name, -1)
        if at >= 0 and (not at or common_prefix(t.turns[:at], history) < at):
            return t, at, [*t.turns[:at], *history]
    return None


_STATE = "state "  # before the id of a conversation, in ``Thread.ends``


def _continued(
    threads: list[Thread], seen: Observed, history: list[Turn]
) -> tuple[Thread | None, int, list[Turn]]:
    """A call that sends only what is new and names nothing: find its thread by overlap."""
    if seen.rebuilt and threads:
        return threads[-1], len(threads[-1].turns), [*threads[-1].turns, *history]
    evicted = {"sparse_index", "dropped_attributes"} & set(seen.flags)  # the oldest go first, the next in part
    for rest in (history, history[1:]) if evicted else (history,):
        for t in reversed(threads):
            answered = rest[0].message.get("tool_call_id") if rest else None
            k = overlap(t.turns, rest)
            if k or (answered and answered in open_ids(t)):
                return t, len(t.turns), [*t.turns, *rest[k:]]
    return None, 0, history


def overlap(a: list[Turn], b: list[Turn]) -> int:
    """How many turns at the end of one are the first of the other."""
    return next((k for k in range(min(len(a), len(b)), 0, -1) if same_turns(a[-k:], b[:k])), 0)


def open_ids(t: Thread) -> set[str]:
    """Ids of the calls that the thread ends with: what answers them continues it."""
    return {c["id"] for c in t.turns[-1].message.get("tool_calls") or () if c["id"]} if t.turns else set()


def _extend(threads: list[Thread], t: Thread, shared: int, history: list[Turn], said: list[Turn]) -> Thread:
    path = [*history, *said]
    known = shared + common_prefix(t.turns[shared:], path[shared:])
    for old, new in zip(t.turns[:known], path, strict=False):
        _enrich(old, new)
    if known == len(path):
        return t
    if known == len(t.turns):
        t.turns.extend(_kept(path[known:]))
        return t
    branch = Thread(
        [*t.turns[:known], *_kept(path[known:])], t.system, t.agent, start_ns=t.start_ns, end_ns=t.end_ns
    )
    branch.tools, branch.flags = t.tools, {*t.flags}
    branch.response_ids, branch.spans = {*t.response_ids}, [*t.spans]
    branch.ends = {response: end for response, end in t.ends.items() if end <= known}
    threads.append(branch)
    return branch


def _kept(turns: list[Turn]) -> list[Turn]:
    for turn in turns:
        turn.keep()
    return turns


def common_prefix(a: list[Turn], b: list[Turn]) -> int:
    """How many leading turns are the same."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x.key != y.key and not _alike(x, y):
            break
        n += 1
    return n


def same_turns(a: list[Turn], b: list[Turn]) -> bool:
    """Whether all of them are the same."""
    return len(a) == len(b) and common_prefix(a, b) == len(a)


def _alike(x: Turn, y: Turn) -> bool:
    """The same message told less completely: a text with other outer space, calls without arguments, or a
    text beside the same calls that one of the two leaves out."""
    if x.message["role"] != y.message["role"]:
        return False
    if x.message["role"] == "assistant" and not (x.parts and y.parts):
        return True  # of one of them nothing is told but that it was said
    a, b = x.message, y.message
    calls_a, calls_b = a.get("tool_calls") or [], b.get("tool_calls") or []
    if bool(calls_a) != bool(calls_b) or [c["name"] for c in calls_a] != [c["name"] for c in calls_b]:
        return False
    if calls_a:
        pairs = zip(calls_a, calls_b, strict=True)
        return all(
            (c["id"] and c["id"] == d["id"]) or "arguments" not in c or "arguments" not in d for c, d in pairs
        )
    return (a.get("content") or "").strip() == (b.get("content") or "").strip()


def _enrich(old: Turn, new: Turn) -> None:
    """Keeps the more complete of two tellings of the same message."""
    old.sent = old.sent or new.sent
    if old.parts is new.parts:  # one telling, seen again
        return
    a, b = old.message, new.message
    if not old.parts and new.parts:
        old.parts, old.key = new.parts, new.key
        if calls := b.get("tool_calls"):
            a["tool_calls"] = [call.copy() for call in calls]
    if not a.get("content") and b.get("content"):
        a["content"] = b["content"]
    for key in ("tool_call_id", "name", "is_error"):
        if not a.get(key) and b.get(key):
            a[key] = b[key]  # type: ignore[literal-required]
    for mine, other in zip(a.get("tool_calls") or [], b.get("tool_calls") or [], strict=False):
        if not mine.get("id"):
            mine["id"] = other.get("id", "")
        if "arguments" not in mine and "arguments" in other:
            mine["arguments"] = other["arguments"]
