"""Link each tool call with its execution span and its result: by id, else by content and position. Every repair is
recorded."""

from __future__ import annotations

from collections.abc import Sequence

from ingest.conversations.executions import Scopes
from ingest.conversations.links import Link
from ingest.conversations.matching import match
from ingest.conversations.threads import Thread
from ingest.messages.chatform import Turn, as_text, key_of
from ingest.messages.error_class import classify_error, says_error
from ingest.messages.normal import Observed
from ingest.records import Message

Left = list[Observed]  # executions of no call


def link(threads: Sequence[Thread], executions: Sequence[Observed], scopes: Scopes) -> tuple[list[list[Link]], Left]:
    """Link the calls of one conversation's threads, add results that only execution spans have, and set ``is_error``,
    ``error_class``, ``name`` and ``latency_ms`` on the results. A call that several threads share was executed once: in
    the first. Return the links of each thread, and the executions without a call."""
    linked = [_answers(t) for t in threads]
    first: dict[int, Link] = {}
    for x in (x for links in linked for x in links):
        first.setdefault(id(x.call), x)
    left = match(list(first.values()), executions, scopes, is_shared=len(threads) > 1)
    done: set[int] = set()
    for t, links in zip(threads, linked, strict=True):
        _insert_missing(t, links, first)
        for number, x in enumerate(links):
            _name(x, number)
            if x.answer is not None and id(x.answer) not in done:
                done.add(id(x.answer))
                _finish(x)
        for turn in t.turns:
            if turn.message["role"] == "tool" and "is_error" not in turn.message:
                _finish_orphan(turn.message)
    return linked, left


def _name(x: Link, number: int) -> None:
    if not x.call.get("id"):
        x.call["id"] = x.answer.message.get("tool_call_id", "") if x.answer else ""
    if not x.call["id"]:
        x.call["id"] = f"call_{number}"
        x.repairs.append("id_made")


def _finish_orphan(message: Message) -> None:
    content = message.get("content")
    message["is_error"] = says_error(content)
    message["error_class"] = classify_error(None, content) if message["is_error"] else ""


def _answers(t: Thread) -> list[Link]:
    """Return the calls of a thread with their results, by id or else by position after the call."""
    links: list[Link] = []
    open_links: list[Link] = []
    for turn in t.turns:
        for call in turn.message.get("tool_calls") or ():
            links.append(Link(call, turn))  # type: ignore[arg-type]
            open_links.append(links[-1])
        if turn.message["role"] == "tool":
            found = _owner(turn, open_links)
            if found is None:
                turn.flags.append("orphan_result")
                t.flags.add("orphan_result")
            else:
                found.answer = turn
                open_links.remove(found)
    return links


def _owner(turn: Turn, open_links: list[Link]) -> Link | None:
    call_id, name = turn.message.get("tool_call_id"), turn.message.get("name")
    if call_id:
        for x in open_links:
            if x.call.get("id") == call_id:
                return x
    for x in open_links:
        if (not name or x.call["name"] == name) and not (call_id and x.call.get("id")):
            x.repairs.append("result_by_position")
            return x
    for x in open_links:  # ids that disagree (an item id here, a call id there)
        if not name or x.call["name"] == name:
            x.repairs.append("result_id_repaired")
            return x
    return None


def _insert_missing(t: Thread, links: list[Link], first: dict[int, Link]) -> None:
    """Add from the execution spans what the histories lack: results (the last ones, or those that a library drops),
    contents and arguments."""
    for x in links:
        e = x.execution
        known = first[id(x.call)]
        if x.answer is None and known is not x and known.answer is not None:  # in another thread
            x.answer = known.answer
            x.repairs.append("result_from_span")
            t.turns.insert(_place_after(t, x), x.answer)
        if e is None:
            continue
        content = as_text(e.result) if e.result is not None else e.error_message if e.is_error else None
        if x.answer is not None and x.answer.message.get("content") is None and content is not None:
            x.answer.message["content"] = content
            x.repairs.append("result_from_span")
        has_ended = bool(e.end_ns)  # 0 if it waits for a person
        if x.answer is None and (e.result is not None or e.is_error or (e.call_id and has_ended)):
            message: Message = {"role": "tool", "content": content, "tool_call_id": x.call.get("id", "")}
            x.answer = Turn(message, key_of(["tool", content]), [], e.end_ns, e.span_id, e.trace_id)
            x.repairs.append("result_from_span")
            t.turns.insert(_place_after(t, x), x.answer)
        if "arguments" not in x.call and e.arguments is not None:
            x.call["arguments"] = e.arguments
            x.repairs.append("arguments_from_span")


def _place_after(t: Thread, x: Link) -> int:
    at = next(i for i, turn in enumerate(t.turns) if turn is x.call_turn) + 1
    while at < len(t.turns) and t.turns[at].message["role"] == "tool":
        at += 1
    return at


def _finish(x: Link) -> None:
    if x.answer is None:
        return
    message, e = x.answer.message, x.execution
    message["name"] = x.call["name"]
    message["tool_call_id"] = x.call["id"]
    content = message.get("content")
    failed = bool(message.get("is_error")) or (e is not None and e.is_error)
    went_well = message.get("is_error") is False or e is not None
    failed = failed or says_error(content, went_well)
    message["is_error"] = failed
    message["error_class"] = (
        classify_error(e.error_type if e else None, content, e.error_message if e else None) if failed else ""
    )
    if e is not None and e.end_ns >= e.start_ns > 0:
        message["latency_ms"] = (e.end_ns - e.start_ns) / 1e6
