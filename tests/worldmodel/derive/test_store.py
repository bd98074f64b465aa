"""What a store makes of answers that say less, or other things, than they seem to."""

from __future__ import annotations

import json
from typing import Any

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.expressions import Const, Expression, Source
from worldmodel.derive.layout import Layout
from worldmodel.derive.rules import Effect, Rules, ToolRules
from worldmodel.derive.schema import CLOCK, EPISODE, UNTIL_SHOWN, KeyPart, Link, Schema, Site, View
from worldmodel.derive.store import ANSWERS, Store
from worldmodel.derive.trees import Leaf
from worldmodel.derive.values import UNKNOWN, unflatten
from worldmodel.steps import call_key

ORDER = (KeyPart("field/id"),)
LISTED = Site("list", "items[]", "order", ORDER, ("id", "status"))
PENDING, CANCELLED = {"id": "1", "status": "pending"}, {"id": "1", "status": "cancelled"}


def lagging(effect: Expression | None) -> Session:
    """A session with a list that lags behind `cancel`, which has this effect on the status."""
    named = (Link("order", "order", (KeyPart("arg/id"),)),)
    schema = Schema(
        sites=(LISTED, *(Site(tool, "", "order", ORDER, ("id", "status")) for tool in ("get", "cancel"))),
        links={"get": named, "cancel": named},
        views={"list": (View("items", LISTED, {}, ("id", "status")),)},
        lags={"list": UNTIL_SHOWN},
    )
    effects = () if effect is None else (Effect("order", "order", "status", effect, 9, 0),)
    tools = {"cancel": ToolRules("cancel", 0, {}, Leaf({}), effects=effects)}
    return Session(Engine(Rules(schema, tools, ("cancel",))))


def tell(session: Session, tool: str, body: Any, **arguments: Any) -> None:
    session.told(tool, arguments, json.dumps(body), "ok")


def test_a_list_that_lags_takes_back_nothing() -> None:
    unknown = Source("arg/nothing")
    for effect, answer, status in (
        (None, CANCELLED, "cancelled"),
        (Const("cancelled"), CANCELLED, "cancelled"),
        (Const("cancelled"), {"ok": True}, "cancelled"),
        (unknown, {"ok": True}, UNKNOWN),
    ):
        session = lagging(effect)
        tell(session, "list", {"items": [PENDING]})
        for _ in range(2):
            tell(session, "cancel", answer, id="1")
            tell(session, "list", {"items": [PENDING]})
            assert session.store.get("order", ("1",), "status") == status
        tell(session, "get", CANCELLED, id="1")
        assert session.store.get("order", ("1",), "status") == "cancelled"


def test_a_list_that_lags_does_not_contradict_what_was_read_since_the_write() -> None:
    session = lagging(None)
    tell(session, "list", {"items": [PENDING]})
    tell(session, "cancel", {"ok": True}, id="1")
    tell(session, "get", CANCELLED, id="1")
    tell(session, "list", {"items": [PENDING]})
    assert session.store.get("order", ("1",), "status") == "cancelled"


def shown(items: list[Any], **more: Any) -> Any:
    """What is known of a list after it was shown."""
    view = View("items", LISTED, {}, ("id",), **more)
    store = Store(Layout(Schema(sites=(LISTED,), views={"list": (view,)})))
    store.absorb("list", {}, {"items": items}, "seen")
    return store.viewed("list", view, {})


def test_an_order_by_the_last_word_is_not_known_of_numbers() -> None:
    for order in ("~status", "-~status"):
        items = [{"id": "1", "status": "a z"}, {"id": "2", "status": "b a"}]
        assert shown(items, order=(order,)) == (items if order[0] == "-" else items[::-1], 2)
        assert shown([{"id": "1", "status": 7}, {"id": "2", "status": 9}], order=(order,)) is None


def test_a_list_with_one_key_twice_is_not_known_as_a_whole() -> None:
    items = [{"id": "1", "status": "a"}, {"id": "1", "status": "b"}]
    assert shown(items[:1]) == (items[:1], 1) and shown(items) is None
    view = View("items", LISTED, {}, ("id",))
    for some in (items[:1], items):
        facts = {
            (f"{ANSWERS}list", (call_key("list", {}),)): {"outcome": "ok", "content": json.dumps({"items": some})},
            ("order", ("1",)): items[0],
        }
        store = Store(Layout(Schema(sites=(LISTED,), views={"list": (view,)})), facts)
        assert store.viewed("list", view, {}) == ((some, 1) if len(some) == 1 else None)


def test_what_a_tool_called_today_says_is_not_the_date() -> None:
    schema = Schema(sites=(Site("today", "", EPISODE, (), ("",)),), clock={"pay": ("paid_on",)})
    session = Session(Engine(Rules(schema, {}, ())))
    tell(session, "pay", {"paid_on": "2025-03-04"})
    tell(session, "today", "Tuesday")
    for number in range(30):  # more than a situation shows of the session
        tell(session, "look", {f"field {number}": number})
    now = {name: value for name, value in session.situation("pay", {}).row.items() if name.startswith("now/=")}
    assert now == {f"now/{CLOCK}": "2025-03-04"} and session.store.now["=today"] == "Tuesday"


def test_to_look_at_a_record_changes_none_of_its_values() -> None:
    """A map that one tool shows, and an item of it that another one shows."""
    listed = Site("list", "items[]", "shop", ORDER, ("id", "prices", "prices.red"))
    whole = Site("get", "", "shop", ORDER, ("id", "prices"))
    part = Site("look", "", "shop", ORDER, ("id", "prices.red"))
    schema = Schema(
        sites=(listed, whole, part),
        links={"get": (Link("shop", "shop", (KeyPart("arg/id"),)),)},
        views={"list": (View("items", listed, {}, ("id",)),)},
    )
    session = Session(Engine(Rules(schema, {}, ())))
    tell(session, "list", {"items": [{"id": "1"}]})
    tell(session, "get", {"id": "1", "prices": {}}, id="1")
    tell(session, "look", {"id": "1", "prices": {"red": 5}}, id="1")
    row = session.situation("get", {"id": "1", "colour": "red"}).row
    assert row["pick/shop/prices/colour"] == 5
    assert session.situation("list", {}).row["view/items"] == [{"id": "1", "prices": {"red": 5}}]
    assert session.store.get("shop", ("1",), "prices") == session.fork().store.get("shop", ("1",), "prices") == {}


def test_an_object_is_built_of_copies() -> None:
    inner = {"b": {}}
    assert unflatten({"a": inner, "a.b.c": 1, "a.d": 2}) == {"a": {"b": {"c": 1}, "d": 2}}
    assert inner == {"b": {}}
