"""Lists of which only the call says whose they are."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.layout import Layout
from worldmodel.derive.rules import Rules
from worldmodel.derive.schema import KeyPart, Schema, Site, View
from worldmodel.derive.store import Store
from worldmodel.derive.values import parse
from worldmodel.learn.induce import induce
from worldmodel.steps import Step


def step(tool: str, arguments: dict[str, Any], body: Any) -> Step:
    return Step(tool, arguments, json.dumps(body), "ok")


def right(engine: Engine, steps: list[Step]) -> list[bool]:
    session, found = Session(engine), []
    for one in steps:
        got = session.derive(one.tool, one.arguments, 0, accidents=False)
        found.append(got is not None and got.content is not None and parse(got.content) == parse(one.content))
        session.told(one.tool, one.arguments, one.content, one.outcome)
    return found


def scopes(rules: Rules) -> dict[str, tuple[str, ...]]:
    return {f"{site.tool}/{site.path}": site.scoped for site in rules.schema.sites if site.scoped}


def orders(k: int, most: int = 1) -> list[Step]:
    """Whose orders they are is said by the call alone, and by no item of the list."""
    rng = random.Random(f"orders {k}")
    owners = [f"CU-{rng.randrange(1000, 9999)}" for _ in range(3)]

    def new() -> dict[str, Any]:
        return {"order": f"O-{rng.randrange(10**6)}", "state": rng.choice(["paid", "sent"])}

    held = {owner: [new() for _ in range(rng.randint(1, most))] for owner in owners}
    asked = [owners[0], owners[1], owners[0], owners[2], owners[1]]
    return [step("list_orders", {"owner": o}, {"orders": held[o]}) for o in asked]


def enveloped(k: int, around: Callable[[list[Any], random.Random], dict[str, Any]]) -> list[Step]:
    """The same, with something beside the list."""
    rng, steps = random.Random(f"envelope {k}"), []
    for one in orders(k, 3):
        held = parse(one.content)["orders"]
        steps.append(step(one.tool, dict(one.arguments), {**around(held, rng), "orders": held}))
    return steps


def pages(k: int) -> list[Step]:
    """The same records for every word: the argument says nothing of them."""
    rng = random.Random(f"pages {k}")
    held = [{"order": f"O-{rng.randrange(10**6)}", "state": "paid"} for _ in range(3)]
    return [step("find", {"word": f"w{rng.randrange(99)}"}, {"orders": held}) for _ in range(4)]


def folder(k: int) -> list[Step]:
    """A record with a list of its own: whose it is, is no field of the items."""
    rng = random.Random(f"folder {k}")
    held = {f"F-{n}": [{"order": f"O-{rng.randrange(10**6)}"}] for n in rng.sample(range(1000, 9999), 3)}
    asked = [*held, *held]
    return [step("get_folder", {"number": f}, {"folder": f, "title": f"of {k % 7}", "orders": held[f]}) for f in asked]


def test_whose_the_records_of_a_list_are_is_what_the_call_says() -> None:
    rules, _ = induce({f"c{k}": orders(k) for k in range(60)})
    assert scopes(rules) == {"list_orders/orders[]": ("owner",)}
    found = [right(Engine(rules, {}), orders(k)) for k in range(500, 540)]
    assert all(one[2] and one[4] for one in found), "and no item shows it"
    for other in (pages, folder):
        assert not scopes(induce({f"c{k}": other(k) for k in range(60)})[0])


def counted(held: list[Any], rng: random.Random) -> dict[str, Any]:
    return {"message": "1 order" if len(held) == 1 else f"{len(held)} orders", "more": len(held) > 2}


def stamped(held: list[Any], rng: random.Random) -> dict[str, Any]:
    return {"status": "ok", "request": f"r{rng.randrange(10**6)}"}


def warned(held: list[Any], rng: random.Random) -> dict[str, Any]:
    return {"success": True, **({"warning": "slow"} if rng.random() < 0.02 else {})}


@pytest.mark.parametrize("around", [counted, stamped, warned])
def test_an_envelope_is_no_record_that_holds_the_list(around: Callable[..., dict[str, Any]]) -> None:
    rules, _ = induce({f"c{k}": enveloped(k, around) for k in range(60)})
    assert scopes(rules) == {"list_orders/orders[]": ("owner",)}


def in_one_language(k: int) -> list[Step]:
    """Each user speaks one language, and not every call says it."""
    rng = random.Random(f"language {k}")
    spoken = {"language": rng.choice(["en", "de", "fr", "es"])}
    return [
        Step(one.tool, {**one.arguments, **(spoken if at else {})}, one.content, one.outcome)
        for at, one in enumerate(orders(k))
    ]


def of_one_owner(k: int) -> list[Step]:
    """Each user asks for the orders of one owner alone."""
    first = orders(k)[0]
    return [first, first]


def test_what_stays_the_same_in_a_conversation_is_whose_the_records_are_only_if_it_is_an_id() -> None:
    for make in (in_one_language, of_one_owner):
        rules, facts = induce({f"c{k}": make(k) for k in range(60)})
        assert scopes(rules) == {"list_orders/orders[]": ("owner",)}


def account(k: int) -> list[Step]:
    """Orders that do not name their owner beside bills that do."""
    rng = random.Random(f"account {k}")
    owners = [f"CU-{rng.randrange(1000, 9999)}" for _ in range(3)]
    orders: dict[str, list[dict[str, Any]]] = {owner: [] for owner in owners}
    bills: dict[str, list[dict[str, Any]]] = {owner: [] for owner in owners}
    steps = []

    def buy(owner: str, state: str) -> None:
        order = {"order": f"O-{rng.randrange(10**5, 10**6)}", "state": state}
        bill = {"bill": f"B-{rng.randrange(10**5, 10**6)}", "amount": rng.randrange(5, 99), "owner": owner}
        orders[owner].append(order)
        bills[owner].append(bill)
        steps.append(step("buy", {"owner": owner, "state": state}, {"order": dict(order), "bill": dict(bill)}))

    for owner in owners:
        for _ in range(rng.randint(1, 3)):
            buy(owner, rng.choice(["paid", "sent"]))
    steps.clear()
    for owner in (*owners[:2], *owners[:2], *owners):
        body = {"orders": list(orders[owner]), "bills": list(bills[owner])}
        steps.append(step("account", {"owner": owner}, body))
        buy(owner, rng.choice(["paid", "sent"]))
    return steps


def test_another_list_of_the_tool_may_show_what_one_leaves_out() -> None:
    rules, facts = induce({f"c{k}": account(k) for k in range(60)})
    assert scopes(rules) == {"account/orders[]": ("owner",)}
    found = []
    for k in range(500, 510):
        session = Session(Engine(rules, facts))
        for one in account(k):
            shown = session.situation(one.tool, one.arguments).row.get("view/bills")
            found += [] if shown is None else [shown == parse(one.content)["bills"]]
            session.told(one.tool, one.arguments, one.content, one.outcome)
    assert len(found) >= 20 and all(found)


def test_an_empty_argument_is_nobody_and_takes_no_records_from_their_owners() -> None:
    site = Site("list", "items[]", "order", (KeyPart("field/id"),), ("id", "owner"), scoped=("owner",))
    view = View("items", site, {"owner": "owner"}, ("id",))
    store = Store(Layout(Schema(sites=(site,), views={"list": (view,)})))
    mine, yours = {"id": "1"}, {"id": "2"}
    store.absorb("list", {"owner": "A"}, {"items": [mine]}, "seen")
    store.absorb("list", {"owner": "B"}, {"items": [yours]}, "seen")
    store.absorb("list", {"owner": ""}, {"items": [mine, yours]}, "seen")
    assert store.viewed("list", view, {"owner": "A"}) == ([mine], 1)
    assert store.viewed("list", view, {"owner": ""}) == store.viewed("list", view, {}) == ([mine, yours], 2)
