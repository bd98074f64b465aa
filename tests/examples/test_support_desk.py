"""The example: its quirks are real and can be overcome, success cannot be talked into, its traces are standard."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from examples.support_desk import production
from examples.support_desk.agent import run_scripted
from examples.support_desk.environment import DeskEpisode, SupportDesk
from examples.support_desk.stats import Stats, measure
from examples.support_desk.tasks import TEMPERAMENTS, Goal, Task, make_task
from examples.support_desk.tools import TIMEOUT_RATES, TOOLS
from ingest.errors import UserError
from training.environment import Observation, ToolCall


def episodes(wanted: Callable[[Task], bool], seed: int = 5) -> list[DeskEpisode]:
    """Those of two hundred episodes whose task is as wanted."""
    environment = SupportDesk()
    found = [environment.episode(start, seed) for start in environment.starts(200, seed)]
    return [episode for episode in found if wanted(episode.task)]


def episode_for(kind: str, **wanted: Any) -> tuple[DeskEpisode, Goal]:
    """An episode with one goal of this kind."""
    found = episodes(lambda t: t.kind == kind and all(getattr(t.goals[0], k) == v for k, v in wanted.items()))[0]
    return found, found.task.goals[0]


def once(episode: DeskEpisode, tool: str, **arguments: Any) -> Observation:
    return asyncio.run(episode.observe(ToolCall(tool, arguments)))


def ask(episode: DeskEpisode, tool: str, **arguments: Any) -> Observation:
    """A call, made again after a timeout as anybody should."""
    seen = once(episode, tool, **arguments)
    return once(episode, tool, **arguments) if seen.error_class == "timeout" else seen


def body(seen: Observation) -> dict[str, Any]:
    return json.loads(seen.content)


def say(episode: DeskEpisode, text: str) -> None:
    asyncio.run(episode.respond(text))


def order_twice(episode: DeskEpisode, goal: Goal) -> tuple[dict[str, Any], dict[str, Any]]:
    """What two reads of the goal's order show, one after the other."""
    reads = [body(ask(episode, "get_order", order_id=f"O-{goal.order_id}")) for _ in range(2)]
    return reads[0], reads[1]


# ----- the tools and their quirks


def test_there_are_at_least_ten_tools_and_each_is_described() -> None:
    assert len({tool["name"] for tool in TOOLS}) == len(TOOLS) >= 10
    for tool in TOOLS:
        assert tool["type"] == "function" and tool["description"]
        assert set(tool["parameters"]["required"]) <= set(tool["parameters"]["properties"])
    assert SupportDesk().starts(1, 0)[0].tools == TOOLS


def test_timeouts_occur_at_their_rate_and_a_retry_succeeds() -> None:
    timeouts = 0
    found = episodes(lambda task: True)
    for episode in found:
        order = f"O-{episode.task.orders[0].id}"
        seen = once(episode, "get_order", order_id=order)
        if seen.error_class == "timeout":
            timeouts += 1
            assert seen.is_error and seen.latency_ms > 5000
            again = once(episode, "get_order", order_id=order)
            assert not again.is_error and body(again)["order"] == order
    assert 0.5 < timeouts / len(found) / TIMEOUT_RATES["get_order"] < 2


def test_a_call_that_timed_out_has_changed_nothing() -> None:
    for episode in episodes(lambda task: task.kind == "cancel"):
        order = f"O-{episode.task.goals[0].order_id}"
        if once(episode, "cancel_order", order_id=order).error_class == "timeout":
            assert not episode.facts()["state_is_right"]
            assert body(once(episode, "cancel_order", order_id=order))["result"] == "accepted"
            assert episode.facts()["state_is_right"]
            return
    pytest.fail("no cancellation timed out")


@pytest.mark.parametrize("tool", ["find_orders", "search_products"])
def test_a_burst_of_searches_is_refused_until_a_long_enough_wait(tool: str) -> None:
    episode, _ = episode_for("track")
    search = {"find_orders": {"name": episode.task.customer}, "search_products": {"query": "Oak"}}[tool]
    for _ in range(episode.task.search_burst):
        assert not ask(episode, tool, **search).is_error
    assert ask(episode, tool, **search).error_class == "rate_limited"
    ask(episode, "wait", seconds=2)
    refused = ask(episode, tool, **search)
    assert refused.error_class == "rate_limited" and "wait 5 s" in body(refused)["message"]
    assert ask(episode, "wait", seconds=5).latency_ms > 5000
    assert not ask(episode, tool, **search).is_error


@pytest.mark.parametrize("whole", [False, True])
def test_a_refund_takes_integer_cents_only(whole: bool) -> None:
    """Dollars as a number with a fraction, as text, or as a whole number of dollars, which is a hundredth."""
    episode, goal = episode_for("refund")
    order = f"O-{goal.order_id}"
    for wrong in (goal.cents / 100, float(goal.cents), f"{goal.cents / 100:.2f}", str(goal.cents), True, None):
        refused = ask(episode, "refund_order", order_id=order, cents=wrong)
        assert (refused.error_class, body(refused)["message"]) == ("invalid_argument", "cents must be integer")
    for wrong in (0, -goal.cents, 10_000_000):
        assert ask(episode, "refund_order", order_id=order, cents=wrong).error_class == "conflict"
    assert "refunded" not in body(ask(episode, "get_order", order_id=order))
    if whole:
        assert not ask(episode, "refund_order", order_id=order, cents=goal.cents // 100).is_error
        assert not episode.facts()["state_is_right"]
    else:
        assert not ask(episode, "refund_order", order_id=order, cents=goal.cents).is_error
        assert episode.facts()["state_is_right"]


def test_a_shipped_order_is_returned_and_not_cancelled() -> None:
    episode, goal = episode_for("return", asks_to_cancel=True)
    refused = ask(episode, "cancel_order", order_id=f"O-{goal.order_id}")
    assert refused.error_class == "conflict" and "has shipped" in body(refused)["message"]
    assert not ask(episode, "open_return", number=str(goal.order_id)).is_error
    _, order = order_twice(episode, goal)
    assert (order["status"], order["return_code"]) == ("return open", goal.code)
    assert episode.facts()["state_is_right"]


def test_an_order_that_has_not_shipped_is_not_returned() -> None:
    episode, goal = episode_for("cancel")
    refused = ask(episode, "open_return", number=str(goal.order_id))
    assert refused.error_class == "conflict" and "has not shipped" in body(refused)["message"]


def test_the_first_read_after_a_write_is_stale_and_the_second_is_not() -> None:
    episode, goal = episode_for("address")
    before = body(ask(episode, "get_order", order_id=f"O-{goal.order_id}"))
    ask(episode, "change_address", order_id=f"O-{goal.order_id}", address=goal.address)
    assert order_twice(episode, goal) == (before, before | {"address": goal.address})


def test_searches_are_case_sensitive() -> None:
    episode, goal = episode_for("product")
    assert goal.product is not None
    assert body(ask(episode, "search_products", query=goal.product.line.lower()))["items"] == []
    page, more, found = 0, True, list[str]()
    while more:
        page += 1
        seen = body(ask(episode, "search_products", query=goal.product.line, page=page))
        found, more = found + seen["items"], seen["more"]
        ask(episode, "wait", seconds=5)
    assert f"{goal.product.name}: {goal.product.sku}" in found
    assert body(ask(episode, "get_product", sku=goal.product.sku))["stock"] == goal.stock


def test_customers_are_found_by_their_exact_name() -> None:
    episode, goal = episode_for("track")
    assert body(ask(episode, "find_orders", name=episode.task.customer.lower()))["orders"] == []
    listed = body(ask(episode, "find_orders", name=episode.task.customer))["orders"]
    assert all(re.fullmatch(r"[A-Z]\w+ \w+ \w+: O-\d{5}", row) for row in listed) and listed


@pytest.mark.parametrize(
    ("tool", "key"),
    [("get_order", "order_id"), ("cancel_order", "order_id"), ("track_parcel", "number"), ("open_return", "number")],
)
def test_one_tool_requires_the_prefix_that_another_refuses(tool: str, key: str) -> None:
    right, wrong, named = ("O-{}", "{}", "O- prefix") if key == "order_id" else ("{}", "O-{}", "digits only")
    episode, goal = episode_for("cancel" if tool == "cancel_order" else "return")
    refused = ask(episode, tool, **{key: wrong.format(goal.order_id)})
    assert refused.error_class == "invalid_argument" and named in body(refused)["message"]
    assert not ask(episode, tool, **{key: right.format(goal.order_id)}).is_error


def test_an_invalid_call_is_answered_with_an_error() -> None:
    episode, _ = episode_for("track")
    assert once(episode, "destroy_order", order_id="O-12345").error_class == "unknown_tool"
    for arguments in ({}, {"order_id": 12345}, {"order_id": "O-12345", "colour": "red"}, {"order_id": "O-1\ud800"}):
        assert ask(episode, "get_order", **arguments).error_class == "invalid_argument"
    assert ask(episode, "get_order", order_id="O-00000").error_class == "not_found"


# ----- success


def cancelled() -> tuple[DeskEpisode, str]:
    """An episode whose order was just cancelled, rightly, and the order's number."""
    episode, goal = episode_for("cancel")
    assert not ask(episode, "cancel_order", order_id=f"O-{goal.order_id}").is_error
    return episode, f"O-{goal.order_id}"


def test_success_needs_the_right_state_and_true_statements() -> None:
    episode, order = cancelled()
    assert not episode.success()  # nobody told the customer
    say(episode, "Let me see what I can do.")
    assert not episode.success()
    say(episode, f"Done, {order} is cancelled.")
    assert episode.success() and episode.facts()["state_is_right"]


def test_a_claim_before_the_action_fails() -> None:
    episode, goal = episode_for("cancel")
    say(episode, f"I have cancelled O-{goal.order_id}.")
    assert not episode.success() and episode.facts()["false_claims"]
    ask(episode, "cancel_order", order_id=f"O-{goal.order_id}")
    say(episode, f"I have cancelled O-{goal.order_id}.")
    assert episode.facts()["state_is_right"] and not episode.success()


def test_an_action_that_was_not_requested_fails() -> None:
    episode, order = cancelled()
    stranger = next(o for o in episode.task.orders[1:] if o.customer != episode.task.customer)
    ask(episode, "refund_order", order_id=f"O-{stranger.id}", cents=100)
    say(episode, f"Done, {order} is cancelled.")
    assert not episode.success() and not episode.facts()["state_is_right"]


def test_wrong_facts_fail() -> None:
    for city_is_right in (True, False):
        episode, goal = episode_for("track")
        city = goal.city if city_is_right else next(c for c in ("Oslo", "Lyon") if c != goal.city)
        say(episode, f"It is in {city} and arrives on {goal.day}.")
        assert episode.success() == city_is_right
    episode, goal = episode_for("return")
    ask(episode, "open_return", number=str(goal.order_id))
    say(episode, "A return is open. The code is R-0000.")
    assert not episode.success()


# ----- episodes, customers, and the agent in production


def play(split: str, seed: int, n: int = 25, skill: float | None = None) -> list[Any]:
    environment = SupportDesk(split)
    return [
        asyncio.run(run_scripted(environment.episode(start, seed), start, random.Random(start.episode_id), skill))
        for start in environment.starts(n, seed)
    ]


def test_equal_seeds_give_equal_episodes() -> None:
    first = play("evaluation", 3)
    make_task.cache_clear()
    assert play("evaluation", 3) == first
    other = play("evaluation", 4)
    assert not any(ours[1] == theirs[1] for ours, theirs in zip(first, other, strict=True))
    assert SupportDesk().starts(5, 3) == SupportDesk().starts(25, 3)[:5]


def test_production_and_evaluation_streams_are_disjoint() -> None:
    seen: dict[str, set[int]] = {}
    for split in ("production", "evaluation"):
        starts = [start for seed in range(3) for start in SupportDesk(split).starts(150, seed)]
        assert all(start.episode_id.startswith(f"{split}:") for start in starts)
        seen[split] = {order.id for start in starts for order in make_task(start.episode_id).orders}
    assert len(seen["production"]) > 2000 and len(seen["evaluation"]) > 1500
    assert not seen["production"] & seen["evaluation"]
    with pytest.raises(ValueError, match="production, evaluation"):
        SupportDesk("test")


@pytest.fixture(scope="module")
def stats() -> Stats:
    return asyncio.run(measure(400, seed=1))


def test_production_succeeds_in_about_half_of_the_conversations(stats: Stats) -> None:
    assert 0.35 < stats.success_rate < 0.65
    for kind, total in stats.conversations.items():
        assert 0 < stats.successes[kind] < total, f"{kind}: nothing to learn, or nothing to learn from"


def test_every_temperament_occurs_and_sometimes_succeeds(stats: Stats) -> None:
    assert set(stats.by_temperament) == set(TEMPERAMENTS)
    assert min(stats.by_temperament.values()) > 20
    assert all(stats.successes_by_temperament[name] for name in TEMPERAMENTS)


def test_every_quirk_occurs_in_production(stats: Stats) -> None:
    classes = Counter[str]()
    for errors in stats.errors.values():
        classes += errors
    assert min(classes[name] for name in ("timeout", "rate_limited", "invalid_argument", "conflict")) >= 5


def test_an_agent_that_chooses_well_always_succeeds() -> None:
    done = asyncio.run(measure(300, seed=2, split="evaluation", skill=1.0))
    assert done.success_rate == 1.0
    assert asyncio.run(measure(300, seed=2, split="evaluation", skill=0.0)).success_rate < 0.05


# ----- telemetry


class Collector(InMemorySpanExporter):
    """An endpoint in this process; `broken` refuses everything."""

    broken = False

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.FAILURE if self.broken else super().export(spans)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Collector:
    found = Collector()
    monkeypatch.setattr("examples.production.OTLPSpanExporter", lambda **_: found)
    monkeypatch.setattr(found, "shutdown", lambda: None)  # several runs send to it
    return found


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_production_emits_spans_of_the_genai_conventions(collector: Collector) -> None:
    done = production.run_production("http://desk", 60, seed=1)
    spans = collector.get_finished_spans()
    assert done.conversations == 60 and done.spans == len(spans)
    by_id = {span.context.span_id: span for span in spans}
    kinds = Counter(attributes(span)["gen_ai.operation.name"] for span in spans)
    assert set(kinds) == {"invoke_agent", "chat", "execute_tool"} and kinds["chat"] > kinds["invoke_agent"] >= 60
    assert len({attributes(span)["gen_ai.conversation.id"] for span in spans}) == 60
    named = {"chat": "gen_ai.request.model", "execute_tool": "gen_ai.tool.name"}
    for span in spans:
        found = attributes(span)
        operation = found["gen_ai.operation.name"]
        assert span.name == f"{operation} {found[named.get(operation, 'gen_ai.agent.name')]}"
        assert (span.parent is None) == (operation == "invoke_agent")
        if span.parent is not None:
            parent = by_id[span.parent.span_id]
            assert parent.start_time <= span.start_time <= span.end_time <= parent.end_time  # type: ignore[operator]
    chat = attributes(next(s for s in spans if s.name.startswith("chat")))
    assert json.loads(chat["gen_ai.input.messages"])[0]["role"] == "user"
    assert json.loads(chat["gen_ai.output.messages"])[0]["role"] == "assistant"
    assert [tool["name"] for tool in json.loads(chat["gen_ai.tool.definitions"])] == [t["name"] for t in TOOLS]


def test_execution_spans_have_arguments_result_and_error(collector: Collector) -> None:
    production.run_production("http://desk", 60, seed=1)
    executed = [s for s in collector.get_finished_spans() if s.name.startswith("execute_tool")]
    failed = [s for s in executed if not s.status.is_ok]
    assert 0.1 < len(failed) / len(executed) < 0.6
    for span in executed:
        found = attributes(span)
        assert isinstance(json.loads(found["gen_ai.tool.call.arguments"]), dict) and found["gen_ai.tool.call.id"]
        error = json.loads(found["gen_ai.tool.call.result"]).get("error")
        assert found.get("error.type") == error and (span in failed) == (error is not None)


def test_some_conversations_have_a_true_evaluation(collector: Collector) -> None:
    done = production.run_production("http://desk", 150, seed=1)
    events = [e for s in collector.get_finished_spans() for e in s.events if e.name == "gen_ai.evaluation.result"]
    assert 0.45 < len(events) / 150 < 0.75 and done.evaluated == len(events)
    scores: list[dict[str, Any]] = [dict(event.attributes or {}) for event in events]
    assert {s["gen_ai.evaluation.name"] for s in scores} == {"task_success"}
    for score in scores:
        assert score["gen_ai.evaluation.score.label"] == ("fail", "pass")[int(score["gen_ai.evaluation.score.value"])]
    mean = sum(s["gen_ai.evaluation.score.value"] for s in scores) / len(scores)
    assert mean == pytest.approx(done.successes / 150, abs=0.1)


def test_a_second_run_sends_the_same_spans_and_a_killed_one_continues(collector: Collector, tmp_path: Path) -> None:
    whole = production.run_production("http://desk", 130, seed=2)
    first = {(s.context.span_id, s.start_time) for s in collector.get_finished_spans()}
    collector.clear()

    def kill(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        production.run_production("http://desk", 130, 2, kill, tmp_path / "progress.json")
    assert production.run_production("http://desk", 130, 2, None, tmp_path / "progress.json") == whole
    again = [(s.context.span_id, s.start_time) for s in collector.get_finished_spans()]
    assert set(again) == first and len(again) == len(first)


def test_an_endpoint_that_refuses_spans_is_an_error(collector: Collector) -> None:
    collector.broken = True
    with pytest.raises(UserError, match="acknowledged 0 of"):
        production.run_production("http://desk", 3, seed=1)
    with pytest.raises(UserError, match="base URL"):
        production.run_production("localhost:4318", 3, seed=1)
