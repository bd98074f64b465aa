"""A judgement is of the conversation of the span that it stands on; it is never guessed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dialect_samples import log, logs
from ingest_samples import answer, call, chat, event, request, span, text, tool

from ingest.lake import Lake
from ingest.records import Conversation

Recover = Callable[..., list[Conversation]]


def judged(score: float, **more: Any) -> dict[str, Any]:
    """An evaluation event."""
    return event(
        "gen_ai.evaluation.result", {"gen_ai.evaluation.name": "ok", "gen_ai.evaluation.score.value": score} | more
    )


def agent(trace: int, number: int, name: str, parent: int = 0, *events: dict[str, Any], **more: Any) -> dict[str, Any]:
    values = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name, **more}
    return span(trace, number, f"invoke_agent {name}", values, took=9, parent=parent, events=list(events))


def within(parent: int, made: dict[str, Any], *events: dict[str, Any]) -> dict[str, Any]:
    return {**made, "parentSpanId": f"{parent:016x}", "events": list(events)}


def scores(found: list[Conversation]) -> dict[str, list[float | None]]:
    """The scores of each conversation, by the last thing said in it."""
    return {str(c.messages[-1]["content"]): [o["score"] for o in c.outcomes] for c in found}


def unattributed(lake: Lake) -> int:
    return lake.query("SELECT count(*) AS n FROM evaluations WHERE conversation_id IS NULL")["n"][0].as_py()


ASK, SAID, VERDICT = text("user", "Where is W1?"), text("assistant", "On its way."), text("assistant", "fine")


def test_a_judgement_of_the_agent_is_not_assigned_to_a_judge_in_its_trace(recover: Recover) -> None:
    """The judge is an agent of its own, called after the one it judges, in one trace with it."""
    found = recover(request(
        agent(1, 1, "desk", 0, judged(1.0)),
        within(1, chat(1, 2, 1, [ASK], [SAID], None)),
        agent(1, 3, "judge"), within(3, chat(1, 4, 2, [text("user", "Rate: On its way.")], [VERDICT], None)),
    ))  # fmt: skip
    assert scores(found) == {"On its way.": [1.0], "fine": []}
    assert [c.agent for c in found] == ["desk", "judge"]


def test_a_judgement_on_a_judges_call_is_assigned_to_the_named_response(recover: Recover) -> None:
    verdict, own = judged(0.5, **{"gen_ai.response.id": "r-desk"}), {"gen_ai.response.id": "r-judge"}
    found = recover(request(
        agent(1, 1, "desk"), within(1, chat(1, 2, 1, [ASK], [SAID], None, **{"gen_ai.response.id": "r-desk"})),
        agent(1, 3, "judge"),
        within(3, chat(1, 4, 2, [text("user", "Rate it.")], [VERDICT], None, **own), verdict),
    ))  # fmt: skip
    assert scores(found) == {"On its way.": [0.5], "fine": []}


def test_a_judgement_of_a_branch_is_assigned_to_the_branch(recover: Recover) -> None:
    """The user asks again from the middle: both go on from one beginning, each has its judgement."""
    begun = [ASK, SAID]
    first, second = text("user", "Cancel it."), text("user", "Keep it.")
    found = recover(request(
        chat(1, 2, 1, [ASK], [SAID], "c", **{"gen_ai.response.id": "r1"}),
        within(1, chat(1, 3, 2, [*begun, first], [text("assistant", "Cancelled.")], "c"), judged(0.0)),
        within(1, chat(1, 4, 3, [*begun, second], [text("assistant", "Kept.")], "c"), judged(1.0)),
    ))  # fmt: skip
    assert scores(found) == {"Cancelled.": [0.0], "Kept.": [1.0]}


def test_feedback_is_assigned_by_response_or_by_a_trace_with_one_conversation(recover: Recover, lake: Lake) -> None:
    told = {"gen_ai.evaluation.name": "ok", "gen_ai.evaluation.score.value": 1.0}
    records = [
        log(0, "gen_ai.evaluation.result", {}, **told, **{"gen_ai.response.id": "r2"}),
        log(0, "gen_ai.evaluation.result", {}, **told, **{"gen_ai.conversation.id": "c"}),
        log(0, "gen_ai.evaluation.result", {}, **told, **{"gen_ai.conversation.id": "nobody"}),
    ]
    for n, record in enumerate(records):
        record |= {"spanId": "", "traceId": "", "timeUnixNano": str(1_795_000_000_000_000_000 + n)}
    found = recover(
        request(
            chat(1, 2, 1, [ASK], [SAID], "c", **{"gen_ai.response.id": "r1"}),
            chat(2, 3, 2, [text("user", "Hello?")], [text("assistant", "Yes?")], "c", **{"gen_ai.response.id": "r2"}),
        ),
        logs(*records),
    )
    assert scores(found) == {"On its way.": [], "Yes?": [1.0]}
    assert unattributed(lake) == 2  # two conversations have the id "c"; nobody has the other


def test_a_trace_with_two_conversations_assigns_no_feedback(recover: Recover, lake: Lake) -> None:
    record = log(99, "gen_ai.evaluation.result", {"gen_ai.evaluation.name": "ok", "gen_ai.evaluation.score.value": 1})
    found = recover(request(
        chat(1, 2, 1, [ASK], [SAID], None), chat(1, 3, 2, [text("user", "Rate it.")], [VERDICT], None),
    ), logs(record))  # fmt: skip
    assert scores(found) == {"On its way.": [], "fine": []} and unattributed(lake) == 1


def test_a_judgement_of_a_tool_run_is_assigned_to_the_calling_conversation(recover: Recover) -> None:
    """The run stands in a trace of its own, and an agent works within it."""
    asked = call("call_9f3b2a71", "research", {"q": "W1"})
    run = within(1, tool(1, 3, 2, "call_9f3b2a71", "research", {"q": "W1"}, "it is open"), judged(1.0))
    found = recover(request(
        agent(1, 1, "desk"), within(1, chat(1, 2, 1, [ASK], [asked], None)), run,
        agent(1, 4, "sub", 3),
        within(4, chat(1, 5, 2.1, [text("user", "W1")], [text("assistant", "it is open")], None)),
        within(1, chat(1, 6, 3, [ASK, asked, answer("call_9f3b2a71", "it is open")], [SAID], None)),
    ))  # fmt: skip
    assert scores(found) == {"On its way.": [1.0], "it is open": []}


def test_a_judgement_of_a_span_between_two_agents_is_unattributed(recover: Recover, lake: Lake) -> None:
    step = span(1, 9, "step", {}, parent=1, events=[judged(1.0)])
    found = recover(request(
        agent(1, 1, "desk"), within(1, chat(1, 2, 1, [ASK], [SAID], None)), step,
        agent(1, 3, "sub", 9), within(3, chat(1, 4, 2, [text("user", "Look.")], [VERDICT], None)),
    ))  # fmt: skip
    assert scores(found) == {"On its way.": [], "fine": []} and unattributed(lake) == 1


def test_a_duplicate_judgement_is_kept_once(recover: Recover, lake: Lake) -> None:
    record = log(2, "gen_ai.evaluation.result", {"gen_ai.evaluation.name": "ok", "gen_ai.evaluation.score.value": 1})
    again = {**record, "observedTimeUnixNano": "1795000099000000000"}
    (c,) = recover(request(chat(1, 2, 1, [ASK], [SAID], None)), logs(record), logs(again))
    assert len(c.outcomes) == 1 and lake.conservation().judgement.raw == 1 and lake.conservation().holds
