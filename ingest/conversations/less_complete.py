"""Answers that one span tells less completely than another: without some of its calls, or as a turn without content.

Some instrumentations do not record the calls of an answer, and the history of the next call shows them. Others record
the calls of the answer, and the history has an empty turn in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

from ingest.conversations.evidence import is_random
from ingest.conversations.links import Link
from ingest.messages.chatform import Turn, key_of
from ingest.records import MessageToolCall

Pair = tuple[Turn, Turn]


def lacks_calls_of(answer: Turn, told: Turn) -> bool:
    """Whether an answer has the text of a history's turn, and only some of its calls."""
    a, b = answer.message, told.message
    if not answer.sent or told.sent or a["role"] != "assistant" or b["role"] != "assistant":
        return False
    some, all_ = a.get("tool_calls") or (), list(b.get("tool_calls") or ())
    if len(some) >= len(all_) or (a.get("content") or "").strip() != (b.get("content") or "").strip():
        return False
    for call in some:
        same = next((c for c in all_ if _is_same(call, c)), None)
        if same is None:
            return False
        all_.remove(same)
    return True


def is_one_call(a: MessageToolCall, b: MessageToolCall) -> bool:
    """Whether two calls of one tool may be the same call. Equal counted ids are no evidence where arguments differ."""
    if "arguments" not in a or "arguments" not in b:
        return True
    if not a["id"] or a["id"] != b["id"]:
        return False
    return is_random(a["id"]) or key_of(a["arguments"]) == key_of(b["arguments"])


def _is_same(a: MessageToolCall, b: MessageToolCall) -> bool:
    if a["name"] != b["name"]:
        return False
    is_named = is_random(a["id"]) and is_random(b["id"])
    return is_one_call(a, b) or (not is_named and key_of(a.get("arguments")) == key_of(b.get("arguments")))


def add_calls(answer: Turn, told: Turn) -> None:
    """Give an answer the calls that the history's turn shows."""
    known = answer.message.get("tool_calls") or []
    calls: list[MessageToolCall] = [c.copy() for c in told.message.get("tool_calls") or ()]
    for call in calls:
        if not call["id"]:
            call["id"] = next((c["id"] for c in known if _is_same(c, call)), "")
    answer.message["tool_calls"] = calls
    kept = [p for p in answer.parts if p["type"] != "tool_call"]
    answer.parts = [*kept, *(p for p in told.parts if p["type"] == "tool_call")]
    answer.key = told.key


def may_be_last(last: Turn, turns: Sequence[Turn], at: int) -> bool:
    """Whether the last turn of a conversation may be ``turns[at]``: one of them is a less complete record. An empty
    turn is evidence only where as many results follow as the answer has calls."""
    told = turns[at]
    if lacks_calls_of(last, told):
        return True
    if not last.sent or told.parts or told.message["role"] != "assistant":
        return False
    following = takewhile(lambda t: t.message["role"] == "tool", turns[at + 1 :])
    calls = last.message.get("tool_calls") or ()
    return 0 < len(calls) == sum(1 for _ in following)


def may_tell_less(turn: Turn) -> bool:
    """Whether another span may have a more, or a less, complete record of a turn."""
    return turn.message["role"] == "assistant" and (not turn.parts or bool(turn.message.get("tool_calls")))


def fill_in(pairs: Sequence[Pair], links: Iterable[Link], later: Sequence[Turn]) -> list[Link]:
    """Give the empty turns of a later history what an earlier conversation has in their place. ``pairs`` are the turns
    of both, ``links`` the earlier conversation's calls. Return the calls of these turns, each with its result."""
    filled: dict[int, Turn] = {}
    for theirs, ours in pairs:
        if ours.message["role"] == "assistant" and not ours.parts and theirs.parts:
            ours.parts, filled[id(theirs)] = theirs.parts, ours
            ours.message["content"] = theirs.message.get("content")
            if calls := theirs.message.get("tool_calls"):
                ours.message["tool_calls"] = [c.copy() for c in calls]
    if not filled:
        return []
    now = {id(theirs): ours for theirs, ours in pairs}
    place = {id(turn): n for n, turn in enumerate(later)}
    out: list[Link] = []
    taken: set[int] = set()
    for x in links:
        mine = filled.get(id(x.call_turn))
        if mine is None:
            continue
        number = next(n for n, c in enumerate(x.call_turn.message.get("tool_calls") or ()) if c is x.call)
        x.call, x.call_turn = mine.message["tool_calls"][number], mine  # type: ignore[assignment]
        x.answer = now.get(id(x.answer)) if x.answer else _free_result(later[place[id(mine)] + 1 :], taken)
        if x.answer is not None:
            taken.add(id(x.answer))
            _link(x, x.answer)
        out.append(x)
    return out


def _free_result(turns: Sequence[Turn], taken: set[int]) -> Turn | None:
    results = takewhile(lambda t: t.message["role"] == "tool", turns)
    return next((t for t in results if id(t) not in taken), None)


def _link(x: Link, result: Turn) -> None:
    result.message["name"], result.message["tool_call_id"] = x.call["name"], x.call["id"]
    if "orphan_result" in result.flags:
        result.flags = [f for f in result.flags if f != "orphan_result"]
        x.repairs.append("result_by_position")
