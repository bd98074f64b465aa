"""Searches in what all conversations share: by a part of a text, up to a price, only what is in stock, cut."""

from __future__ import annotations

import json
import random
from typing import Any

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.rules import decode, encode
from worldmodel.derive.schema import Filter
from worldmodel.learn.induce import induce
from worldmodel.sentences import describe_tool
from worldmodel.steps import Step, outcome_of

COLOURS, TREES = ["Red", "White", "Silver", "Downy"], ["Maple", "Birch", "Alder", "Rowan", "Hazel"]
GROWERS, KINDS = ["Ostrander", "Pell", "Quist"], ["tree", "hedge", "shrub"]
MOST = 5


def nursery() -> list[dict[str, Any]]:
    """The same plants in every conversation."""
    rng = random.Random("nursery")
    names = [f"{colour} {tree}" for colour in COLOURS for tree in TREES]
    return [
        {"plant_id": f"P-{200 + k}", "name": name, "grower": rng.choice(GROWERS), "kind": rng.choice(KINDS),
         "price": rng.randrange(8, 90) + 0.5, "stock": rng.choice([0, 0, 3, 7])}
        for k, name in enumerate(rng.sample(names, len(names)))
    ]  # fmt: skip


PLANTS = nursery()


def find_plants(
    query: str = "", kind: str = "", max_price: float | None = None, in_stock: bool = False, limit: int = MOST
) -> dict[str, Any]:
    found = [
        one for one in sorted(PLANTS, key=lambda one: one["name"])
        if query.lower() in (one["name"] + "\n" + one["grower"]).lower() and kind.lower() in ("", one["kind"])
        and (max_price is None or one["price"] <= max_price) and (one["stock"] > 0 or not in_stock)
    ]  # fmt: skip
    return {"total": len(found), "plants": found[: min(limit, MOST)]}


def searched(arguments: dict[str, Any]) -> Step:
    text = json.dumps(find_plants(**arguments))
    return Step("find_plants", arguments, text, outcome_of(text, None, ""))


def day(k: int) -> list[Step]:
    rng, steps = random.Random(f"search {k}"), []
    for _ in range(4):
        arguments: dict[str, Any] = {}
        if rng.random() < 0.5:
            word = rng.choice(COLOURS + TREES + GROWERS)
            arguments["query"] = rng.choice([word, word.lower(), word.upper()])
        else:
            kind = rng.choice(KINDS)
            arguments["kind"] = rng.choice([kind, kind, kind.title()])
        if rng.random() < 0.3:
            arguments["max_price"] = rng.randrange(20, 80)
        if rng.random() < 0.3:
            arguments["in_stock"] = True
        if rng.random() < 0.3:
            arguments["limit"] = rng.randrange(1, 4)
        steps.append(searched(arguments))
    return steps


RULES, FACTS = induce({f"c{k}": day(k) for k in range(80)})


def test_what_each_argument_asks_is_learned() -> None:
    (view,) = RULES.schema.views["find_plants"]
    assert view.tests == {
        "query": Filter(("name", "grower"), "holds"), "kind": Filter(("kind",), "same"),
        "max_price": Filter(("price",), "<="), "in_stock": Filter(("stock",), "above"),
    }  # fmt: skip
    assert view.closed and view.limit == "limit" and view.most == MOST and view.order == ("name",)


def test_a_saved_world_searches_alike() -> None:
    assert decode(encode(RULES)) == RULES
    view = decode(encode(RULES)).schema.views["find_plants"][0]
    assert view.asked({"query": "Elm", "in_stock": True}) == RULES.schema.views["find_plants"][0].asked(
        {"query": "Elm", "in_stock": True})  # fmt: skip


def test_searches_that_nobody_made_are_answered_from_what_all_share() -> None:
    session = Session(Engine(RULES, FACTS))
    seen = {json.dumps(step.arguments, sort_keys=True) for k in range(80) for step in day(k)}
    new = [step for k in range(80, 120) for step in day(k) if json.dumps(step.arguments, sort_keys=True) not in seen]
    new += [searched({"query": "ild"}), searched({"query": "er m"}), searched({"query": "quist", "kind": "Hedge"})]
    right = 0
    for step in new:
        found = session.derive(step.tool, step.arguments, 0, accidents=False)
        content = None if found is None else found.content
        right += content is not None and json.loads(content) == json.loads(step.content)
    assert len(new) > 40 and right >= 0.9 * len(new), f"{right} of {len(new)}"


def test_an_argument_that_nobody_used_leaves_the_list_open() -> None:
    found = Session(Engine(RULES, FACTS)).derive("find_plants", {"query": "Maple", "soil": "wet"}, 0, accidents=False)
    assert found is None or found.content is None


def test_the_rules_say_what_a_search_does() -> None:
    lines = list(describe_tool(RULES.tools["find_plants"]))
    said = "how many items the list plants of the records that all conversations share has before it is cut"
    assert any(said in line for line in lines), lines
