"""The second example: seeds determine it, its agent can improve, its tools refuse junk, its traces are standard."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from examples.energy_service import production
from examples.energy_service.environment import EnergyService, ServiceEpisode
from examples.energy_service.stats import Played, measure
from examples.energy_service.tasks import CASES, TEMPERAMENTS, make_task
from examples.energy_service.tools import TOOLS
from training.environment import Observation, ToolCall


def episode_for(kind: str, case: str = "fine") -> ServiceEpisode:
    """An episode with a task of this kind and case."""
    environment = EnergyService()
    start = next(s for s in environment.starts(300, 5) if (s.tags["kind"], s.tags["case"]) == (kind, case))
    return environment.episode(start, 5)


def ask(episode: ServiceEpisode, tool: str, **arguments: Any) -> Observation:
    """A call, repeated once after a timeout."""
    call = ToolCall(tool, arguments)
    seen = asyncio.run(episode.observe(call))
    return asyncio.run(episode.observe(call)) if seen.error_class == "upstream_timeout" else seen


@pytest.fixture(scope="module")
def played() -> list[Played]:
    """Conversations of the production agent."""
    return asyncio.run(measure(250, seed=1))


# ----- starts and tasks


def test_equal_seeds_give_equal_episodes() -> None:
    first = asyncio.run(measure(15, seed=3, split="evaluation"))
    make_task.cache_clear()
    assert asyncio.run(measure(15, seed=3, split="evaluation")) == first
    other = asyncio.run(measure(15, seed=4, split="evaluation"))
    assert not any(ours.messages == theirs.messages for ours, theirs in zip(first, other, strict=True))
    assert EnergyService().starts(5, 3) == EnergyService().starts(15, 3)[:5]


def test_production_and_evaluation_streams_are_disjoint() -> None:
    seen: dict[str, set[str]] = {}
    for split in ("production", "evaluation"):
        starts = [start for seed in range(2) for start in EnergyService(split).starts(100, seed)]
        assert all(start.episode_id.startswith(f"{split}:") for start in starts)
        seen[split] = {c.contract_no for start in starts for c in make_task(start.episode_id).rows.contracts}
    assert min(len(numbers) for numbers in seen.values()) > 500
    assert not seen["production"] & seen["evaluation"]
    with pytest.raises(ValueError, match="production, evaluation"):
        EnergyService("test")


# ----- the agent


def test_production_succeeds_in_about_half_of_the_conversations(played: list[Played]) -> None:
    assert 0.4 < sum(p.success for p in played) / len(played) < 0.65
    totals = Counter(p.facts["kind"] for p in played)
    successes = Counter(p.facts["kind"] for p in played if p.success)
    assert set(totals) == set(CASES) and {p.facts["temperament"] for p in played} == set(TEMPERAMENTS)
    for kind, total in totals.items():
        assert 0 < successes[kind] < total, f"{kind}: nothing to learn, or nothing to learn from"


def test_every_quirk_occurs_in_production(played: list[Played]) -> None:
    classes = Counter(m["error_class"] for p in played for m in p.results if m["is_error"])
    quirks = ("upstream_timeout", "not_verified", "bad_meter_no", "bad_contract_no", "implausible", "out_of_range")
    assert all(classes[name] >= 3 for name in quirks), classes


def test_an_agent_without_faults_almost_always_succeeds() -> None:
    done = asyncio.run(measure(60, seed=2, split="evaluation", faults=False))
    assert sum(p.success for p in done) / len(done) >= 0.9


# ----- tools and verdict


@pytest.mark.parametrize("tool", [tool["name"] for tool in TOOLS])
def test_junk_arguments_are_answered_with_an_error(tool: str) -> None:
    parameters = next(t["parameters"] for t in TOOLS if t["name"] == tool)
    junk: tuple[Any, ...] = (None, True, -1, 10**30, 1.5, "", "C-1\ud800", "'; DROP TABLE contracts", [], {"a": 1})
    episode, rng = episode_for("reading"), random.Random(tool)
    for _ in range(40):
        arguments = {name: rng.choice(junk) for name in parameters["required"]}
        seen = ask(episode, tool, **arguments)
        if not seen.is_error:  # a search may take any text
            assert tool == "find_contracts" and json.loads(seen.content)["total"] == 0
    for wrong in ({}, {**arguments, "colour": "red"}):
        assert ask(episode, tool, **wrong).error_class == "bad_request"
    broken: Any = ["no", "object"]
    calls = [ToolCall(tool, broken), ToolCall(f"{tool}\ud800", {})]
    assert all(asyncio.run(episode.observe(call)).is_error for call in calls * 2)
    assert not episode.facts()["state_is_right"]  # the reading has not been submitted


def test_success_needs_the_change_and_the_fact() -> None:
    episode = episode_for("instalment")
    task = episode.task
    contract = next(c for c in task.rows.contracts if c.contract_no.endswith(task.words["c"]))
    change = {"contract_no": contract.contract_no, "eur": task.words["eur"]}
    assert ask(episode, "set_instalment", **change).error_class == "not_verified"
    ask(episode, "verify_holder", contract_no=contract.contract_no, iban_last4=contract.iban4)
    assert json.loads(ask(episode, "set_instalment", **change).content)["state"] == "queued"
    reads = [json.loads(ask(episode, "get_contract", contract_no=contract.contract_no).content) for _ in range(2)]
    assert [read["instalment_eur"] for read in reads] == [contract.eur, task.words["eur"]]
    assert episode.facts()["state_is_right"] and not episode.success()  # nobody told the customer
    asyncio.run(episode.respond(f"Your instalment has been changed and applies from {reads[1]['instalment_from']}."))
    assert episode.success()


# ----- telemetry


def test_production_emits_spans_with_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = InMemorySpanExporter()
    monkeypatch.setattr("examples.production.OTLPSpanExporter", lambda **_: collector)
    monkeypatch.setattr(collector, "shutdown", lambda: None)
    done = production.run_production("http://service", 60, seed=1)
    spans = collector.get_finished_spans()
    assert done.conversations == 60 and done.spans == len(spans)
    found = [dict(span.attributes or {}) for span in spans]
    kinds = Counter(attributes["gen_ai.operation.name"] for attributes in found)
    assert set(kinds) == {"invoke_agent", "chat", "execute_tool"} and kinds["chat"] > kinds["invoke_agent"] >= 60
    assert {a["gen_ai.agent.name"] for a in found} == {"wattline-service"}
    assert {span.resource.attributes["service.name"] for span in spans} == {"wattline-service"}
    executed = [a for a in found if a["gen_ai.operation.name"] == "execute_tool"]
    assert {a["gen_ai.tool.name"] for a in executed} == {tool["name"] for tool in TOOLS}
    for attributes in executed:
        code = json.loads(attributes["gen_ai.tool.call.result"]).get("fault", {}).get("code")  # type: ignore[arg-type]
        assert attributes.get("error.type") == (code and code.lower())
    events = [event for span in spans for event in span.events if event.name == "gen_ai.evaluation.result"]
    scores = [dict(event.attributes or {})["gen_ai.evaluation.score.value"] for event in events]
    assert done.evaluated == len(scores) and 0.4 < len(scores) / 60 < 0.8 and set(scores) == {0.0, 1.0}
