"""Build threads of messages from model calls. Every call repeats its history; a thread has each message once.

A thread is a path in the prefix tree of messages. A call whose history is a thread extends the thread. A call that
another span recorded already (double instrumentation, a parent span) adds nothing. A call whose history diverges makes
a branch. Turns without content are no evidence (``evidence``), and a call of another agent with the same user message
is no branch. After a handoff the second agent's history repeats the first agent's messages: ``absorb`` merges both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import is_

import xxhash

from ingest.conversations.evidence import model_spoke, say_something, share_evidence
from ingest.conversations.executions import Scope, Scopes
from ingest.conversations.left_out_calls import lacks_calls, put_back
from ingest.conversations.less_complete import add_calls, is_one_call, lacks_calls_of
from ingest.messages.chatform import Turn, to_turns
from ingest.messages.normal import Observed, SpanKey
from ingest.messages.shapes import NormalMessage


@dataclass(slots=True)
class Thread:
    """One path of turns. The system prompt is kept apart, because agents change it between calls. ``told`` holds the
    spans of the thread, each with the turns of its output."""

    turns: list[Turn]
    system: Turn | None = None
    agent: str | None = None
    response_ids: dict[str, int] = field(default_factory=dict)  # with the number of turns up to that response
    tools: list[dict[str, object]] = field(default_factory=list)
    start_ns: int = 0
    end_ns: int = 0
    told: list[tuple[Observed, list[Turn]]] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    scope: Scope | None = None  # of its first span
    is_branch: bool = False
    read: tuple[list[NormalMessage], int, Turn | None] = ([], 0, None)  # last history, its turns, system
    states: dict[str, int] = field(default_factory=dict)  # turns of each conversation that the API stores


def thread(observed: list[Observed], scopes: Scopes) -> list[Thread]:
    """Return the threads of one conversation's model calls, oldest first."""
    threads: list[Thread] = []
    for seen in sorted(observed, key=lambda o: (o.start_ns, o.kind != "inference", o.end_ns)):
        messages, turns, system = _known(threads, seen)
        own = len(turns)
        system, history, said = _turns(seen, messages, turns, system)
        lacks = lacks_calls(history, own)
        if lacks and threads and not _sends_news(seen, history):
            history, own = put_back(history, [t.turns for t in reversed(threads)]), 0
        if history or said:
            scope = scopes.of(seen)
            agent = seen.agent or scope.agent
            answers = [(history, said), *(([*history], _said(seen, other)) for other in seen.alternatives)]
            for told, answer in answers:
                call = _Call(seen, system, told, answer, agent, scope, own if len(threads) == 1 else 0, not lacks)
                _place(threads, call)
    return threads


def _sends_news(seen: Observed, history: list[Turn]) -> bool:
    """Whether a call tells only what is new: its first results answer calls that it need not repeat."""
    return bool(seen.previous_response_id or seen.state_id) or history[0].message["role"] == "tool"


@dataclass(slots=True)
class _Call:
    """One model call that is to be placed in a thread."""

    seen: Observed
    system: Turn | None
    history: list[Turn]
    said: list[Turn]
    agent: str | None
    scope: Scope
    own: int = 0  # leading turns of the history that are turns of the only thread
    is_whole: bool = True  # no call had to be put back: what follows a history may change where one is put


def _known(threads: list[Thread], seen: Observed) -> tuple[int, list[Turn], Turn | None]:
    """Return how many messages of a call's history are those of the previous call, the turns made of them, and the
    system turn. These turns need not be made and compared again. Most calls repeat the whole previous history."""
    if len(threads) != 1 or seen.is_cut:
        return 0, [], None
    messages, turns, system = threads[0].read
    goes_on = turns > 0 and len(seen.input) >= len(messages) and all(map(is_, messages, seen.input))
    return (len(messages), threads[0].turns[:turns], system) if goes_on else (0, [], None)


def _turns(
    seen: Observed, read: int, known: list[Turn], system: Turn | None
) -> tuple[Turn | None, list[Turn], list[Turn]]:
    system = system.seen(seen.start_ns, seen.span_id, seen.trace_id, False) if system else None
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


def _place(threads: list[Thread], call: _Call) -> None:
    """Extend the thread that a call continues, or start a new one."""
    seen, told = call.seen, call.history
    mine = [t for t in threads if not (t.agent and call.agent and t.agent != call.agent)]  # another agent's
    history = _completed(mine, told) if seen.is_cut else told
    best, shared = None, -1
    for candidate in reversed(mine):
        n = common_prefix(candidate.turns, history, call.own)
        if n > shared and (n or not history) and _may_share(candidate, call, history, n):
            best, shared = candidate, n
    names = bool(seen.previous_response_id or seen.state_id)
    if call.own and (names or best is None or shared < len(best.turns)):
        history[:] = _turns(seen, 0, [], None)[1]  # the history may go elsewhere: it needs its own turns
    if best is not None and best.turns and shared >= len(best.turns) - 1 and _retell(best, history):
        shared = common_prefix(best.turns, history)
    abridged = _abridged(mine, history) if best is None or shared < len(best.turns) else None
    named = _named(mine, call, history) if names else None
    if named is not None:
        best, shared, history = named
    elif abridged is not None:
        best, shared, history = abridged
    elif best is None or shared == 0:
        best, shared, history = _continued(mine, call, history)
    path = [*history, *call.said]
    best = _extend(threads, best, shared, path, call) if best else _begun(threads, path, call)
    if history is told and call.is_whole and len(threads) == 1:
        best.read = seen.input, len(history), call.system
    _note(best, call, best.turns[len(history) : len(path)])


def _may_share(t: Thread, call: _Call, history: list[Turn], n: int) -> bool:
    """Whether the first ``n`` turns, which are equal, prove that a call belongs to a thread."""
    if n == 0 or _tells_again(t, call):
        return True
    goes_on = n == len(t.turns)
    if _is_told_otherwise(t, call) and not model_spoke(t.turns[:n]):
        return goes_on and t.agent is not None and t.agent == call.agent
    in_run = t.scope is not None and t.scope.run == call.scope.run
    if share_evidence(t.turns, history, n, any_id=in_run):
        return True
    return in_run and goes_on and call.seen.start_ns >= t.end_ns


def _is_told_otherwise(t: Thread, call: _Call) -> bool:
    """Whether both have a system prompt and the prompts differ."""
    return t.system is not None and call.system is not None and t.system.key != call.system.key


def _tells_again(t: Thread, call: _Call) -> bool:
    """Whether a span records a model call that the thread has already: it is nested with one of the thread's spans, or
    has the same response id."""
    seen = call.seen
    if seen.response_id and seen.response_id in t.response_ids:
        return True
    if call.scope.within is None and not any(o.parent_span_id == seen.span_id for o, _ in t.told[-2:]):
        return False
    return any(o.key == call.scope.within or _is_within(o, seen) for o, _ in t.told)


def _is_within(o: Observed, outer: Observed) -> bool:
    return o.parent_span_id == outer.span_id and o.trace_id == outer.trace_id


def _note(t: Thread, call: _Call, said: list[Turn]) -> None:
    seen = call.seen
    if t.system is None and call.system is not None:
        call.system.keep()
        t.system = call.system
    t.agent = t.agent or call.agent
    t.tools = seen.tools or t.tools or call.scope.tools
    t.end_ns = max(t.end_ns, seen.end_ns)
    t.flags.update(seen.flags)
    t.told.append((seen, said))
    if seen.response_id or seen.state_id:
        at_end = said and t.turns[-1] is said[-1]
        place = len(t.turns) if at_end else _place_of(t, said)
        if seen.response_id:
            t.response_ids[seen.response_id] = place
        if seen.state_id:
            t.states[seen.state_id] = place


def _place_of(t: Thread, said: list[Turn]) -> int:
    """Return the number of turns of a thread up to the last of ``said``."""
    return next((n for n in range(len(t.turns), 0, -1) if said and t.turns[n - 1] is said[-1]), len(t.turns))


def _completed(threads: list[Thread], history: list[Turn]) -> list[Turn]:
    """Replace a truncated history by the whole thread, if it is the beginning of a thread except for its last
    message."""
    for t in reversed(threads):
        n = common_prefix(t.turns, history)
        if n and n >= len(history) - 1 and say_something(t.turns[:n]):
            return list(t.turns)
    return history


def _abridged(threads: list[Thread], history: list[Turn]) -> tuple[Thread, int, list[Turn]] | None:
    """Find the thread of a history that has the texts without the tool calls. It continues after the whole thread."""
    for t in reversed(threads):
        said = [x for x in t.turns if x.message["role"] != "tool" and not x.message.get("tool_calls")]
        if 1 < len(said) < len(t.turns) and said[-1] is t.turns[-1] and same_turns(said, history[: len(said)]):
            if model_spoke(said):
                return t, len(t.turns), [*t.turns, *history[len(said) :]]
    return None


def _retell(t: Thread, history: list[Turn]) -> bool:
    """Replace the last turn of a thread by the turns of the history, if they are the same answer in more detail. An
    exporter may write an answer with calls of the provider's tools as one message, without the results."""
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
    longer = len(told) - 1
    t.response_ids = {r: n + longer * (n > at) for r, n in t.response_ids.items()}
    t.states = {s: n + longer * (n > at) for s, n in t.states.items()}
    t.told = [(o, [x for y in said for x in (told if y is last else [y])]) for o, said in t.told]
    t.read = ([], 0, None)
    return True


_ANSWERING = ("assistant", "tool")


def _words(turns: list[Turn]) -> str:
    """Return all assistant text without spaces, because exporters join texts in different ways."""
    return "".join("".join((x.message.get("content") or "").split()) for x in turns if x.message["role"] == "assistant")


def _calls(turns: list[Turn]) -> set[str]:
    return {c["name"] for x in turns for c in x.message.get("tool_calls") or ()}


def _named(threads: list[Thread], call: _Call, history: list[Turn]) -> tuple[Thread, int, list[Turn]] | None:
    """Find the thread of a stateful call: it sends only new messages and names the response or the conversation that
    it continues. Its messages are put after that, unless it also repeats the whole history."""
    response, state = call.seen.previous_response_id, call.seen.state_id
    for t in _nearest(threads, call):
        at = t.response_ids.get(response, -1) if response else t.states.get(state or "", -1)
        if at >= 0 and (not at or common_prefix(t.turns[:at], history) < at):
            return t, at, [*t.turns[:at], *history]
    return None


def _nearest(threads: list[Thread], call: _Call) -> list[Thread]:
    """Return the threads, latest first, those of the same run before others."""
    return sorted(reversed(threads), key=lambda t: t.scope is None or t.scope.run != call.scope.run)


def _continued(threads: list[Thread], call: _Call, history: list[Turn]) -> tuple[Thread | None, int, list[Turn]]:
    """Find the thread of a call that sends only new messages and names nothing: by overlap, or by an open call id."""
    seen = call.seen
    nearest = _nearest(threads, call)
    if seen.rebuilt and threads:
        return threads[-1], len(threads[-1].turns), [*threads[-1].turns, *history]
    if not history:
        return _told_again(threads, call)
    evicted = {"sparse_index", "dropped_attributes"} & set(seen.flags)  # the oldest go first, the next in part
    for rest in (history, history[1:]) if evicted else (history,):
        for t in nearest:
            answered = rest[0].message.get("tool_call_id") if rest else None
            k = overlap(t.turns, rest)
            if k or (answered and answered in open_ids(t)):
                return t, len(t.turns), [*t.turns, *rest[k:]]
    return None, 0, history


def _told_again(threads: list[Thread], call: _Call) -> tuple[Thread | None, int, list[Turn]]:
    """Find the thread of a second record of a model call that has only the answer."""
    k = len(call.said)
    for t in threads:
        if k and same_turns(t.turns[-k:], call.said) and _tells_again(t, call):
            return t, len(t.turns) - k, t.turns[:-k]
    return None, 0, []


def overlap(a: list[Turn], b: list[Turn]) -> int:
    """Return how many turns at the end of ``a`` equal the first turns of ``b``; 0 if they are no evidence."""
    found = next((k for k in range(min(len(a), len(b)), 0, -1) if same_turns(a[-k:], b[:k])), 0)
    return found if share_evidence(a[-found:], b, found) else 0


def open_ids(t: Thread) -> set[str]:
    """Return the ids of the calls in the last turn of a thread. Their answers continue the thread."""
    return {c["id"] for c in t.turns[-1].message.get("tool_calls") or () if c["id"]} if t.turns else set()


def _begun(threads: list[Thread], path: list[Turn], call: _Call) -> Thread:
    threads.append(Thread(_kept(path), start_ns=call.seen.start_ns, scope=call.scope))
    return threads[-1]


def _extend(threads: list[Thread], t: Thread, shared: int, path: list[Turn], call: _Call) -> Thread:
    known = common_prefix(t.turns, path, shared)
    if known == 0:
        return _begun(threads, path, call)
    for old, new in zip(t.turns[:known], path, strict=False):
        if old is not new:
            _enrich(old, new)
    if known == len(path):
        return t
    if known == len(t.turns):
        t.turns.extend(_kept(path[known:]))
        return t
    turns = [*t.turns[:known], *_kept(path[known:])]
    branch = Thread(turns, start_ns=t.start_ns, scope=call.scope, is_branch=True)
    branch.system = t.system if call.system is None else None  # else ``_note`` takes the call's own
    branch.tools, branch.flags, branch.agent = t.tools, {*t.flags}, t.agent
    threads.append(branch)
    return branch


def _kept(turns: list[Turn]) -> list[Turn]:
    for turn in turns:
        turn.keep()
    return turns


# ------------------------------------------------------------------------------ merging threads


def absorb(threads: list[Thread]) -> list[Thread]:
    """Merge each thread that is a prefix of another thread into that thread. This is a handoff, or a less complete
    record of the same calls."""
    if len(threads) < 2:
        return threads
    paths = [path_digests(t.turns) for t in threads]
    begun: dict[bytes, Thread] = {}
    for t, path in zip(threads, paths, strict=True):
        for digest in path[:-1]:
            begun.setdefault(digest, t)
    whole: dict[bytes, Thread] = {}
    gone: dict[int, Thread] = {}
    for t, path in sorted(zip(threads, paths, strict=True), key=lambda found: len(found[1])):
        target = begun.get(path[-1]) if path else None
        if target is None and path:
            other = whole.setdefault(path[-1], t)
            target = other if other is not t and _are_one(other, t) else None
        if target is not None and _may_absorb(target, t):
            _absorb(target, t)
            gone[id(t)] = target
    return [t for t in threads if id(t) not in gone]


def path_digests(turns: Sequence[Turn]) -> list[bytes]:
    """Return the digest of the path up to each turn."""
    state, out = xxhash.xxh3_128(), []
    for turn in turns:
        state.update(turn.key)
        out.append(state.digest())
    return out


def _are_one(a: Thread, b: Thread) -> bool:
    """Whether two threads have spans of one model call."""
    if a.response_ids.keys() & b.response_ids.keys():
        return True
    spans: set[SpanKey] = {o.key for o, _ in a.told}
    parents: set[SpanKey] = {(o.trace_id, o.parent_span_id) for o, _ in a.told}
    return any((o.trace_id, o.parent_span_id) in spans or o.key in parents for o, _ in b.told)


def _may_absorb(whole: Thread, part: Thread) -> bool:
    if whole.agent and part.agent and whole.agent != part.agent and not any(t.sent for t in part.turns):
        return False  # only their user messages are equal
    return say_something(part.turns)


def _absorb(whole: Thread, part: Thread) -> None:
    at = {id(turn): place for place, turn in enumerate(part.turns)}
    is_older = part.start_ns < whole.start_ns
    for mine, theirs in zip(whole.turns, part.turns, strict=False):
        mine.keep()
        _enrich(mine, theirs)
        if theirs.start_ns < mine.start_ns:
            mine.start_ns, mine.span_id, mine.trace_id = theirs.start_ns, theirs.span_id, theirs.trace_id
    told = [(o, [whole.turns[at[id(turn)]] for turn in said]) for o, said in part.told]
    whole.told = [*told, *whole.told] if is_older else [*whole.told, *told]
    if is_older:
        whole.start_ns, whole.scope = part.start_ns, part.scope
        whole.agent, whole.system = part.agent or whole.agent, part.system or whole.system
    whole.end_ns = max(whole.end_ns, part.end_ns)
    whole.is_branch = whole.is_branch and part.is_branch
    whole.tools = whole.tools or part.tools
    whole.flags |= part.flags
    whole.response_ids = {**part.response_ids, **whole.response_ids}
    whole.states = {**part.states, **whole.states}


# --------------------------------------------------------------------------------- equal turns


def common_prefix(a: list[Turn], b: list[Turn], known: int = 0) -> int:
    """Return how many leading turns are equal. The first ``known`` are not compared."""
    n = known
    for x, y in zip(a[known:], b[known:], strict=False) if known else zip(a, b, strict=False):
        if x.key != y.key and not _alike(x, y):
            break
        n += 1
    return n


def same_turns(a: list[Turn], b: list[Turn]) -> bool:
    """Whether two lists of turns are equal."""
    return len(a) == len(b) and common_prefix(a, b) == len(a)


def _alike(x: Turn, y: Turn) -> bool:
    """Whether one turn is a less complete record of the other: other leading or trailing space, calls without
    arguments, no text beside the same calls, or an answer without some of the calls that a history shows."""
    if x.message["role"] != y.message["role"]:
        return False
    if x.message["role"] == "assistant" and not (x.parts and y.parts):
        return True  # one of them is a message without content
    if lacks_calls_of(x, y):
        return True
    a, b = x.message, y.message
    calls_a, calls_b = a.get("tool_calls") or [], b.get("tool_calls") or []
    if bool(calls_a) != bool(calls_b) or [c["name"] for c in calls_a] != [c["name"] for c in calls_b]:
        return False
    if calls_a:
        return all(is_one_call(c, d) for c, d in zip(calls_a, calls_b, strict=True))
    return (a.get("content") or "").strip() == (b.get("content") or "").strip()


def _enrich(old: Turn, new: Turn) -> None:
    """Complete a turn from another record of the same message."""
    if old.parts is new.parts:  # the same record
        old.sent = old.sent or new.sent
        return
    a, b = old.message, new.message
    if not old.parts and new.parts:
        old.parts, old.key = new.parts, new.key
        if calls := b.get("tool_calls"):
            a["tool_calls"] = [call.copy() for call in calls]
    elif lacks_calls_of(old, new):
        add_calls(old, new)
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
    old.sent = old.sent or new.sent
