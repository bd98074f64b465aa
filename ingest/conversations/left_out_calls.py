"""Restore tool calls in histories that contain only the results (OpenLIT).

The call is known from the answer of an earlier model call, by its id. It is put back in front of its result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ingest.messages.chatform import Turn


def lacks_calls(history: Sequence[Turn], start: int) -> bool:
    """Whether the turns from ``start`` on contain results without a call before them."""
    begin = start
    while begin and history[begin - 1].message["role"] == "tool":
        begin -= 1
    left = _calls(history[begin - 1]) - (start - begin) if begin else 0
    for turn in history[start:]:
        if turn.message["role"] != "tool":
            left = _calls(turn)
        elif left > 0:
            left -= 1
        elif turn.message.get("tool_call_id"):
            return True
    return False


_UNTOLD = 1_000  # calls that may be in an assistant's turn of which nothing is told


def _calls(turn: Turn) -> int:
    """Return how many results a turn expects."""
    m = turn.message
    return len(m.get("tool_calls") or ()) or (_UNTOLD if m["role"] == "assistant" and not turn.parts else 0)


def put_back(history: list[Turn], told: Iterable[Sequence[Turn]]) -> list[Turn]:
    """Return the history with its missing calls, taken from the earlier turns ``told`` (latest first). A call that the
    history has after its result is not missing."""
    makers: dict[str, Turn] = {}
    for turns in told:
        for turn in turns:
            for call in turn.message.get("tool_calls") or ():
                if call.get("id"):
                    makers.setdefault(call["id"], turn)
    to_come = Counter(c["id"] for turn in history for c in turn.message.get("tool_calls") or ())
    out: list[Turn] = []
    left = 0
    for turn in history:
        is_result = turn.message["role"] == "tool"
        left = left - 1 if is_result else _calls(turn)
        to_come.subtract(c["id"] for c in turn.message.get("tool_calls") or ())
        answered = turn.message.get("tool_call_id", "")
        maker = makers.get(answered) if is_result and left < 0 and not to_come[answered] else None
        if maker is not None:
            left = _calls(maker) - 1
            if out and _is_rest_of(out[-1], maker):
                out.pop()
            out.append(maker.seen(turn.start_ns, turn.span_id, turn.trace_id, False))
        out.append(turn)
    return out


def _is_rest_of(turn: Turn, maker: Turn) -> bool:
    """Whether a turn is the text, or a part of the text, of the message that made the call, without the call."""
    m = turn.message
    is_text = m["role"] == "assistant" and not m.get("tool_calls")
    text, whole = (m.get("content") or "").strip(), (maker.message.get("content") or "").strip()
    return is_text and (text == whole or bool(text and text in whole))
