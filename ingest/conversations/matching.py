"""Match executions to calls by id, arguments, result, position and time, for all threads of a conversation at once.

Ids alone are weak evidence: some models count them (``call_0``), some use the tool's name. A call may have several
attempts. They stay together; the outcome that the model saw counts, else that of the last attempt.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from ingest.conversations.evidence import is_random
from ingest.conversations.executions import Scopes
from ingest.conversations.links import Link
from ingest.messages.chatform import key_of
from ingest.messages.normal import Observed

SLACK_NS = 1_000_000_000  # clock difference of two hosts
# Exceptions by which a framework pauses a tool until a person answers. They are no errors of the tool.
_PAUSED = re.compile(r"interrupt|suspend|approval_?required|calldeferred|deferred_?(?:tool|call)|human_?input", re.I)
Key = Hashable | None
Attempts = list[tuple[Link, list[Observed]]]


def match(links: Sequence[Link], executions: Sequence[Observed], scopes: Scopes, is_shared: bool) -> list[Observed]:
    """Set the attempts of each call and the execution that counts. Return the executions without a call. With
    ``is_shared`` the calls are of several threads, and matches within one run come first."""
    free = _by_lone_ids(links, sorted(executions, key=attrgetter("start_ns")))
    runs = () if not free else (True, False) if is_shared else (False,)
    for same_run in runs:
        keys = _Keys(scopes if same_run else None)
        free = _pass(links, free, keys.exact, "", True, True)
        free = _pass(links, free, keys.by_id, "", True, True)
    for same_run in runs:
        keys = _Keys(scopes if same_run else None)
        free = _pass(links, free, keys.by_content, "execution_by_content", False, True)
        free = _pass(links, free, keys.by_name, "execution_by_name", False, False)
    free = _earlier_attempts(links, free) if free else free
    for x in links:
        if x.attempts:
            x.execution = _deciding(x)
    return free


def _by_lone_ids(links: Sequence[Link], executions: list[Observed]) -> list[Observed]:
    """Match ids that exactly one call and one execution have, as most do. Return the remaining executions."""
    calls: dict[str, Link | None] = {}
    for x in links:
        if call_id := x.call.get("id"):
            calls[call_id] = None if call_id in calls else x
    runs: dict[str, Observed | None] = {}
    for e in executions:
        if e.call_id:
            runs[e.call_id] = None if e.call_id in runs else e
    left = []
    for e in executions:
        found = calls.get(e.call_id) if e.call_id and runs[e.call_id] is e else None
        if found is not None and _fits(found, e, True):
            found.attempts.append(e)
        else:
            left.append(e)
    return left


class _Keys:
    """Keys by which calls and executions are matched: pairs of a function of a link and one of a span. A key is None
    where a field of it is missing."""

    def __init__(self, scopes: Scopes | None) -> None:
        self._scopes = scopes
        self.exact = (self._exact_call, self._exact_run)
        self.by_id = (self._id_call, self._id_run)
        self.by_content = (self._content_call, self._content_run)
        self.by_name = (self._name_call, self._name_run)

    def _run_of_call(self, x: Link) -> Key:
        if self._scopes is None:
            return ()
        scope = self._scopes.at((x.call_turn.trace_id, x.call_turn.span_id))
        return scope.run if scope else None

    def _run_of(self, e: Observed) -> Key:
        return self._scopes.of(e).run if self._scopes else ()

    def _exact_call(self, x: Link) -> Key:
        return _all(x.call.get("id"), x.call["name"], _arguments(x.call.get("arguments")), self._run_of_call(x))

    def _exact_run(self, e: Observed) -> Key:
        return _all(e.call_id, e.tool_name, _arguments(e.arguments), self._run_of(e))

    def _id_call(self, x: Link) -> Key:
        return _all(x.call.get("id"), self._run_of_call(x))

    def _id_run(self, e: Observed) -> Key:
        return _all(e.call_id, self._run_of(e))

    def _content_call(self, x: Link) -> Key:
        return _all(x.call["name"], _arguments(x.call.get("arguments")), self._run_of_call(x))

    def _content_run(self, e: Observed) -> Key:
        return _all(e.tool_name, _arguments(e.arguments), self._run_of(e))

    def _name_call(self, x: Link) -> Key:
        return _all(x.call["name"], self._run_of_call(x))

    def _name_run(self, e: Observed) -> Key:
        return _all(e.tool_name, self._run_of(e))


def _all(*told: Any) -> Key:
    return None if any(t is None or t == "" for t in told) else told


def _arguments(value: Any) -> bytes | None:
    return None if value is None else key_of(value)


KeyPair = tuple[Callable[["Link"], Key], Callable[[Observed], Key]]


def _pass(
    links: Sequence[Link], free: list[Observed], keys: KeyPair, repair: str, again: bool, several: bool
) -> list[Observed]:
    """Match calls and executions with equal keys. Return the remaining executions. With ``again``, calls that have an
    execution already take part. With ``several``, a call gets all its attempts, else one."""
    if not free:
        return free
    runs: dict[Key, list[Observed]] = defaultdict(list)
    for e in free:
        if (key := keys[1](e)) is not None:
            runs[key].append(e)
    if not runs:
        return free
    calls: dict[Key, list[Link]] = defaultdict(list)
    for x in links:
        if (again or not x.attempts) and (key := keys[0](x)) in runs:
            calls[key].append(x)
    taken: set[int] = set()
    for key, found in calls.items():
        is_only = len(found) == len(runs[key]) == 1
        for x, attempts in _share(found, runs[key]):
            fitting = [e for e in attempts if _fits(x, e, is_only)]
            fitting = fitting if several else _first_to_end(fitting)
            if fitting and not x.attempts and repair:
                x.repairs.append(repair)
            x.attempts += fitting
            taken.update(map(id, fitting))
    return [e for e in free if id(e) not in taken] if taken else free


def _first_to_end(runs: list[Observed]) -> list[Observed]:
    """Return executions up to the first that is not paused."""
    ended = next((n for n, e in enumerate(runs, 1) if not is_paused(e)), len(runs))
    return runs[:ended]


def _fits(x: Link, e: Observed, is_only: bool) -> bool:
    """Whether an execution may belong to a call: the same tool, and arguments that do not contradict. Other arguments
    (changed by a person or a framework) are accepted where the result or a random id is equal."""
    if e.tool_name and e.tool_name != x.call["name"]:
        return False
    if not _contradict(x.call.get("arguments"), e.arguments):
        return True
    is_same_id = bool(e.call_id) and e.call_id == x.call.get("id")
    return is_same_id and (_agrees(x, e) or (is_only and is_random(e.call_id)))


def _contradict(called: Any, ran: Any) -> bool:
    """Whether arguments of the same name have different values. Without a common name the forms differ, which is no
    contradiction."""
    if not isinstance(called, dict) or not isinstance(ran, dict):
        return False
    return called != ran and any(_differ(called[name], ran[name]) for name in called.keys() & ran.keys())


def _differ(a: Any, b: Any) -> bool:
    return a != b and str(a).strip() != str(b).strip() and key_of(a) != key_of(b)


def _agrees(x: Link, e: Observed) -> bool:
    """Whether the result that the model saw is that of the execution."""
    content = x.answer.message.get("content") if x.answer else None
    if content is None:
        return False
    if e.result is not None:
        return key_of(e.result) == key_of(content)
    return bool(e.is_error and e.error_message) and str(e.error_message) in content


def _share(calls: list[Link], runs: list[Observed]) -> Attempts:
    """Assign executions (in the order of time) to calls with equal keys: by the results that the model saw, else by
    order, else by the time of the calls."""
    if len(calls) == 1:
        return [(calls[0], runs)]
    calls = sorted(calls, key=lambda x: x.call_turn.start_ns)
    if len(calls) == len(runs):
        return [(x, [e]) for x, e in zip(calls, runs, strict=True)]
    told: Attempts = []
    by_result: dict[bytes, list[Observed]] = defaultdict(list)
    for e in reversed(runs):
        if e.result is not None:
            by_result[key_of(e.result)].append(e)
    rest, used = [], set()
    for x in calls:
        content = x.answer.message.get("content") if x.answer else None
        same = by_result.get(key_of(content)) if content is not None else None
        if same:
            told.append((x, [same.pop()]))
            used.add(id(told[-1][1][0]))
        else:
            rest.append(x)
    left = [e for e in runs if id(e) not in used]
    told += _by_time(rest, left) if rest else []
    if not rest:  # the others are earlier attempts
        told += _by_time(calls, left)
    return told


def _by_time(calls: list[Link], runs: list[Observed]) -> Attempts:
    times = [x.call_turn.start_ns for x in calls]
    is_certain = all(x.call_turn.sent for x in calls) and not any(e.start_ns < times[0] - SLACK_NS for e in runs)
    if not is_certain:  # the times of the calls are unknown, or clocks differ
        return [(x, [e]) for x, e in zip(calls, runs, strict=False)]
    found: dict[int, list[Observed]] = defaultdict(list)
    for e in runs:
        at = max(0, bisect_right(times, e.start_ns) - 1)
        first = bisect_left(times, times[at])
        open_calls = [n for n in range(first, at + 1) if not found[n]]  # in one message
        found[open_calls[0] if open_calls else at].append(e)
    return [(calls[n], attempts) for n, attempts in found.items() if attempts]


def _earlier_attempts(links: Sequence[Link], free: list[Observed]) -> list[Observed]:
    """Add attempts without a result and without a call id to the calls: those that began after the call and before
    the execution that counts."""
    by_name: dict[str, list[Link]] = defaultdict(list)
    for x in links:
        if x.attempts:
            by_name[x.call["name"]].append(x)
    left = []
    for e in free:
        came_to_nothing = not e.call_id and e.result is None
        calls = by_name.get(e.tool_name or "", ()) if came_to_nothing else ()
        tried = [x for x in calls if _is_between(x, e) and _fits(x, e, False)]
        if tried:
            tried[-1].attempts.append(e)
        else:
            left.append(e)
    return left


def _is_between(x: Link, e: Observed) -> bool:
    return x.call_turn.sent and x.call_turn.start_ns <= e.start_ns <= x.attempts[0].start_ns


def _deciding(x: Link) -> Observed:
    """Return the attempt whose outcome counts: the one whose result the model saw, else the last that ended. A result
    that only another attempt has is taken over."""
    e = x.attempts[0]
    if len(x.attempts) > 1:
        e = max(x.attempts, key=lambda e: (_agrees(x, e), _has_ended(e), e.start_ns, e.end_ns))
    if is_paused(e):
        return replace(e, is_error=False, error_type=None, error_message=None, end_ns=0)
    if e.result is None and not e.is_error:
        told = [o for o in x.attempts if o.result is not None and not o.is_error]
        if told:
            e = replace(e, result=told[-1].result)
    return e


def is_paused(e: Observed) -> bool:
    """Whether an execution was paused to wait for a person. This is neither a result nor an error."""
    return e.is_error and e.result is None and bool(e.error_type) and _PAUSED.search(str(e.error_type)) is not None


def _has_ended(e: Observed) -> bool:
    return not is_paused(e) and (e.result is not None or e.is_error or e.end_ns > e.start_ns)
