"""Answers that one span tells less completely than the next call's history, or more: one turn, within one trace and
across traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dialect_samples import conversations
from ingest_samples import answer, call, chat, request, text

from ingest.lake import Lake
from ingest.records import Conversation

EMPTY = {"role": "assistant", "parts": []}
ASK, CHECK = text("user", "cancel W1"), text("assistant", "Let me check.")
FIRST, SECOND = call("", "look", {"id": 1}), call("", "look", {"id": 2})
BOTH = {**FIRST, "parts": [*CHECK["parts"], *FIRST["parts"], *SECOND["parts"]]}
RESULTS = [answer("", "one"), answer("", "two")]
DONE = text("assistant", "Both are open.")


def read(tmp_path: Path, *spans: dict[str, Any]) -> list[Conversation]:
    """The conversations of spans, which are the same in one piece and in parts."""
    place = tmp_path / f"lake-{len(list(tmp_path.iterdir()))}"
    return conversations(Lake.create(place), place.with_suffix(".jsonl"), request(*spans))


def turns_of(c: Conversation) -> list[Any]:
    return [(m["role"], m.get("content"), [x["arguments"]["id"] for x in m.get("tool_calls") or ()])
            for m in c.messages]  # fmt: skip


WHOLE = [("user", "cancel W1", []), ("assistant", "Let me check.", [1, 2]), ("tool", "one", []), ("tool", "two", []),
         ("assistant", "Both are open.", [])]  # fmt: skip


@pytest.mark.parametrize("trace", [1, 2], ids=["one trace", "two traces"])
@pytest.mark.parametrize("number", [0, 1])
def test_calls_that_only_the_history_shows(tmp_path: Path, trace: int, number: int) -> None:
    said = {**CHECK, "parts": BOTH["parts"][: number + 1]}
    spans = [chat(1, 2, 1, [ASK], [said], None), chat(trace, 3, 3, [ASK, BOTH, *RESULTS], [DONE], None)]
    assert list(map(turns_of, read(tmp_path, *spans[:: 1 if number else -1]))) == [WHOLE]


@pytest.mark.parametrize("trace", [1, 2], ids=["one trace", "two traces"])
def test_calls_that_only_the_answer_shows(tmp_path: Path, trace: int) -> None:
    spans = [chat(1, 2, 1, [ASK], [BOTH], None), chat(trace, 3, 3, [ASK, EMPTY, *RESULTS], [DONE], None)]
    (c,) = read(tmp_path, *spans[::-1])
    assert turns_of(c) == WHOLE
    assert [m["tool_call_id"] for m in c.messages if m["role"] == "tool"] == ["call_0", "call_1"]
    assert not {"orphan_result", "call_without_result"} & set(c.flags)


def test_an_empty_turn_is_no_evidence_where_the_results_do_not_fit_or_several_answers_do(tmp_path: Path) -> None:
    later = chat(2, 3, 3, [ASK, EMPTY, RESULTS[0]], [DONE], None)
    assert len(read(tmp_path, chat(1, 2, 1, [ASK], [BOTH], None), later)) == 2
    later = chat(3, 3, 3, [ASK, EMPTY, *RESULTS], [DONE], None)
    both = [chat(trace, 2, trace, [ASK], [BOTH], None) for trace in (1, 2)]
    assert len(read(tmp_path, *both, later)) == 3
    assert len(read(tmp_path, chat(1, 2, 9, [ASK], [BOTH], None), later)) == 2  # told before it was said


def test_an_answer_without_calls_is_another_one_than_an_answer_with_them(tmp_path: Path) -> None:
    """Both were said: none of them is only a history's record."""
    spans = [chat(1, 2, 1, [ASK], [CHECK], "c"), chat(1, 3, 3, [ASK], [BOTH], "c")]
    assert len(read(tmp_path, *spans)) == 2


def test_a_message_list_without_content_is_no_answer(tmp_path: Path) -> None:
    values = {"gen_ai.response.finish_reasons": ["stop"]}
    spans = [chat(1, 2, 1, [ASK], [EMPTY], None, **values)]
    (c,) = read(tmp_path, *spans)
    assert "unread_output" in c.flags
    assert [m.get("content") for m in c.messages if m["role"] == "assistant"] in ([], [None])
