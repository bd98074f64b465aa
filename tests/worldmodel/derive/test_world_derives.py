"""A world answers what its rules determine, sticks to what it invented, and leaks nothing of the recording's future."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from world_samples import random_world

from ingest.records import Scenario, Transition
from worldmodel import WorldModel
from worldmodel.artifact import read_rules, save_rules
from worldmodel.card.make import ask_rules, measure, questions
from worldmodel.steps import OK, Step


def body(number: int, state: str) -> str:
    return json.dumps({"crate": f"K-{number}", "state": state, "kilos": 1 + number % 7})


def show(number: int, state: str = "stored") -> Step:
    return Step("show_crate", {"crate": f"K-{number}"}, body(number, state), OK, 20.0)


def move(number: int) -> Step:
    return Step("move_crate", {"crate": f"K-{number}"}, '{"ok":true}', OK, 40.0)


def check(number: int) -> Step:
    return Step("check_badge", {"badge": f"B{number}"}, '{"checked":true}', OK, 10.0)


def refused(number: int) -> Step:
    text = '{"error":"forbidden","message":"check the badge first"}'
    return Step("move_crate", {"crate": f"K-{number}"}, text, "forbidden", 10.0)


def corpus() -> dict[str, list[Step]]:
    found = {}
    for number in range(2000, 2060):
        steps = [show(number), *([refused(number)] * (number % 3 > 0))]
        if number % 4:
            steps += [check(number), move(number), show(number, "moved")]
        found[f"c{number}"] = steps
    return found


@pytest.fixture(scope="module")
def model() -> Iterator[WorldModel]:
    made = random_world(corpus(), 60, 700, body_tokens=120)
    yield made
    made.close()


def scenario(steps: list[Step]) -> Scenario:
    facts = tuple(
        Transition("c", k, s.tool, dict(s.arguments), s.content, s.outcome != OK, "" if s.outcome == OK else s.outcome,
                   s.latency_ms, k)
        for k, s in enumerate(steps)
    )  # fmt: skip
    return Scenario("s", "c", "", [], "move my crate", ("move my crate",), facts, 1.0, 0)


def test_verification_in_the_recording_does_not_count_for_the_episode(model: WorldModel) -> None:
    recorded = [show(500), check(500), move(500), show(500, "moved")]
    for seed in range(4):
        episode = model.world(scenario=scenario(recorded), seed=seed).episode()
        first = episode.call("show_crate", {"crate": "K-500"})
        assert (first.provenance, json.loads(first.content)["state"]) == ("derived", "stored")
        early = episode.call("move_crate", {"crate": "K-500"})
        assert (early.error_class, early.provenance) == ("forbidden", "derived")
        episode.call("check_badge", {"badge": "B500"})
        assert not episode.call("move_crate", {"crate": "K-500"}).is_error
        after = episode.call("show_crate", {"crate": "K-500"})
        assert (after.provenance, json.loads(after.content)["state"]) == ("derived", "moved")


def test_invented_records_are_kept_and_changed_by_writes(model: WorldModel) -> None:
    seen: dict[str, Any] = {}
    for seed in (1, 1, 2):
        episode = model.world(seed=seed).episode()
        first = episode.call("show_crate", {"crate": "K-7777"})
        again = episode.call("show_crate", {"crate": "K-7777"})
        assert first.provenance == "generated" and again.provenance == "derived"
        assert json.loads(again.content) == json.loads(first.content)
        assert seen.setdefault(str(seed), first.content) == first.content
        episode.call("check_badge", {"badge": "B1"})
        episode.call("move_crate", {"crate": "K-7777"})
        assert json.loads(episode.call("show_crate", {"crate": "K-7777"}).content)["state"] == "moved"


def test_forks_do_not_see_each_others_writes(model: WorldModel) -> None:
    episode = model.world(seed=3).episode()
    episode.call("show_crate", {"crate": "K-7001"})
    fork = episode.fork()
    fork.call("check_badge", {"badge": "B1"})
    fork.call("move_crate", {"crate": "K-7001"})
    assert json.loads(fork.call("show_crate", {"crate": "K-7001"}).content)["state"] == "moved"
    before = json.loads(episode.call("show_crate", {"crate": "K-7001"}).content)
    assert before == json.loads(episode.world.episode().call("show_crate", {"crate": "K-7001"}).content)


def test_unsupported_calls_end_the_episode_without_an_observation(model: WorldModel) -> None:
    for name, arguments in (("fly", {}), ("show_crate", {"box": 1}), ("show_crate", {"crate": ["x"] * 2000})):
        episode = model.world(seed=0).episode()
        seen = episode.call(name, arguments)
        assert seen.provenance in ("abstained", "generated", "derived")
        if seen.provenance == "abstained":
            assert seen.content == "" and episode.ended


def test_the_card_has_the_rules_alone_and_the_artifact_keeps_them(model: WorldModel, tmp_path: Any) -> None:
    held_out = {f"h{n}": [show(n), check(n), move(n), show(n, "moved")] for n in (600, 601, 602)}
    assert model.rules is not None
    asked = questions(held_out, corpus(), model.resolver, rules=model.rules)
    card = model.run(measure(model, asked, with_base=False))
    alone = card["overall"]["baselines"]["rules_alone"]
    assert alone["n"] == 12 and alone["derivable"]["exact_match"] == 1.0
    assert card["overall"]["read_after_write"]["exact_match"] == 1.0
    assert card["overall"]["state_changing"]["n"] >= 3
    save_rules(tmp_path, model.rules.rules, model.rules.facts)
    again = ask_rules(read_rules(tmp_path), asked)
    assert [j.answer for j in again] == [j.answer for j in ask_rules(model.rules, asked)]
