"""Worlds answer alike whoever asks first, stick to it, and say where an answer came from."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from world_samples import random_world

from ingest.records import Scenario, Transition
from training.environment import ComparedEpisode
from worldmodel import Episode, World, WorldModel
from worldmodel.card.ask import ask_cache, ask_nearest, ask_world, questions
from worldmodel.card.make import measure
from worldmodel.steps import OK, Step
from worldmodel.users.match import ask_users, auc, match
from worldmodel.users.user import dialogue, patience
from worldmodel.world import Grounding

TIMEOUT = json.dumps({"error": "timeout", "message": "no answer in 5 s"})


def record(number: int, status: str = "packed") -> str:
    weight = 1 + number % 7
    return json.dumps({"parcel_id": f"P-{number}", "status": status, "weight": weight, "town": f"T{number}"})


def read(number: int, status: str = "packed") -> Step:
    return Step("get_parcel", {"parcel_id": f"P-{number}"}, record(number, status), OK, 30.0)


def ship(number: int) -> Step:
    return Step("ship_parcel", {"parcel_id": f"P-{number}"}, record(number, "shipped"), OK, 80.0)


def corpus() -> dict[str, list[Step]]:
    found = {}
    for number in range(1000, 1040):
        steps = [read(number), ship(number), read(number, "shipped")]
        if number % 4 == 0:
            steps.insert(0, Step("get_parcel", {"parcel_id": f"P-{number}"}, TIMEOUT, "timeout", 5000.0))
        if number % 5 == 0:
            missing = json.dumps({"error": "not_found", "message": "no such parcel"})
            steps.insert(0, Step("get_parcel", {"parcel_id": f"X-{number}"}, missing, "not_found", 20.0))
        about = number if number % 3 == 0 else number + 3  # not what was read before: the argument alone decides
        find = Step("find_parcels", {"town": f"T{about}"}, json.dumps([f"P-{about}"]), OK, 50.0)
        steps.insert(0 if number % 3 == 0 else len(steps), find)
        found[f"c{number}"] = steps
    return found


def messages_of(steps: Sequence[Step]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "ship my parcel P-500 please"}]
    for k, step in enumerate(steps):
        call = {"id": f"call_{k}", "name": step.tool, "arguments": dict(step.arguments)}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"call_{k}", "content": step.content})
    return messages


@pytest.fixture(scope="module")
def model() -> Iterator[WorldModel]:
    """A world model on a small random base: the bodies that it writes are random, so far as their schema allows."""
    made = random_world(corpus(), 100, 900, body_tokens=120, with_user=True)
    yield made
    made.close()


CALLS = [
    *(("get_parcel", {"parcel_id": f"P-{n}"}) for n in (500, 501, 1000)),
    *(("find_parcels", {"town": f"T{n}"}) for n in (500, 777)),
    ("get_parcel", {"parcel_id": "X-9"}),
]


def answers(episode: Episode, calls: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for name, arguments in calls:
        seen = episode.call(name, arguments)
        said = (seen.content, seen.error_class)
        found.setdefault(f"{name} {arguments}", []).append(said)
    return found


@pytest.mark.parametrize("writes", [False, True])
def test_answers_do_not_depend_on_who_asks_first(model: WorldModel, writes: bool) -> None:
    """Members of a group ask the same things in random orders, in one world and in one made anew."""
    known = messages_of([read(500)])
    start = [("ship_parcel", {"parcel_id": "P-501"})] if writes else []
    for seed in range(2):
        rng = random.Random(seed)
        shared = model.world(messages=known, seed=seed)
        expected = answers(shared.episode(), start + CALLS + CALLS[:3])
        for world in (shared, shared, model.world(messages=known, seed=seed)):
            order = rng.sample(CALLS + CALLS[:3], len(CALLS) + 3)
            assert answers(world.episode(), start + order) == expected


def test_answers_are_stable_until_a_write(model: WorldModel) -> None:
    episode = model.world(seed=1).episode()
    said = {episode.call("get_parcel", {"parcel_id": "P-501"}).content for _ in range(8)} - {TIMEOUT}
    assert len({s for s in said if "timeout" not in s}) == 1


def test_provenance_names_the_source_of_an_answer(model: WorldModel) -> None:
    known = [read(500), ship(501), Step("find_parcels", {"town": "T502"}, '["P-502"]')]
    episode = model.world(messages=messages_of(known), seed=0).episode()
    seen = [episode.call("get_parcel", {"parcel_id": "P-500"}) for _ in range(4)]
    replayed = [s for s in seen if not s.is_error]
    assert {s.provenance for s in replayed} <= {"replayed", "derived"} and replayed[0].content == json.dumps(
        json.loads(record(500)), separators=(",", ":")
    )
    assert {s.error_class for s in seen if s.is_error} <= {"timeout"}
    everywhere = episode.call("find_parcels", {"town": "T1003"})
    assert (everywhere.provenance, everywhere.content) == ("replayed", '["P-1003"]')
    unseen = [episode.call("get_parcel", {"parcel_id": "P-502"}) for _ in range(4)]
    assert [s.provenance for s in unseen if not s.is_error][0] == "generated"
    assert episode.call("fly", {}).error_class == "unknown_tool"
    nothing = episode.call("ship_parcel", {})
    assert (nothing.provenance, nothing.support, nothing.is_error) == ("abstained", 0.0, True)
    assert nothing.content == "" and episode.ended, "the agent reads nothing, and the episode is over"
    assert episode.provenance["abstained"] == 1
    assert episode.call("get_parcel", {"parcel": "P-1"}).is_error, "refused, or not answered"


def test_an_invented_record_names_what_was_asked_for(model: WorldModel) -> None:
    for seed in range(6):
        seen = model.world(seed=seed).episode().call("get_parcel", {"parcel_id": "P-502"})
        if not seen.is_error:
            assert json.loads(seen.content)["parcel_id"] == "P-502"


def test_a_scenario_starts_before_its_facts_and_replays_them_state_by_state(model: WorldModel) -> None:
    steps = [read(500), ship(500), read(500, "shipped")]
    facts = tuple(
        Transition("c", k, s.tool, dict(s.arguments), s.content, False, "", 30.0, k) for k, s in enumerate(steps)
    )
    scenario = Scenario("s", "c", "", [], "ship it", ("ship it", "bye"), facts, 1.0, 0)
    for seed in range(8):
        episode = model.world(scenario=scenario, seed=seed).episode()
        contents = []
        for step in steps:
            seen = episode.call(step.tool, step.arguments)
            while seen.error_class == "timeout":
                seen = episode.call(step.tool, step.arguments)
            contents.append(json.loads(seen.content)["status"])
            assert seen.provenance in ("replayed", "derived")
        assert contents == ["packed", "shipped", "shipped"]


def test_an_episode_knows_how_far_it_changes_what_a_recorded_success_changed(model: WorldModel) -> None:
    facts = tuple(
        Transition("c", k, s.tool, dict(s.arguments), s.content, False, "", 30.0, k)
        for k, s in enumerate([read(500), ship(500)])
    )
    scenario = Scenario("s", "c", "", [], "ship it", ("ship it", "bye"), facts, 1.0, 0)
    assert model.world(scenario=scenario).episode().as_recorded() is None, "nobody says that it succeeded"

    world = model.world(scenario=replace(scenario, succeeded=True))
    episode = world.episode()
    assert isinstance(episode, ComparedEpisode) and episode.as_recorded() == 0.0
    episode.call("get_parcel", read(500).arguments)
    assert episode.as_recorded() == 0.0, "a read changes nothing"
    while episode.call("ship_parcel", ship(500).arguments).is_error:
        assert episode.as_recorded() == 0.0
    assert episode.as_recorded() == 1.0 and world.episode().as_recorded() == 0.0
    assert model.world(scenario=replace(scenario, succeeded=False)).episode().as_recorded() is None


def test_a_stale_recorded_read_is_corrected(model: WorldModel) -> None:
    effects = replace(model.resolver.frame.effects, lagging=frozenset({("ship_parcel", "get_parcel")}))
    frame = replace(model.resolver.frame, effects=effects)
    lagging = replace(model, resolver=replace(model.resolver, frame=frame))
    steps = [read(500), ship(500), read(500)]  # and there production stopped
    facts = tuple(
        Transition("c", k, s.tool, dict(s.arguments), s.content, False, "", 30.0, k) for k, s in enumerate(steps)
    )
    scenario = Scenario("s", "c", "", [], "ship it", ("ship it", "bye"), facts, 1.0, 0)
    for seed in range(4):
        episode = lagging.world(scenario=scenario, seed=seed).episode()
        seen = []
        for step in (*steps, steps[-1], steps[-1], steps[-1]):
            seen.append(episode.call(step.tool, step.arguments))
            while seen[-1].error_class == "timeout":
                seen[-1] = episode.call(step.tool, step.arguments)
        assert {s.provenance for s in seen[:3]} <= {"replayed", "derived"}
        assert seen[3].provenance != "replayed", "the second read is asked anew"
        assert seen[3].content == seen[4].content == seen[5].content, "and then it stays so"


def test_forks_share_the_past_and_then_diverge(model: WorldModel) -> None:
    world = model.world(messages=messages_of([Step("find_parcels", {"town": "T501"}, '["P-501"]')]))
    before = world.episode()
    first = before.call("get_parcel", {"parcel_id": "P-501"}).content
    fork = world.fork()
    again = before.fork()
    again.call("ship_parcel", {"parcel_id": "P-501"})
    assert len(before.writes) == 0 and len(again.writes) == 1 and len(again.steps) == len(before.steps) + 1
    assert fork.episode().call("get_parcel", {"parcel_id": "P-501"}).content == first
    pins = world.pins.known
    assert pins and world.fork().pins.known == pins and world.fork().pins.known is not pins


def test_seeds_make_different_worlds(model: WorldModel) -> None:
    classes = {model.world(seed=s).episode().call("get_parcel", {"parcel_id": "P-1"}).error_class for s in range(20)}
    assert len(classes) > 1


def test_a_blocked_tool_is_replayed_or_not_answered(model: WorldModel) -> None:

    blocked = replace(model, resolver=replace(model.resolver, blocked=frozenset({"get_parcel"})))
    episode = blocked.world(messages=messages_of([read(500)])).episode()
    assert episode.call("get_parcel", {"parcel_id": "P-500"}).provenance == "replayed"
    assert episode.call("get_parcel", {"parcel_id": "P-501"}).provenance == "abstained"


# ----- card


async def _ask(model: WorldModel, held_out: dict[str, list[Step]]) -> dict[str, Any]:
    asked = questions(held_out, corpus(), model.resolver)
    judged = await ask_world(model, asked)
    assert [j.truth for j in judged] == [q.truth for q in asked]
    assert sum(q.after_write for q in asked) == 3
    assert sum(j.exact for j in ask_cache(model.resolver, asked)) == 0
    assert all(j.answer is not None for j in ask_nearest(model.resolver, asked))
    return await measure(model, asked, with_base=False)


def test_the_card_has_its_counts(model: WorldModel) -> None:
    held_out = {f"h{n}": [read(n), ship(n), read(n, "shipped")] for n in (600, 601, 602)}
    card = model.run(_ask(model, held_out))
    assert card["overall"]["n"] == 9 and set(card["tools"]) == {"get_parcel", "ship_parcel"}
    reads = card["tools"]["get_parcel"]
    assert reads["read_after_write"]["n"] == 3 and reads["derivable"]["n"] == 3
    assert reads["status"] in ("warn", "block") and any("6 held-out" in why for why in reads["why"])
    assert set(reads["baselines"]) == {"replay_cache", "nearest_copy", "rules_alone", "model_alone"}
    assert "get_parcel" in reads["says"] and card["overall"]["log_loss"] > 0
    json.dumps(card)


# ----- users


def test_users_answer_equally_in_one_world_and_leave_in_the_end(model: WorldModel) -> None:
    world = World(model, 0, Grounding(goal=("ship it", "yes"), said=(("user", "ship it"),)))

    async def talk(episode: Episode) -> list[str | None]:
        return [await episode.respond("shall I?") for _ in range(8)]

    first, second = (model.run(talk(world.episode())) for _ in range(2))
    assert first == second
    assert first[-1] is None


def test_users_are_compared_with_real_ones_turn_by_turn(model: WorldModel) -> None:
    said = {f"c{k}": [("user", f"ship P-{k}00 to me"), ("agent", "shall I?"), ("user", f"yes, it is for U-{k}77"),
                      ("agent", "done")] for k in range(12)}  # fmt: skip
    assert model.user is not None
    turns = model.run(ask_users(model.user, said))
    assert len(turns) == 24 and sum(t.real is None for t in turns) == 12
    found = match(turns)
    assert found["left"]["real"] == 0.5 and 0 <= found["stop_agreement"] <= 1 and found["disclosed"]["real"] == 1.0
    perfect = match([replace(t, simulated=t.real) for t in turns])
    assert perfect["stop_agreement"] == 1.0 and perfect["said_ahead"] == 0.0
    assert perfect["discriminator_auc"] == pytest.approx(0.5, abs=0.05)
    assert auc(["yes please"] * 12, ["xqz wkj"] * 12) == 1.0 and auc(["a"], ["b"]) is None


def test_dialogue_has_only_what_customers_read() -> None:
    messages = [
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "content": "one moment",
            "tool_calls": [{"id": "1", "name": "f", "arguments": {}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "secret"},
        {"role": "assistant", "content": "done"},
    ]
    assert dialogue(messages) == [("user", "hello"), ("agent", "done")]
    assert patience([]) == 1
