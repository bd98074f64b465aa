"""The card's parts that need no model: who is held out, error rates, volatile fields, drift, intervals, history."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fidelity.errors import error_rates as error_rates_of
from benchmarks.fidelity.errors import transitions_of, without_model
from training.environment import Observation, ToolCall
from worldmodel.card.drift import drift
from worldmodel.card.history import earlier, hand_on, in_short, keep
from worldmodel.card.measures import Judged, error_rates, exact_interval
from worldmodel.card.transfer import Case, replay_transfer
from worldmodel.card.verdict import verdict
from worldmodel.card.volatile import by_tool, find_volatile, settled
from worldmodel.control import Control, Steering
from worldmodel.effects import learn_effects
from worldmodel.fit import learn
from worldmodel.split import split_conversations
from worldmodel.steps import OK, Step
from worldmodel.world import Grounding

TIMEOUT = '{"error":"timeout"}'


def answer(tool: str, arguments: dict[str, Any], **body: Any) -> Step:
    return Step(tool, arguments, json.dumps(body))


# ----- who is held out


def shop(n: int, seed: int = 0) -> dict[str, list[Step]]:
    """Half of the conversations look up a product that others look up as well; every third of these times out."""
    rng = random.Random(seed)
    found = {}
    for number in range(n):
        if number % 2:
            order = f"O-{1000 + number}"
            found[f"c{number}"] = [answer("get_order", {"order": order}, order=order, item="mug", state="sent")]
            continue
        sku = f"P{rng.randrange(100, 100 + n // 10)}"
        call = {"sku": sku}
        step = answer("get_product", call, sku=sku, name=f"N{sku}", stock=int(sku[1:]) % 9)
        late = Step("get_product", call, TIMEOUT, "timeout")
        found[f"c{number}"] = [late if rng.random() < 1 / 3 else step]
    return found


def test_held_out_conversations_fail_as_often_as_all() -> None:
    conversations = shop(600)
    split = split_conversations(conversations, learn_effects(list(conversations.values())))
    held_out = [s for cid in split.test for s in conversations[cid]]
    products = [s for s in held_out if s.tool == "get_product"]
    failed = sum(s.outcome != OK for s in products) / len(products)
    everywhere = [s for steps in conversations.values() for s in steps if s.tool == "get_product"]
    expected = sum(s.outcome != OK for s in everywhere) / len(everywhere)
    assert len(products) > 0.3 * len(held_out) and failed == pytest.approx(expected, abs=0.12)
    assert split.shared_entities == 0 and 0.1 < len(split.test) / 600 < 0.2


def test_a_split_says_when_no_entity_was_found() -> None:
    conversations = {f"c{n}": [answer("roll", {}, face=n % 6)] for n in range(40)}
    split = split_conversations(conversations, learn_effects(list(conversations.values())))
    assert split.with_entities == 0 and "No entity was found" in split.in_words() and split.test[-1] == "c39"
    known = split_conversations(shop(60), learn_effects(list(shop(60).values())))
    assert "entities were found in" in known.in_words()


# ----- error rates


def judged(cid: str, real: str, said: str, drawn: float | None = None) -> Judged:
    truth = Step("find", {"q": cid}, "{}", real)
    return Judged(cid, truth, replace(truth, outcome=said), True, False, drawn_errors=drawn)


def test_a_limit_that_depends_on_a_hidden_burst_comes_as_often_as_in_production() -> None:
    """A search that production always answered alike when it did answer is still refused as often as it was."""
    rng = random.Random(5)
    refused = Step("search", {}, '{"error":"rate_limited","message":"too many"}', "rate_limited")
    found = {}
    for number in range(300):
        burst, steps = rng.choice((2, 3)), []
        for at in range(5):
            call = {"line": rng.choice(("mugs", "caps", "pens"))}
            hit = answer("search", call, line=call["line"], first=len(call["line"]))
            steps.append(hit if at < burst else replace(refused, arguments=call))
        found[f"c{number}"] = steps
    measured = error_rates_of(transitions_of(found))["tools"]["search"]
    assert 0.8 <= measured[3] <= 1.25 and measured[1] > 0.4


def test_an_interval_over_few_errors_is_wide() -> None:
    few = [judged(f"c{k}", "timeout" if k == 0 else OK, OK) for k in range(40)]
    low, high = error_rates(few)["ratio_ci"]
    assert low < 0.8 < high, "one error in forty proves nothing"
    many = [judged(f"c{k}", "timeout" if k < 20 else OK, OK) for k in range(40)]
    assert error_rates(many)["ratio_ci"][1] < 0.2, "none where production has twenty does"


def test_the_error_rate_is_that_of_several_worlds() -> None:
    found = error_rates([judged(f"c{k}", "timeout" if k % 4 == 0 else OK, OK, drawn=0.25) for k in range(40)])
    assert found["simulated"] == found["real"] == 0.25


def test_exact_match_has_an_interval_that_counts_conversations() -> None:
    alone = [judged(f"c{k}", OK, OK if k % 2 else "timeout") for k in range(60)]
    alone = [replace(j, answer=replace(j.answer, content="{}" if j.outcome == OK else "no")) for j in alone if j.answer]
    together = [replace(j, conversation_id=f"c{k % 2}") for k, j in enumerate(alone)]
    narrow, wide = exact_interval(alone), exact_interval(together)
    assert narrow is not None and wide is not None
    assert narrow[0] < 0.5 < narrow[1] and narrow[1] - narrow[0] < 0.3 < wide[1] - wide[0]
    assert exact_interval([]) is None


def entry(**changes: Any) -> dict[str, Any]:
    measures = {"exact_match": 0.9, "outcome_f1": 0.9}
    errors = {"ratio": 1.0, "ratio_ci": [0.9, 1.1]}
    return {"n": 50, "errors": errors, "baselines": {"nearest_copy": {**measures}}, **measures, **changes}


def test_what_production_itself_says_newly_blocks_no_tool() -> None:
    assert verdict(entry(value_types=0.85, real_value_types=1.0))[0] == "block"
    assert verdict(entry(value_types=0.85, real_value_types=0.85))[0] == "pass"


# ----- volatile fields


def recording(n: int) -> dict[str, list[Step]]:
    """Reads with a random stamp and a fact of each record; writes with a number that counts up."""
    rng = random.Random(3)
    found = {}
    for number in range(n):
        box = {"box": f"B{number}"}
        reads = [
            answer("look", box, meta={"token": f"{rng.randrange(10**9):x}"}, owner=f"owner-{number}", full=number % 2)
            for _ in range(2)
        ]
        made = answer("seal", {**box, "with": "tape"}, receipt=f"R-{5000 + number}", owner=f"owner-{number}")
        found[f"c{number}"] = [*reads, made]
    return found


def test_random_values_and_counters_are_volatile_and_facts_are_not() -> None:
    found = find_volatile(recording(40), frozenset({"seal"}))
    assert by_tool(found) == {"look": {"meta.token"}, "seal": {"receipt"}}
    assert "repeated calls" in found["look"]["meta.token"] and "rises" in found["seal"]["receipt"]


def test_a_value_that_stays_in_a_conversation_is_a_fact() -> None:
    """A session's user is unique to each conversation, but it does not change within one."""
    conversations = {
        f"c{k}": [answer("login", {}, user=f"u{k}", session=f"s{k * 7919 % 1000}"),
                  answer("login", {}, user=f"u{k}", session=f"t{k * 104729 % 1000}")]
        for k in range(30)
    }  # fmt: skip
    assert by_tool(find_volatile(conversations, frozenset({"login"}))) == {"login": {"session"}}


def test_only_the_type_of_a_volatile_value_counts() -> None:
    paths = frozenset({"meta.token", "at"})
    left, right = (json.dumps({"meta": {"token": text}, "at": 1, "x": 2}) for text in ("aa", "bb"))
    assert settled(left, paths) == settled(right, paths) and settled(left, frozenset()) != settled(right, frozenset())
    assert settled(left, paths) != settled('{"meta":{"token":7},"at":1,"x":2}', paths)
    assert settled("plain text", paths) == "plain text"


# ----- drift


def sales(n: int, seed: int, colours: str, price: float) -> dict[str, list[Step]]:
    rng = random.Random(seed)
    return {
        f"{seed}-{k}": [answer("sell", {"colour": rng.choice(colours)}, cents=int(rng.gauss(price, 50)), ok=True)]
        for k in range(n)
    }


def test_shifted_values_are_named_and_equal_ones_are_not() -> None:
    old = sales(200, 1, "rgb", 500)
    assert drift(old, sales(60, 2, "rgb", 500)) == []
    said = drift(old, sales(60, 3, "rrrrb", 900))
    assert any("'colour'" in line and "'r' from" in line for line in said)
    assert any("'cents'" in line and "median" in line for line in said)


# ----- history


def test_the_history_of_cards_survives_the_next_fit(tmp_path: Path) -> None:
    names = ("n", "exact_match", "exact_ci", "derivable", "outcome_f1", "log_loss", "errors", "read_after_write")
    overall = dict.fromkeys(names, 0.5)
    cards = [{"world": w, "overall": overall, "tools": {}} for w in ("one", "two")]
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    keep(first, [in_short(cards[0])])
    hand_on(first, second)
    hand_on(None, second)
    keep(second, [*earlier(second, "two"), in_short(cards[1])])
    keep(second, [*earlier(second, "two"), in_short(cards[1])])  # measured again: still one line
    assert [one["world"] for one in earlier(second, None)] == ["one", "two"]


# ----- implicit faults


def test_faults_times_three_holds_for_implicit_faults() -> None:
    from worldmodel.derive.engine import Engine
    from worldmodel.learn.induce import induce

    rows = answer("rows", {"of": "x"}, rows=[1, 2, 3, 4])
    session = Engine(*induce({f"c{k}": [rows, rows] for k in range(30)})).session()

    def share(text: str) -> float:
        short = Counter(
            Steering(Control.parse(text), {"rows": {"truncated": 0.1}}).shown(session, [rows], rows, seed)
            for seed in range(600)
        )
        return 1 - short[rows.content] / 600

    once, thrice = share("faults times 1"), share("faults times 3")
    assert share("no faults") == 0.0 and once == pytest.approx(0.1, abs=0.04)
    assert thrice == pytest.approx(0.3, abs=0.06)
    assert share("faults times 3; 50% truncated lists") == pytest.approx(0.5, abs=0.06), "what is set is not scaled"


# ----- replay transfer


class Shelf:
    """A real environment: boxes that can be sealed once; a task succeeds if its box is sealed and the agent says so."""

    def __init__(self, wanted: str) -> None:
        self.wanted, self.sealed, self.said = wanted, set[str](), False

    async def observe(self, call: ToolCall) -> Observation:
        box = call.arguments["box"]
        if call.name == "seal" and box in self.sealed:
            return Observation('{"error":"conflict"}', True, "conflict")
        if call.name == "seal":
            self.sealed.add(box)
        return Observation(json.dumps({"box": box, "sealed": box in self.sealed}))

    async def respond(self, text: str) -> str | None:
        self.said = self.wanted in self.sealed
        return None

    def success(self) -> bool:
        return self.said and self.sealed == {self.wanted}

    def facts(self) -> dict[str, Any]:
        return {}


def shelf_steps(number: int) -> list[Step]:
    box = {"box": f"B-{number}"}
    look, seal = answer("look", box, box=box["box"], sealed=False), answer("seal", box, box=box["box"], sealed=True)
    again = Step("seal", box, '{"error":"conflict"}', "conflict")
    return [look, seal, answer("look", box, box=box["box"], sealed=True), *([again] if number % 2 else [])]


def test_a_real_episode_ends_in_a_true_world_as_in_reality_and_in_a_false_one_it_does_not() -> None:
    learned = learn(transitions_of({f"c{n}": shelf_steps(n) for n in range(1000, 1080)}))
    world = without_model(learned)
    assert "seal" in learned.frame.effects.writes

    def case(number: int, right: bool) -> Case:
        grounding = Grounding(tuple(shelf_steps(number)), (), (("user", f"seal B-{number}"),), (f"seal B-{number}",))
        look, seal, *rest = shelf_steps(number)
        actions: list[Step | str] = [look, seal, *rest, "done"] if right else [look, "done"]
        return Case(grounding, actions, right, Shelf(f"B-{number}"))

    cases = [case(number, number % 3 > 0) for number in range(2000, 2030)]
    found = asyncio.run(replay_transfer(world, cases))
    assert found["agree"] == 1.0 and found["ended_early"] == 0 and 0.6 < found["success_in_reality"] < 0.7
    refusing = replace(world, control=Control.parse("the next write fails with 409"))
    found = asyncio.run(replay_transfer(refusing, [case(number, True) for number in range(2000, 2020)]))
    assert found["only_in_reality"] == 10, "the others ask once more"
    assert "seal: ok in reality, conflict in the world" in found["first_difference"]
