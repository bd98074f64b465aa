"""What is one object in one process is several in another: neither may decide what belongs together."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ingest_samples import call, request, span, text

from ingest.conversations import grouping
from ingest.conversations.executions import Scopes, by_span
from ingest.conversations.grouping import Group, Ties
from ingest.conversations.threads import Thread, thread
from ingest.lake import Lake
from ingest.messages.normal import Observed
from ingest.messages.parts import call_part, result_part, text_part
from ingest.tables.normalise import read


def inference(number: int, sent: list[dict[str, Any]], said: list[dict[str, Any]], **more: Any) -> Observed:
    where = (f"t{number}", f"s{number}", "", number * 1000, number * 1000 + 10)
    return Observed("inference", "otel-genai", *where, input=sent, output=said, **more)


def message(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "parts": list(parts)}


ASKED, SILENT = message("user", text_part("look for 7")), message("user")
SAID = message("assistant", text_part("it is there"))
HISTORIES = {
    "the same question to two agents": [inference(1, [ASKED], [SAID], agent="a"), inference(2, [ASKED], [], agent="b")],
    "nothing said, twice": [inference(1, [SILENT], [message("assistant")]), inference(2, [SILENT], [SAID])],
    "asked again": [inference(1, [ASKED], [SAID]), inference(2, [ASKED], [SAID]), inference(3, [ASKED, SAID], [SAID])],
    "asked again with another system prompt": [
        inference(n, [message("system", text_part(f"it is {n}")), ASKED], [message("assistant", text_part(str(n)))])
        for n in (1, 2)
    ],
    "only what is new": [
        inference(1, [ASKED], [SAID], response_id="r1"),
        inference(2, [ASKED], [SAID], response_id="r2", previous_response_id="r1"),
    ],
}  # fmt: skip


def told(threads: list[Thread]) -> list[Any]:
    return [[(x.message, x.key, x.start_ns, x.span_id, x.trace_id, x.sent) for x in t.turns] for t in threads]


@pytest.mark.parametrize("name", HISTORIES)
def test_shared_message_objects_join_no_more_than_equal_ones(name: str) -> None:
    calls = HISTORIES[name]
    shared = thread(copy.deepcopy(calls), Scopes(by_span(calls)))
    apart = thread([copy.deepcopy(o) for o in calls], Scopes(by_span(calls)))
    assert told(shared) == told(apart)


def test_a_group_read_in_two_parts_has_the_same_names_as_in_one() -> None:
    """Counted ids: the group makes and answers ``call_0`` itself, and another group made a ``call_0`` as well."""
    made = message("assistant", call_part("look", {"n": 7}, "call_0"))
    other = message("assistant", call_part("look", {"n": 8}, "call_0"))
    spans = [
        inference(1, [ASKED], [made]),
        inference(2, [ASKED, other, message("tool", result_part("eight", "call_0"))], [SAID]),
        inference(3, [message("tool", result_part("eight", "call_0"))], [SAID]),
    ]
    elsewhere = Group("other", True, [inference(4, [ASKED], [other])])

    def origins(*parts: list[Observed]) -> dict[int, set[int]]:
        ties = Ties()
        ties.add(elsewhere)
        for members in parts:
            ties.add(Group("g", True, members))
        return grouping.origins(ties)

    assert origins(spans) == origins(*([o] for o in spans)) == origins(*([o] for o in reversed(spans)))
    assert origins(spans[1:]) == origins(*([o] for o in spans[1:]))


def test_an_execution_named_by_a_rebuilt_run_is_in_one_conversation(tmp_path: Path) -> None:
    """A run of two tools: of one nothing is known, and it may be another thread's call; the other has arguments."""
    tool: dict[str, Any] = {"gen_ai.operation.name": "execute_tool"}
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "desk"}
    asked = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([text("user", "look for 7")]),
        "gen_ai.output.messages": json.dumps([call("x-1", "look", {"n": 7})]),
    }
    rows = request(
        span(1, 9, "chat", {**asked, "gen_ai.conversation.id": "c-1", "gen_ai.agent.name": "other"}, parent=99),
        span(1, 1, "agent", {**agent, "gen_ai.conversation.id": "c-1"}, at=1, took=9),
        span(1, 2, "look", {**tool, "gen_ai.tool.name": "look"}, at=2),
        span(1, 4, "look", {**tool, "gen_ai.tool.name": "look"}, at=2.1, took=0.1, parent=2),  # its inner telling
        span(1, 3, "find", {**tool, "gen_ai.tool.name": "find", "gen_ai.tool.call.arguments": '{"x": 1}'}, at=3),
    )
    (tmp_path / "in.json").write_text(json.dumps(rows))
    lake = Lake.create(tmp_path / "lake")
    lake.ingest([tmp_path / "in.json"])
    balance = lake.conservation()
    assert balance.holds and balance.execution.raw == 3, "\n".join(balance.lines())


def test_a_span_from_log_records_does_not_depend_on_arrival_order() -> None:
    """The records come from two scopes; the span has that of the earliest."""
    rows = [
        ("t1", "s1", 1000 + n, 0, f"gen_ai.{role}.message", json.dumps({"content": role}), "{}", scope, "{}")
        for n, (role, scope) in enumerate((("user", "client"), ("assistant", "decorator")))
    ]
    (one,), _ = read([], rows, {})
    (other,), _ = read([], rows[::-1], {})
    assert one == other and one.emitter.startswith("client")
