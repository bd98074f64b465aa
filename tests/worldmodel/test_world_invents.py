"""What nobody recorded: invented once, the same for whoever asks, nobody's own; misspelt and missing ids never pay."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world_samples import random_world

from ingest.errors import UserError
from ingest.records import Scenario, Transition
from training.environment import ToolCall
from worldmodel import WorldModel
from worldmodel.card.ask import questions
from worldmodel.card.drift import drift
from worldmodel.card.episodes import episode_measures, replay_episodes
from worldmodel.card.health import reliability, scarce
from worldmodel.card.holes import ask_holes
from worldmodel.card.make import measure
from worldmodel.control import Control, difference, measure_implicit
from worldmodel.derive.engine import Engine
from worldmodel.derive.values import ABSENT
from worldmodel.fit import model_is_better
from worldmodel.generate.context import Frame, Framed
from worldmodel.generate.pins import PinFile
from worldmodel.generate.shapes import Shapes, learn_shapes
from worldmodel.generate.values import learn_values, typed
from worldmodel.learn.induce import induce
from worldmodel.steps import OK, Step
from worldmodel.support import calibrated, fit_support

STATES = ("stored", "moved", "sold")


def crate(number: int, rng: random.Random) -> dict[str, Any]:
    town = rng.choice(("Bari", "Ghent", "York"))
    owner = "".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(4)).capitalize()
    state, kilos = rng.choice(STATES), rng.randint(1, 9)
    return {"crate": f"K-{number}", "state": state, "kilos": kilos, "town": town, "owner": owner}


def show(fields: dict[str, Any]) -> Step:
    return Step("show_crate", {"crate": fields["crate"]}, json.dumps(fields), OK, 20.0)


def listing(town: str, found: list[dict[str, Any]]) -> Step:
    rows = [{"crate": f["crate"], "state": f["state"], "kilos": f["kilos"]} for f in found]
    note = {"note": "cold store"} if town == "York" else {}  # what rules know to be absent stands beside a hole
    return Step("list_crates", {"town": town}, json.dumps({"town": town, "crates": rows, **note}), OK, 20.0)


def sell(fields: dict[str, Any]) -> Step:
    return Step("sell_crate", {"crate": fields["crate"]}, '{"ok":true}', OK, 40.0)


def missing(tool: str, number: int) -> Step:
    text = json.dumps({"error": "not_found", "message": f"no crate K-{number}"})
    return Step(tool, {"crate": f"K-{number}"}, text, "not_found", 10.0)


def corpus(n: int = 90) -> dict[str, list[Step]]:
    rng = random.Random(5)
    found = {}
    for number in range(3000, 3000 + n):
        one, other = crate(number, rng), crate(number + 4000, rng)
        other["town"] = one["town"]
        steps = [show(one)]
        if number % 3:
            steps.insert(0, listing(one["town"], [one, other]))
        if number % 2:
            steps += [sell(one), show({**one, "state": "sold"})]
        if number % 4 == 0:
            steps += [missing("show_crate", number + 50_000), missing("sell_crate", number + 50_000)]
        if number % 5 == 0:
            late = '{"error":"timeout","message":"too slow"}'
            steps.insert(0, Step("show_crate", {"crate": one["crate"]}, late, "timeout", 5e3))
        found[f"c{number}"] = steps
    return found


@pytest.fixture(scope="module")
def model() -> Iterator[WorldModel]:
    made = random_world(corpus(), 60, 700, body_tokens=160, name="test")
    yield made
    made.close()


def scenario(steps: list[Step], said: str) -> Scenario:
    facts = tuple(
        Transition("c", k, s.tool, dict(s.arguments), s.content, s.outcome != OK, "" if s.outcome == OK else s.outcome,
                   s.latency_ms, k)
        for k, s in enumerate(steps)
    )  # fmt: skip
    return Scenario("s", "c", "", [], said, (said,), facts, 1.0, 0)


def ask(model: WorldModel, seed: int, number: int, **world: Any) -> Any:
    """Show a crate, again where the answer was an accident."""
    episode = model.world(seed=seed, **world).episode()
    return settle(episode, "show_crate", {"crate": f"K-{number}"})


def settle(episode: Any, tool: str, arguments: dict[str, Any]) -> Any:
    for _ in range(30):
        seen = episode.call(tool, arguments)
        if seen.error_class != "timeout":
            return seen
    raise AssertionError("only timeouts")


# ----- invention


def test_an_unseen_record_is_invented_once_and_completely(model: WorldModel) -> None:
    bodies = set()
    for seed in range(4):
        first, again = ask(model, seed, 9123), ask(model, seed, 9123)
        assert first.content == again.content, "equal seeds give equal bytes"
        body = json.loads(first.content)
        assert set(body) == {"crate", "state", "kilos", "town", "owner"} and body["crate"] == "K-9123"
        assert body["state"] in STATES and 1 <= body["kilos"] <= 9 and body["town"] in ("Bari", "Ghent", "York")
        bodies.add(first.content)
    assert len(bodies) > 1, "seeds differ"


def test_no_more_records_are_drawn_than_needed(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    draw = Shapes.record

    def counted(self: Shapes, *given: Any) -> dict[str, Any]:
        drawn.append(draw(self, *given))
        return drawn[-1]

    monkeypatch.setattr(Shapes, "record", counted)
    settle(model.world(seed=3).episode(), "show_crate", {"crate": "K-9124"})
    assert len(drawn) == 1
    settle(model.world(seed=3).episode(), "show_crate", {"crate": "K-9125"})
    assert len(drawn) == 2


def test_a_hole_is_filled_without_the_conversation_that_the_world_is_made_of(model: WorldModel) -> None:
    """Nor with another one that names its entities; a stranger's world is shown it."""
    framed: list[Framed] = []

    class Watched(Frame):
        def frame(self, *args: Any) -> Framed:
            framed.append(super().frame(*args))
            return framed[-1]

    plain = model.resolver.frame
    frame = Watched(plain.effects, plain.classes, plain.patched)
    watched = replace(model, resolver=replace(model.resolver, frame=frame))
    own = corpus()["c3089"]
    town, shown = own[0].arguments["town"], own[0].content
    for conversation_id, facts, told in (("elsewhere", [], True), ("c3089", [], False), ("new", [own[-2]], False)):
        there = replace(scenario(facts, f"what is in {town}?"), conversation_id=conversation_id)
        framed.clear()
        settle(watched.world(scenario=there, seed=0).episode(), "list_crates", {"town": town})
        sources = [source for one in framed if one.prompt.tool == "list_crates" for source in one.sources]
        assert sources and (shown in sources) == told, conversation_id


def test_a_list_and_its_detail_read_agree(model: WorldModel) -> None:
    for seed in range(5):
        for listed_first in (True, False):
            episode = model.world(seed=seed).episode()
            listed = json.loads(settle(episode, "list_crates", {"town": "Lund"}).content)["crates"]
            if not listed_first:  # the detail is asked in an episode that has not listed
                episode = model.world(seed=seed).episode()
            for row in listed[:2]:
                detail = json.loads(settle(episode, "show_crate", {"crate": row["crate"]}).content)
                assert {name: detail[name] for name in row} == row


def test_a_field_that_rules_know_to_be_absent_may_stand_beside_a_hole(model: WorldModel) -> None:
    world = model.world(seed=0)
    session = world.episode().session
    assert session is not None and world.holes is not None
    decided = session.derive("list_crates", {"town": "Lund"})
    assert decided is not None and decided.content is None
    decided = replace(decided, known={"town": "Lund", "note": ABSENT})
    body = json.loads(model.run(world.holes._write(session, "list_crates", {"town": "Lund"}, decided, "q")))
    assert body["town"] == "Lund" and "note" not in body


def test_generated_answers_repeat_no_trained_conversation(model: WorldModel) -> None:
    owners = {json.loads(s.content)["owner"] for steps in corpus().values() for s in steps
              if s.tool == "show_crate" and s.outcome == OK}  # fmt: skip
    drawn = replace(model, resolver=replace(model.resolver, writes=False))
    for one in (model, drawn):
        found = [json.loads(ask(one, 1, number).content) for number in range(9200, 9212)]
        told = [body["owner"] for body in found if "owner" in body]
        assert len(told) > 3 and not owners & set(told)


def test_types_of_values_are_checked_all_the_way_down() -> None:
    values = learn_values([("a", {"n": 1, "tags": ["x"]}), ("b", {"n": 2, "tags": []})])
    assert typed(values, {"n": 7, "tags": ["y"]})
    assert not typed(values, {"n": "7", "tags": []}) and not typed(values, {"n": 7, "tags": [7]})
    assert not typed(values, {"n": 7, "other": 1})


# ----- ids that do not exist


def test_a_misspelt_id_never_succeeds(model: WorldModel) -> None:
    """The goal's crate is sold by the right id; by a misspelt one nothing is, in the same world."""
    one = crate(700, random.Random(1)) | {"state": "stored"}
    task = scenario([show(one), sell(one), show({**one, "state": "sold"})], "sell my crate K-700")
    for seed in range(6):
        rewards = {}
        for spelt in ("K-700", "K-7OO", "k-700", "K-770", "K-7000", "K-88123"):
            episode = model.world(scenario=task, seed=seed).episode()
            settle(episode, "sell_crate", {"crate": spelt})
            after = json.loads(settle(model_episode(episode), "show_crate", {"crate": "K-700"}).content or "{}")
            errors = sum(s.outcome not in (OK, "timeout") for s in episode.steps) + bool(episode.ended)
            rewards[spelt] = (after.get("state") == "sold") - 0.5 * errors
        right = rewards.pop("K-700")
        assert right == 1 and all(other < right for other in rewards.values()), rewards


def model_episode(episode: Any) -> Any:
    """A fork that may still be asked, whatever ended the episode."""
    copy = episode.fork()
    copy.ended = None
    return copy


def test_a_write_never_succeeds_on_what_was_declared_missing(model: WorldModel) -> None:
    assert model.shapes.missing == {"show_crate": ["not_found"]}
    refused = 0
    for seed in range(12):
        episode = model.world(seed=seed).episode()
        for number in range(9500, 9506):
            if settle(episode, "show_crate", {"crate": f"K-{number}"}).error_class == "not_found":
                refused += 1
                sold = settle(episode, "sell_crate", {"crate": f"K-{number}"})
                assert sold.error_class == "not_found" and f"K-{number}" in sold.content
    assert refused, "some are missing, at the rate that production shows"


def test_an_id_that_nobody_mentioned_is_refused_and_one_that_was_said_is_not(model: WorldModel) -> None:
    said = [{"role": "user", "content": "show me K-9777"}]
    assert ask(model, 0, 9888, messages=said).error_class == "not_found"
    told = [ask(model, seed, 9777, messages=said).is_error for seed in range(8)]
    assert told.count(False) > 4


def test_abstention_is_no_observation(model: WorldModel) -> None:
    episode = model.world(seed=0).episode()
    seen = episode.call("sell_crate", {})
    assert (seen.content, seen.provenance) == ("", "abstained") and "'crate'" in seen.reason == episode.ended
    assert not episode.steps


def test_a_tool_that_does_not_exist_is_an_error_that_the_agent_reads(model: WorldModel) -> None:
    episode = model.world(seed=0).episode()
    seen = episode.call("burn_crate", {"crate": "K-1"})
    assert (seen.error_class, seen.provenance, seen.support) == ("unknown_tool", "derived", 1.0)
    assert "burn_crate" in seen.content and not episode.ended
    assert episode.call("show_crate", {"crate": "K-9888"}).provenance != "abstained", "the episode goes on"


# ----- pins


def test_pins_survive_a_restart_and_are_shared_by_processes(model: WorldModel, tmp_path: Path) -> None:
    first = replace(model, pins=PinFile(tmp_path / "pins.db"))
    said = ask(first, 3, 9123).content
    other = replace(model, pins=PinFile(tmp_path / "pins.db"), resolver=replace(model.resolver, writes=False))
    assert ask(other, 3, 9123).content == said, "what was settled is not asked again, whoever asks"
    assert ask(replace(model, resolver=other.resolver), 3, 9123).content != said


def test_questions_asked_at_once_are_settled_once(model: WorldModel) -> None:
    world = model.world(seed=8)
    made = []

    async def make() -> int:
        made.append(1)
        await asyncio.sleep(0)
        return len(made)

    async def both() -> list[int]:
        return list(await asyncio.gather(*(world.pins.settle("q", make) for _ in range(5))))

    assert asyncio.run(both()) == [1] * 5


def test_parallel_calls_are_answered_in_their_order(model: WorldModel) -> None:
    one = crate(700, random.Random(1)) | {"state": "stored"}
    task = scenario([show(one), sell(one)], "sell K-700")
    calls = [ToolCall(tool, {"crate": "K-700"}) for tool in ("show_crate", "sell_crate", "show_crate")]

    async def at_once(seed: int) -> list[str]:
        episode = model.world(scenario=task, seed=seed).episode()
        seen = await asyncio.gather(*(episode.observe(call) for call in calls))
        return [s.content for s in seen]

    told = [model.run(at_once(seed)) for seed in range(16)]
    whole = [said for said in told if not any("timeout" in text for text in said)]  # errors that pass by themselves
    assert len(whole) >= 3
    for said in whole:
        assert '"sold"' not in said[0] and said[-1].count('"sold"') == 1


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 3), numbers=st.permutations([9123, 9124, 9125]))
def test_episodes_of_a_world_do_not_see_each_other(model: WorldModel, seed: int, numbers: list[int]) -> None:
    world = model.world(seed=seed)
    first, second = world.episode(), world.episode()
    before = [settle(first, "show_crate", {"crate": f"K-{n}"}).content for n in sorted(numbers)]
    for n in numbers:
        settle(second, "sell_crate", {"crate": f"K-{n}"})
        settle(second, "show_crate", {"crate": f"K-{n}"})
    assert [settle(first, "show_crate", {"crate": f"K-{n}"}).content for n in sorted(numbers)] == before


# ----- control


def test_the_next_write_fails_as_scheduled(model: WorldModel) -> None:
    one = crate(700, random.Random(1)) | {"state": "stored"}
    task = scenario([show(one), sell(one)], "sell K-700")
    control = Control.parse("the next write fails with 404; no faults")
    episode = model.world(scenario=task, seed=0, control=control).episode()
    assert not episode.call("show_crate", {"crate": "K-700"}).is_error
    failed = episode.call("sell_crate", {"crate": "K-700"})
    assert failed.error_class == "not_found" and "K-700" in failed.content, "in production's own words"
    assert not episode.call("sell_crate", {"crate": "K-700"}).is_error, "only the next one"
    conflict = model.world(scenario=task, seed=0, control=Control.parse("the next call fails with 409")).episode()
    assert conflict.call("show_crate", {"crate": "K-700"}).error_class == "conflict"


def test_fault_rates_are_those_of_the_control(model: WorldModel) -> None:
    one = crate(700, random.Random(1))
    task = scenario([show(one)], "show K-700")

    def rate(text: str) -> float:
        control = Control.parse(text)
        late = 0
        for seed in range(150):
            episode = model.world(scenario=task, seed=seed, control=control).episode()
            late += episode.call("show_crate", {"crate": "K-700"}).error_class == "timeout"
        return late / 150

    once, thrice = rate("faults times 1"), rate("faults times 3")
    assert rate("no faults") == 0 and 0 < once and 1.8 * once < thrice < 4.5 * once


def test_implicit_faults_do_not_change_the_store(model: WorldModel) -> None:
    one = crate(700, random.Random(1)) | {"state": "stored"}
    task = scenario([listing(one["town"], [one, crate(701, random.Random(2))]), show(one), sell(one)], "sell K-700")
    shown = {}
    for text in ("100% truncated lists", "100% missing fields", "100% null fields"):
        episode = model.world(scenario=task, seed=0, control=Control.parse(f"{text}; no faults")).episode()
        tool, asked = ("list_crates", {"town": one["town"]}) if "lists" in text else ("show_crate", {"crate": "K-700"})
        shown[text] = json.loads(episode.call(tool, asked).content)
        true = json.loads(episode.steps[-1].content)
        assert shown[text] != true
    assert len(shown["100% truncated lists"]["crates"]) == 1
    assert len(shown["100% missing fields"]) == 4 and None in shown["100% null fields"].values()
    stale = model.world(scenario=task, seed=0, control=Control.parse("100% stale answers; no faults")).episode()
    calls = [stale.call(tool, {"crate": "K-700"}) for tool in ("show_crate", "sell_crate", "show_crate")]
    assert json.loads(calls[2].content)["state"] == "stored" and json.loads(stale.steps[-1].content)["state"] == "sold"
    with pytest.raises(UserError, match="understands"):
        Control.parse("make it rain")


def test_implicit_faults_are_measured_on_repeated_reads() -> None:
    full, short = '{"rows":[1,2,3]}', '{"rows":[1]}'
    assert difference(full, short) == "truncated" and difference(full, full) == ""
    assert difference('{"a":1,"b":2}', '{"a":1}') == "missing" and difference('{"a":1}', '{"a":null}') == "null"
    assert difference('{"a":1}', '{"a":2}') == ""
    read = [Step("rows", {"of": "x"}, text) for text in (full, full, short, full)]
    rates = measure_implicit({str(k): read for k in range(10)}, frozenset())
    assert rates == {"rows": {"truncated": pytest.approx(1 / 3)}}


# ----- bad input


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tool=st.sampled_from(["show_crate", "sell_crate", "list_crates", "burn_crate", ""]),
    arguments=st.dictionaries(
        st.sampled_from(["crate", "town", "box", ""]),
        st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20),
            st.just("x" * 10_000), st.binary(max_size=8).map(repr), st.lists(st.text(max_size=3), max_size=3),
            st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        ),
        max_size=3,
    ),
)  # fmt: skip
def test_no_call_crashes_a_world(model: WorldModel, tool: str, arguments: dict[str, Any]) -> None:
    episode = model.world(seed=1).episode()
    seen = episode.call(tool, arguments)
    assert seen.provenance in ("derived", "replayed", "generated", "abstained")
    assert (seen.provenance == "abstained") == bool(episode.ended) == (seen.content == "")


def test_text_answers_long_ones_and_a_schema_that_changes_are_learned_from() -> None:
    text = {f"t{k}": [Step("say", {"to": f"N{k}77"}, f"Hello N{k}77, your code is {k}{k + 3}9")] for k in range(30)}
    blobs = [json.dumps({"id": f"D-{k}00", "blob": chr(65 + k % 20) * 10_000}) for k in range(30)]
    wide = {f"w{k}": [Step("dump", {"id": f"D-{k}00"}, blob)] for k, blob in enumerate(blobs)}
    old = {f"o{k}": [Step("get", {"id": f"G-{k}00"}, json.dumps({"id": f"G-{k}00", "size": k}))] for k in range(30)}
    new = {f"n{k}": [Step("get", {"id": f"H-{k}00"}, json.dumps({"id": f"H-{k}00", "size": str(k), "unit": "kg"}))]
           for k in range(30)}  # fmt: skip
    found = {**text, **wide, **old, **new, "b": [Step("get", {"id": "\x00\udcff"}, "\x00\x01binary", "broken")]}
    shapes = learn_shapes(Engine(*induce(found)), found)
    rng = random.Random(1)
    for tool in ("say", "dump", "get"):
        assert shapes.fresh(shapes.bodies[tool][OK], rng) is not None
    said = drift(old, new)
    assert any("'unit' is new" in line for line in said) and any("'size' is now also text" in line for line in said)


# ----- the card's other parts


def test_the_card_replays_whole_episodes_and_compares_ways_to_fill_holes(model: WorldModel) -> None:
    rng = random.Random(9)
    held_out = {}
    for number in range(9600, 9612):
        one = crate(number, rng) | {"state": "stored"}
        held_out[f"h{number}"] = [show(one), sell(one), show({**one, "state": "sold"})]
    replayed = model.run(replay_episodes(model, held_out))
    measures = episode_measures(replayed, frozenset({("show_crate", "timeout")}))
    assert measures["episodes"] == 12 and measures["n"] + measures["ended_early"]["calls"] == 36
    assert measures["lasting"]["exact_match"] > 0.9 and measures["read_after_write"]["n"] == 12
    asked = questions(held_out, corpus(), model.resolver, rules=model.rules)
    holes = model.run(ask_holes(model, asked))
    assert holes["n"] >= 5 and holes["by_schema"]["usable"] == 1.0 > holes["freely"]["usable"]
    assert holes["by_schema"]["value_types"] == holes["drawn"]["value_types"] == 1.0
    card = model.run(measure(model, asked, with_base=False))
    assert card["memorisation"]["answers"] > 0
    assert card["memorisation"]["repeat_a_trained_conversation"] == 0
    assert card["memorisation"]["repeat_a_held_out_conversation"] == 0
    assert card["overall"]["value_types"] == 1.0 and card["tools"]["sell_crate"]["status"] != "block"


def test_the_model_is_asked_only_where_it_beats_drawn_values() -> None:
    def ways(model: float, drawn: float) -> dict[str, Any]:
        return {"n": 30, "by_schema": {"field_f1": model}, "drawn": {"field_f1": drawn}}

    assert model_is_better(ways(0.5, 0.4)) and not model_is_better(ways(0.3, 0.4)) and model_is_better({"n": 7})


def test_support_is_calibrated_on_correctness() -> None:
    pairs = [(0.2, k % 5 == 0) for k in range(50)] + [(0.8, k % 10 > 0) for k in range(50)]
    pairs += [(0.9, k % 2 > 0) for k in range(8)]
    curve = fit_support(pairs)
    assert calibrated(curve, 0.2) == pytest.approx(11 / 52) and calibrated(curve, 0.85) > 0.8
    assert calibrated(curve, 0.9) == calibrated(curve, 0.8), "a fall is pooled: curves rise"
    assert calibrated((), 0.3) == 0.3
    assert reliability([])["error"] is None


def test_scarce_tools_and_drift_are_named() -> None:
    found = corpus(30)
    few = {cid: steps for cid, steps in list(found.items())[:8]}
    assert any(line.startswith("sell_crate: only") for line in scarce(few))
    newest = {"n": [Step("weigh", {}, "1")] * 3 + [missing("show_crate", 1)] * 40}
    said = drift(found, newest)
    assert any("weigh is a new tool" in line for line in said) and any("error rate" in line for line in said)


def test_shapes_survive_the_disk(model: WorldModel, tmp_path: Path) -> None:
    from worldmodel.artifact import read_shapes, save_shapes

    save_shapes(tmp_path, model.shapes)
    assert read_shapes(tmp_path) == model.shapes and read_shapes(tmp_path / "none") == Shapes()
