"""What a store makes of answers that say less, or other things, than they seem to."""

from __future__ import annotations

import json
from typing import Any

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.expressions import Const, Expression, Source
from worldmodel.derive.rules import Effect, Rules, ToolRules
from worldmodel.derive.schema import UNTIL_SHOWN, KeyPart, Link, Schema, Site, View
from worldmodel.derive.trees import Leaf
from worldmodel.derive.values import UNKNOWN

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
