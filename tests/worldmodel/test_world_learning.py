"""What the world learns without a model: outcomes, effects, context, retrieval, shapes, splits."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from worldmodel.effects import Effects, is_read_verb, learn_effects
from worldmodel.generate.context import Frame, abbreviate, canonical_history, learn_patched, select, trail_of
from worldmodel.generate.examples import build_index, derivable, frame_step, is_repeat, learn_vocabulary
from worldmodel.generate.index import TransitionIndex
from worldmodel.generate.resolver import corrected, fit_bias, uniform
from worldmodel.generate.retrieval import Entry, features_of
from worldmodel.profiles import Profile, learn_profiles
from worldmodel.split import entity_groups, split_conversations
from worldmodel.steps import OK, OTHER, Step, call_key, core, outcome_classes, outcome_of, steps_of_messages


def body(**fields: Any) -> str:
    return json.dumps(fields)


def parcel(number: int, **fields: Any) -> dict[str, Any]:
    return {"parcel_id": f"P-{number}", "status": "packed", "weight": 7, "owner": f"U{number}9", **fields}


def read(number: int, **fields: Any) -> Step:
    return Step("get_parcel", {"parcel_id": f"P-{number}"}, body(**parcel(number, **fields)), OK, 30.0)


def ship(number: int) -> Step:
    return Step("ship_parcel", {"parcel_id": f"P-{number}"}, body(**parcel(number, status="shipped")), OK, 80.0)


def late(number: int) -> Step:
    return Step("get_parcel", {"parcel_id": f"P-{number}"}, "Error: upstream timed out", "timeout", 5000.0)


def corpus(n: int = 30) -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = {}
    for k in range(100, 100 + n):
        steps = [read(k), ship(k), read(k, status="shipped")]
        if k % 3 == 0:
            steps.insert(0, late(k))
        found[f"c{k}"] = steps
    return found


@pytest.fixture(scope="module")
def effects() -> Effects:
    return learn_effects(list(corpus().values()))


# ----- outcomes


def test_two_errors_that_differ_in_an_id_are_one_class() -> None:
    one = outcome_of("Error: payment method card_123 not found", True, "")
    assert one == outcome_of("Error: payment method gift_99 not found", True, "")
    assert one != outcome_of("Error: not enough seats on flight X12", True, "")


def test_rare_classes_share_the_last_digit() -> None:
    steps = [Step("t", {}, "x", f"error_{k}") for k in range(15)]
    names = outcome_classes(steps)["t"]
    assert names[0] == OK and names[-1] == OTHER and len(names) == 10


def test_steps_of_messages_match_results_by_id_even_out_of_order() -> None:
    calls = [
        {"id": "a", "name": "f", "arguments": {"x": 1}},
        {"id": "b", "name": "g", "arguments": '{"y":2}'},
    ]
    messages = [
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "b", "content": "two"},
        {"role": "tool", "tool_call_id": "a", "content": "Error: no such thing"},
    ]
    first, second = steps_of_messages(messages)
    assert (first.tool, first.arguments, first.outcome) == ("g", {"y": 2}, OK)
    assert second.tool == "f" and second.outcome != OK


def test_core_ignores_short_prefixes_only() -> None:
    assert core("#W4821") == core("W4821") == core("4821")
    assert core("ivan_wilson_7416") != core("raj_wilson_7416")


# ----- effects


def test_effects_are_learned_from_how_answers_change(effects: Effects) -> None:
    assert effects.writes == {"ship_parcel"}
    assert effects.readers == {"parcel_id": "get_parcel"}
    assert effects.transient == {("get_parcel", "timeout")}


def test_a_write_with_a_reading_name_is_found_by_what_it_changes() -> None:
    renamed = [
        [s if s.tool != "ship_parcel" else Step("check_parcel_out", s.arguments, s.content) for s in steps]
        for steps in corpus().values()
    ]
    assert is_read_verb("check_parcel_out")
    assert "check_parcel_out" in learn_effects(renamed).writes


def test_a_read_with_a_writing_name_is_recognised_by_unchanged_answers() -> None:
    conversations = [
        [read(k), Step("rate_parcel", {"parcel_id": f"P-{k}"}, '"good"'), read(k)] for k in range(100, 110)
    ]
    assert not is_read_verb("rate_parcel")
    assert "rate_parcel" not in learn_effects(conversations).writes


def test_a_lasting_error_is_not_transient() -> None:
    missing = Step("get_parcel", {"parcel_id": "P-9"}, "no such parcel", "missing")
    assert not learn_effects([[missing, missing, missing]] * 5).transient


def test_errors_from_frequent_calls_are_learned() -> None:
    def search(k: int, outcome: str) -> Step:
        return Step("search", {"query": str(k)}, "[]" if outcome == OK else "slow down", outcome)

    hasty = [[*(search(k, OK) for k in range(3)), search(3, "rate_limited")] for _ in range(10)]
    calm = [[search(0, OK)], [search(0, "rate_limited")]] * 10
    assert "search" in learn_effects(hasty).historic
    assert "search" not in learn_effects(calm).historic


def test_effects_survive_json(effects: Effects) -> None:
    assert Effects.from_json(json.loads(json.dumps(effects.to_json()))) == effects


# ----- context


def test_history_keeps_first_reads_and_writes(effects: Effects) -> None:
    steps = [late(1), read(1), read(1), ship(1), read(1, status="shipped")]
    assert canonical_history(steps, effects) == [steps[1], steps[3]]


def test_context_is_the_latest_write_then_the_record_and_nothing_of_others(effects: Effects) -> None:
    history = [read(200), read(201), ship(201)]
    chosen = select("get_parcel", {"parcel_id": "P-201"}, history, effects)
    assert chosen == [history[2], history[1]]


def test_unrelated_calls_are_not_in_the_trail(effects: Effects) -> None:
    arguments = {"parcel_id": "P-1"}
    calm = replace(effects, historic=frozenset())
    assert trail_of("get_parcel", arguments, [read(2), ship(2)], calm) == []
    assert trail_of("get_parcel", arguments, [late(1), read(2)], calm) == [late(1)]
    assert trail_of("get_parcel", arguments, [read(2), ship(1)], calm) == [ship(1)]
    hasty = replace(effects, historic=frozenset({"get_parcel"}))
    assert trail_of("get_parcel", arguments, [read(2), ship(2)], hasty) == [read(2), ship(2)]


def test_abbreviation_keeps_what_the_call_and_its_edits_need() -> None:
    record = {
        "id": "R1",
        "status": "open",
        "story": "x" * 300,
        "payments": [{"id": "pay_1", "amount": 3}, {"id": "pay_2", "amount": 4}],
        "history": [{"at": 1}],
        "notes": ["a", "b"],
    }
    shown = json.loads(abbreviate(json.dumps(record), frozenset({"history"}), {"pay_2"}))
    expected = {
        "id": "R1",
        "status": "open",
        "payments": [{"id": "pay_2", "amount": 4}],
        "history": [{"at": 1}],
    }
    assert shown == expected


def frame_of(conversations: dict[str, list[Step]]) -> Frame:
    learned = learn_effects(list(conversations.values()))
    classes = outcome_classes(s for steps in conversations.values() for s in steps)
    return Frame(learned, classes, learn_patched(list(conversations.values()), learned))


def test_a_write_is_taught_as_a_small_patch_and_a_later_read_as_a_reference() -> None:
    conversations = corpus()
    frame = frame_of(conversations)
    index = build_index(conversations, frame)
    steps = conversations["c100"]
    written = frame_step("c100", steps, 1, frame, index)
    assert written.edit() == '@1{"status":"shipped"}'
    assert frame.patched["ship_parcel"] == {"status"}
    again = frame_step("c100", steps, 2, frame, index)
    assert again.edit() == "@1" and again.framed.prompt.trail[-1] == ("ship_parcel", OK)
    assert all(seen.arguments != {"parcel_id": "P-100"} for seen in written.framed.prompt.seen if seen.retrieved)


def test_derivable_answers_are_distinguished_from_others() -> None:
    vocabulary = learn_vocabulary(corpus())
    assert derivable(ship(500), [read(500)], vocabulary)
    assert not derivable(read(500), [], vocabulary)
    assert derivable(late(500), [], vocabulary)


def test_a_repeat_is_no_repeat_after_a_write() -> None:
    frame = frame_of(corpus())
    assert is_repeat([read(1), read(2), read(1)], 2, frame)
    assert not is_repeat([read(1), ship(1), read(1)], 2, frame)


# ----- retrieval


def test_retrieval_finds_the_same_shape_of_argument(tmp_path: Path) -> None:
    def refund(conversation: str, amount: Any, outcome: str) -> tuple[str, list[Step]]:
        return conversation, [Step("refund", {"amount": amount}, outcome, outcome)]

    conversations = dict([refund("a", 1250, OK), refund("b", 12.5, "bad"), refund("c", 990, OK)])
    index = build_index(conversations, frame_of(conversations))
    index.save(tmp_path / "index.sqlite")
    index.save(tmp_path / "index.sqlite")  # a card that is measured keeps the index once more
    for found in (index, TransitionIndex.load(tmp_path / "index.sqlite")):
        nearest = found.nearest("refund", features_of("refund", {"amount": 3.75}, []))
        assert nearest is not None and nearest.outcome == "bad"
        other = found.nearest("refund", features_of("refund", {"amount": 12.5}, []), found.apart("b"))
        assert other is not None and other.outcome == OK
        assert found.nearest("nothing", ()) is None


def test_retrieval_ranks_as_the_sum_of_what_is_shared_says() -> None:
    """Against a plain ranking of all transitions, also where features are frequent."""
    rng = random.Random(4)
    entries = []
    for number in range(3000):
        arguments = {"kind": rng.choice("ab"), "n": rng.randrange(300), "at": rng.choice(("x-1", "y-22", "z"))}
        features = features_of("rate", arguments, [])
        entries.append(Entry(f"c{number}", Step("rate", arguments, str(number)), features, True))
    index = TransitionIndex.of(entries)
    shared = Counter(feature for entry in entries for feature in entry.features)
    for asked in ({"kind": "a", "n": 7, "at": "z"}, {"kind": "b", "n": 150, "at": "y-22"}):
        features = set(features_of("rate", asked, []))
        weights = [sum(math.log(3001 / shared[f]) for f in features & {*entry.features}) for entry in entries]
        ranked = sorted(range(3000), key=lambda at: (-round(weights[at], 9), -at))
        plain = list(dict.fromkeys(entries[at].step.key for at in ranked))[:3]
        assert [step.key for step in index.nearest_of("rate", sorted(features), 3)] == plain
    assert index.calls("rate") == 3000 and [e.step for e in index.entries] == [e.step for e in entries]


def test_what_is_retrieved_shares_no_entity_with_the_call() -> None:
    conversations = corpus(6)
    conversations["again"] = [read(101), ship(101)]
    frame = frame_of(conversations)
    groups = entity_groups(conversations, frame.effects)
    assert groups["again"] == groups["c101"] and len(set(groups.values())) == 6
    features = features_of("get_parcel", {"parcel_id": "P-101"}, [])
    index = build_index(conversations, frame, groups)
    alike = index.nearest_of("get_parcel", features, 3, index.apart("again"))
    assert len(alike) == 3 and all(step.arguments != {"parcel_id": "P-101"} for step in alike)
    strangers = build_index(conversations, frame)
    given = strangers.nearest_of("get_parcel", features, 1, strangers.apart("again"))
    assert given[0].arguments == {"parcel_id": "P-101"}, "without groups, another conversation gives it away"
    unknown = frame.around(index, "new", [ship(101)], "").apart
    assert unknown.conversations == {"new", "c101", "again"} and unknown.groups == {groups["c101"]}
    many = ((f"tool {k}", "=parcel_id=P-1") for k in range(300_000))  # a long conversation with many tools
    assert index.apart("new", many).conversations == {"new"}
    shown = frame_step("again", conversations["again"], 0, frame, index)
    assert sum(seen.retrieved for seen in shown.framed.prompt.seen) == 3


def test_only_unanimous_reads_before_any_write_are_replayed_for_all() -> None:
    conversations = corpus(3)
    conversations["twice"] = [read(101, weight=8)]
    index = build_index(conversations, frame_of(conversations))
    assert index.always(call_key("get_parcel", {"parcel_id": "P-100"})) == read(100)
    assert index.always(call_key("get_parcel", {"parcel_id": "P-101"})) is None
    assert index.always(call_key("ship_parcel", {"parcel_id": "P-100"})) is None


# ----- profiles


def test_profiles_have_shapes_and_refuse_unknown_arguments() -> None:
    profile = learn_profiles(s for steps in corpus().values() for s in steps)["get_parcel"]
    profile = Profile.from_json(json.loads(json.dumps(profile.to_json())))
    assert profile.allows(OK, body(**parcel(7)))
    assert not profile.allows(OK, body(**parcel(7), colour="red"))
    assert not profile.allows(OK, body(parcel_id="P-7"))
    assert not profile.allows(OK, "P-7")
    assert profile.objection({"parcel_id": "P-7"}) is None
    assert "colour" in (profile.objection({"parcel_id": "P-7", "colour": 1}) or "")
    assert "missing" in (profile.objection({}) or "")
    assert profile.latency("timeout", 0.5) == 5000.0 and profile.latency(OK, 0.5) == 30.0


# ----- outcomes at their rates


def test_bias_makes_the_mean_prediction_the_observed_rate() -> None:
    logprobs = [(-0.05, -3.0 - 0.1 * (k % 7)) for k in range(50)]
    outcomes = [1] * 15 + [0] * 35
    bias = fit_bias(logprobs, outcomes)
    mean = sum(corrected(row, bias)[1] for row in logprobs) / len(logprobs)
    assert abs(mean - 0.3) < 0.01


def test_uniform_is_a_function_of_its_arguments() -> None:
    draws = [uniform(0, "x", k) for k in range(2000)]
    assert draws[:5] == [uniform(0, "x", k) for k in range(5)]
    assert abs(sum(draws) / len(draws) - 0.5) < 0.03


# ----- split


def test_split_shares_no_entity_and_holds_out_the_latest() -> None:
    conversations = corpus(60)
    conversations["z"] = [read(100)]
    split = split_conversations(conversations, learn_effects(list(conversations.values())))
    assert split.shared_entities == 0
    assert len(split.train) + len(split.calibrate) + len(split.test) == 61
    assert {"c100", "z"} <= set(split.train) or {"c100", "z"} <= set(split.test)
    assert "c159" in split.test and "c101" in split.train


# ----- production's manners


def desk_conversation(number: str) -> list[Step]:
    """A lagging replica, terse writes, and a tool that wants the number without its prefix."""
    order, returned = f"O-{number}", {"order_id": f"O-{number}"}
    record = {"order": order, "item": "mug", "status": "shipped", "code": f"R{number}7"}
    read_before = Step("get_order", returned, json.dumps(record))
    opened = Step("open_return", {"number": number}, json.dumps({"return": number, "result": "accepted"}))
    fresh = Step("get_order", returned, json.dumps({**record, "status": "return open"}))
    return [read_before, opened, read_before, fresh]


def test_writes_with_lagging_reads_and_another_key_are_learned() -> None:
    conversations = [desk_conversation(str(number)) for number in range(4100, 4120)]
    effects = learn_effects(conversations)
    assert effects.writes == {"open_return"}
    assert effects.readers["order_id"] == "get_order"
    read_before, opened, *_ = desk_conversation("4777")
    assert opened.mentions & effects.touched(read_before.arguments)
    assert not opened.mentions & effects.touched(desk_conversation("4778")[0].arguments)
    chosen = select("get_order", read_before.arguments, [read_before, opened], effects)
    assert chosen == [opened, read_before]


@pytest.mark.parametrize("is_lagging", [True, False])
def test_a_lagging_store_is_distinguished_from_another(is_lagging: bool) -> None:
    conversations = []
    for number in range(4100, 4120):
        before, _, stale, fresh = desk_conversation(str(number))
        cancel = Step("cancel_order", before.arguments, json.dumps({"order": f"O-{number}", "result": "accepted"}))
        conversations.append([before, cancel, stale if is_lagging else fresh, fresh])
    effects = learn_effects(conversations)
    assert effects.lagging == ({("cancel_order", "get_order")} if is_lagging else set())
    assert effects.lags("get_order", [conversations[0][1]]) is is_lagging
    assert Effects.from_json(json.loads(json.dumps(effects.to_json()))) == effects
