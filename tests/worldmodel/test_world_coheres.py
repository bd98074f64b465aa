"""What an agent does that production never did: the world's answers to it still agree with each other."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from world_samples import random_world

from benchmarks.fidelity.coherence import measure
from ingest.records import Scenario, Transition
from training.environment import Start
from training.learning.trajectory import Trajectory
from training.policy.episodes import write_episodes
from training.policy.grpo import EPISODES
from worldmodel import WorldModel
from worldmodel.artifact import save_rules
from worldmodel.derive.engine import Engine
from worldmodel.derive.layout import Layout
from worldmodel.derive.schema import Schema
from worldmodel.derive.situation import Row
from worldmodel.derive.trees import Split, leaf_of
from worldmodel.derive.values import loose_shape, prefix, shape
from worldmodel.generate.agreement import put
from worldmodel.generate.holes import _with_known
from worldmodel.learn.columns import Table
from worldmodel.learn.guards import grow
from worldmodel.steps import OK, Step

TOWNS = ("Bari", "Ghent", "York")


def lot(number: int, rng: random.Random) -> dict[str, Any]:
    return {
        "lot": f"L-{number}", "state": rng.choice(("held", "gone")), "kilos": rng.randint(10, 99),
        "town": rng.choice(TOWNS),
    }  # fmt: skip


def show(fields: dict[str, Any]) -> Step:
    return Step("show_lot", {"lot": fields["lot"]}, json.dumps(fields), OK, 20.0)


def release(fields: dict[str, Any], state: str) -> Step:
    named = {"lot": fields["lot"]}
    if state == "held":
        return Step("release_lot", named, json.dumps({**named, "done": True}), OK, 40.0)
    text = json.dumps({"error": "conflict", "message": f"{fields['lot']} is {state}"})
    return Step("release_lot", named, text, "conflict", 10.0)


def corpus(n: int = 160) -> dict[str, list[Step]]:
    """Production releases one lot a conversation, often without having read it, and some a second time."""
    rng = random.Random(3)
    found = {}
    for number in range(3000, 3000 + n):
        one = lot(number, rng)
        steps = [show(one)] if number % 2 else []
        steps.append(release(one, one["state"]))
        if one["state"] == "held":
            after = {**one, "state": "released", "slip": f"S-{rng.randrange(1000, 9999)}"}
            steps += [release(one, "released")] * (number % 3 == 0) + [show(after)] * (1 + (number % 5 == 0))
        found[f"c{number}"] = steps
    return found


@pytest.fixture(scope="module")
def model() -> Iterator[WorldModel]:
    made = random_world(corpus(), 60, 700, body_tokens=160, name="lots")
    made.resolver = replace(made.resolver, writes=False)  # an untrained model writes the same state for every seed
    yield made
    made.close()


def body(seen: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(seen.content)
    return found


def test_one_write_says_nothing_of_another_record(model: WorldModel) -> None:
    """In production every second release is of the same lot: not having written yet tells as much as the lot."""
    held = 0
    for seed in range(12):
        episode = model.world(seed=seed).episode()
        episode.call("release_lot", {"lot": "L-9000"})
        if body(episode.call("show_lot", {"lot": "L-9001"}))["state"] == "held":
            held += 1
            assert not episode.call("release_lot", {"lot": "L-9001"}).is_error
            assert "is released" in episode.call("release_lot", {"lot": "L-9001"}).content
    assert held


def test_a_write_to_what_nobody_has_seen_is_decided_by_what_is_read_then(model: WorldModel) -> None:
    ways = set()
    for seed in range(12):
        first, second = (model.world(seed=seed).episode() for _ in range(2))
        before, decided = body(first.call("show_lot", {"lot": "L-9002"})), second.call("release_lot", {"lot": "L-9002"})
        assert decided.is_error == (before["state"] != "held")
        after = body(second.call("show_lot", {"lot": "L-9002"}))
        assert after["state"] == ("released" if before["state"] == "held" else before["state"])
        assert {k: after[k] for k in ("kilos", "town")} == {k: before[k] for k in ("kilos", "town")}
        ways.add(decided.is_error)
    assert ways == {False, True}


def test_a_code_that_is_issued_stays(model: WorldModel) -> None:
    for seed in range(8):
        episode = model.world(seed=seed).episode()
        if not episode.call("release_lot", {"lot": "L-9003"}).is_error:
            first, again = (episode.call("show_lot", {"lot": "L-9003"}) for _ in range(2))
            assert body(first)["slip"].startswith("S-") and again.content == first.content
            assert again.provenance == "derived"
            return
    raise AssertionError("no lot was held")


def test_episodes_of_one_world_agree_whatever_each_knew_first(model: WorldModel) -> None:
    for seed in range(6):
        world = model.world(seed=seed)
        seen = []
        for order in (("show_lot", "release_lot", "show_lot"), ("release_lot", "show_lot", "release_lot", "show_lot")):
            episode = world.episode()
            answers = [episode.call(tool, {"lot": "L-9004"}) for tool in order]
            seen.append(answers[-1].content)
        assert seen[0] == seen[1]


def test_an_invented_record_is_one_that_production_answered_so(model: WorldModel) -> None:
    """The recording never read the lot, but was told that it is gone, or that it was released."""
    fields = {"lot": "L-9005"}
    for state in ("gone", "held"):
        step = release(fields, state)
        fact = Transition("c", 0, step.tool, dict(step.arguments), step.content, state != "held",
                          "conflict" if state != "held" else "", 10.0, 0)  # fmt: skip
        scenario = Scenario("s", "c", "", [], "L-9005 please", ("L-9005 please",), (fact,), 1.0, 0)
        for seed in range(6):
            seen = body(model.world(scenario, seed=seed).episode().call("show_lot", {"lot": "L-9005"}))
            assert seen["state"] == state, seed


def fact(step: Step) -> Transition:
    wrong = step.outcome != OK
    return Transition("c", 0, step.tool, dict(step.arguments), step.content, wrong, step.outcome * wrong, 10.0, 0)


def test_a_replayed_write_changes_what_a_read_would_have_shown(model: WorldModel) -> None:
    """The recording released a lot that it never read."""
    steps = (release({"lot": "L-9007"}, "held"),)
    scenario = Scenario("s", "c", "", [], "L-9007", ("L-9007",), tuple(map(fact, steps)), 1.0, 0)
    for seed in range(4):
        first, second = (model.world(scenario, seed=seed).episode() for _ in range(2))
        before = body(first.call("show_lot", {"lot": "L-9007"}))
        assert not second.call("release_lot", {"lot": "L-9007"}).is_error
        after = body(second.call("show_lot", {"lot": "L-9007"}))
        assert before["state"] == "held" and after["state"] == "released" and after["kilos"] == before["kilos"]


def test_what_the_recording_was_told_after_a_write_says_nothing_of_the_start(model: WorldModel) -> None:
    """Another lot was gone only after the first had been released: at the start it may be held."""
    steps = (release({"lot": "L-9008"}, "held"), release({"lot": "L-9009"}, "gone"))
    scenario = Scenario("s", "c", "", [], "L-9008", ("L-9008 L-9009",), tuple(map(fact, steps)), 1.0, 0)
    states = {
        body(model.world(scenario, seed=seed).episode().call("show_lot", {"lot": "L-9009"}))["state"]
        for seed in range(12)
    }
    assert states == {"held", "gone"}


def test_invention_keeps_what_is_known_and_what_a_write_has_changed(model: WorldModel) -> None:
    assert model.rules is not None
    key, shared = ("L-1",), Engine(model.rules.rules, {("show_lot", ("L-1",)): {"town": "Rome"}})
    session = shared.session()
    session.store.set("show_lot", key, "kilos", 5, "seen")
    session.store.set("show_lot", key, "slip", "S-1", "seen")
    session.store.forget("show_lot", key, "slip")
    assert session.store.lacks("show_lot", key, "state") and not session.fork().store.lacks("show_lot", key, "slip")
    put(session, "show_lot", key, {"town": "York", "kilos": 9, "slip": "S-2", "state": "held"})
    assert session.store.fields("show_lot", key) == {"town": "Rome", "kilos": 5, "state": "held"}


def test_a_text_that_only_begins_like_an_object_stays_as_it_is() -> None:
    layout = Layout(Schema())
    assert _with_known(layout, "get", '{"a": 1, "b', {"a": 2}) == '{"a": 1, "b'
    assert json.loads(_with_known(layout, "get", '{"a": 1, "b": 3}', {"a": 2})) == {"a": 2, "b": 3}


def test_a_record_is_invented_as_one_that_fits(model: WorldModel) -> None:
    assert model.rules is not None
    for seed in range(4):
        world = model.world(seed=seed)
        assert world.holes is not None
        inventor, key = world.holes.inventor, ("L-9006",)
        type_ = next(site.type for site in model.rules.rules.schema.sites if site.tool == "show_lot")
        model.run(inventor.settle(type_, key, lambda record: record.get("town") == "Ghent", random.Random(seed)))
        seen = body(world.episode().call("show_lot", {"lot": "L-9006"}))
        assert seen["town"] == "Ghent" and seen["lot"] == "L-9006"


def test_the_benchmark_counts_answers_that_disagree(model: WorldModel, tmp_path: Path) -> None:
    def played(*bodies: dict[str, Any]) -> Trajectory:
        messages: list[dict[str, Any]] = []
        for k, shown in enumerate(bodies):
            call = {"id": f"call_{k}", "name": "show_lot", "arguments": {"lot": "L-1"}}
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            messages.append({"role": "tool", "content": json.dumps(shown), "tool_call_id": f"call_{k}"})
        return Trajectory(Start("s", "", (), ""), 0, messages)

    assert model.rules is not None
    held, other = {"kilos": 5, "state": "held"}, {"kilos": 6, "state": "released"}
    save_rules(tmp_path / "world", model.rules.rules, {})
    write_episodes(tmp_path / "candidate" / EPISODES, 1, [[played(held), played(other)], [played(held, other)]])
    found = measure(tmp_path)
    assert found["members"] == {"fields": 1, "differ": 1, "share": 1.0}, "a write changes states, and nothing kilos"
    assert found["again"] == {"fields": 1, "differ": 1, "share": 1.0}


# ----- guards


def ids(rng: random.Random, count: int) -> list[Row]:
    texts = [f"{'L-' if k % 3 else ''}{rng.randrange(10_000, 99_999)}" for k in range(count)]
    return [
        {"arg/id": t, "shape(arg/id)": shape(t), "form(arg/id)": loose_shape(t), "prefix(arg/id)": prefix(t)}
        for t in texts
    ]


def test_a_prefix_is_asked_for_as_a_prefix() -> None:
    rows = ids(random.Random(1), 90)
    tree = grow(Table(rows), ["ok" if row["arg/id"].startswith("L-") else "refused" for row in rows])
    short = ids(random.Random(2), 3)[1]
    text = short["arg/id"][:-2]
    row = {"arg/id": text, "shape(arg/id)": shape(text), "form(arg/id)": loose_shape(text),
           "prefix(arg/id)": prefix(text)}  # fmt: skip
    assert leaf_of(tree, row)[0].best()[0] == "ok"


def test_what_all_calls_count_is_asked_for_only_where_nothing_else_tells() -> None:
    """`n/written` and the state of the record tell the labels equally well; where only the count does, it is used."""
    rng = random.Random(4)
    rows: list[Row] = []
    for _ in range(120):
        written = rng.randrange(2)
        state = rng.choice(("a", "b")) if not written else rng.choice(("c", "d"))
        rows.append({"n/written": written, "rec/it/state": state})
    labels = ["no" if row["n/written"] else "ok" for row in rows]
    tree = grow(Table(rows), labels)
    assert isinstance(tree, Split) and tree.test.left == "rec/it/state"
    alone = grow(Table([{"n/written": row["n/written"], "rec/it/state": "a"} for row in rows]), labels)
    assert isinstance(alone, Split) and alone.test.left == "n/written"
