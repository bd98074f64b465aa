"""Refusals in sentences: where no flag calls them errors, and where their class is that of their words."""

from __future__ import annotations

import json
import random

import pytest

from worldmodel.derive.engine import Engine, Session
from worldmodel.learn.induce import induce
from worldmodel.steps import OK, Step, outcome_of


def bar(k: int, flagged: bool) -> list[Step]:
    """Tabs with a limit by the guest's rank: an order above it is refused, and changes nothing."""
    rng = random.Random(f"bar {k}")
    ranks = {"guest": 20, "member": 50, "owner": 90}
    tabs = {f"T{rng.randrange(1000, 9999)}": {"rank": rng.choice(list(ranks)), "open": 0} for _ in range(2)}
    steps = []

    def said(tool: str, arguments: dict[str, object], content: str, refused: bool = False) -> None:
        outcome = outcome_of(content, True, "") if refused and flagged else OK
        steps.append(Step(tool, arguments, content, outcome))

    for _ in range(10):
        tab = rng.choice(list(tabs))
        now, price = tabs[tab], rng.randrange(5, 45)
        if rng.random() < 0.5:
            said("get_tab", {"tab": tab}, json.dumps({"tab": tab, **now}))
        elif now["open"] + price > ranks[now["rank"]]:
            said("order", {"tab": tab, "price": price}, f"A {now['rank']} may not owe more than {ranks[now['rank']]}.",
                 refused=True)  # fmt: skip
        else:
            now["open"] += price
            said("order", {"tab": tab, "price": price}, json.dumps({"tab": tab, "open": now["open"]}))
    return steps


@pytest.mark.parametrize("flagged", [False, True])
def test_a_refusal_in_a_sentence_is_said_and_changes_nothing(flagged: bool) -> None:
    rules, facts = induce({f"c{k}": bar(k, flagged) for k in range(150)})
    assert ("order" in rules.schema.bodied) is not flagged
    session = Session(Engine(rules, facts))
    session.told("get_tab", {"tab": "T1"}, json.dumps({"tab": "T1", "rank": "member", "open": 30}), OK)
    answer = session.derive("order", {"tab": "T1", "price": 40})
    assert answer is not None and answer.content == "A member may not owe more than 50."
    assert answer.outcome == (outcome_of(answer.content, True, "") if flagged else OK)
    session.told("order", {"tab": "T1", "price": 40}, answer.content, answer.outcome)
    read = session.derive("get_tab", {"tab": "T1"})
    assert read is not None and json.loads(read.content or "") == {"tab": "T1", "rank": "member", "open": 30}


def test_refusals_that_differ_by_a_word_of_a_record_are_one_form() -> None:
    rules, _ = induce({f"c{k}": bar(k, True) for k in range(150)})
    refusals = [form for form in rules.tools["order"].forms.values() if form.outcome != OK]
    assert len(refusals) == 1 and refusals[0].varied and len(refusals[0].slots) == 2


def cart(k: int) -> list[Step]:
    """`remove` says an object, or a sentence when the last thing goes."""
    rng = random.Random(f"cart {k}")
    name, things = f"C{rng.randrange(1000, 9999)}", rng.randrange(1, 4)
    steps = [Step("get_cart", {"cart": name}, json.dumps({"cart": name, "things": things}), OK)]
    for left in range(things - 1, -1, -1):
        content = json.dumps({"cart": name, "things": left}) if left else "Cart is now empty."
        steps.append(Step("remove", {"cart": name}, content, OK))
        steps.append(Step("get_cart", {"cart": name}, json.dumps({"cart": name, "things": left}), OK))
    return steps


def test_a_sentence_after_which_something_has_changed_is_no_refusal() -> None:
    rules, facts = induce({f"c{k}": cart(k) for k in range(100)})
    assert rules.schema.bodied == ()
    session = Session(Engine(rules, facts))
    session.told("get_cart", {"cart": "C1"}, json.dumps({"cart": "C1", "things": 1}), OK)
    session.told("remove", {"cart": "C1"}, "Cart is now empty.", OK)
    answer = session.derive("get_cart", {"cart": "C1"})
    assert answer is not None and json.loads(answer.content or "{}")["things"] == 0
