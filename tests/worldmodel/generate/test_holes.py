"""Answers of which the rules leave something open."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from worldmodel.derive.engine import Derivation, Engine, Session
from worldmodel.derive.expressions import Const
from worldmodel.derive.rules import Effect, Form, Rules, ToolRules
from worldmodel.derive.schema import UNTIL_SHOWN, KeyPart, Link, Schema, Site
from worldmodel.derive.trees import Leaf
from worldmodel.generate.holes import Holes
from worldmodel.generate.shapes import Shapes
from worldmodel.steps import OK

KEY = (KeyPart("field/id"),)


class NothingInvented:
    pins = None

    def invents(self, type_: str) -> bool:
        return False


def listed(lags: dict[str, str]) -> Any:
    """What a list that the model wrote says of an order that was pending, and was then cancelled."""
    named = (Link("order", "order", (KeyPart("arg/id"),)),)
    sites = (Site("list", "items[]", "order", KEY, ("id", "status")), Site("get", "", "order", KEY, ("id", "status")))
    effect = Effect("order", "order", "status", Const("cancelled"), 9, 0)
    tools = {
        "cancel": ToolRules("cancel", 0, {}, Leaf({}), effects=(effect,)),
        "list": ToolRules("list", 0, {"ok": Form(OK, ())}, Leaf({"ok": 1})),
    }
    session = Session(Engine(Rules(Schema(sites, {"cancel": named}, lags=lags), tools, ("cancel",))))
    session.told("get", {"id": "1"}, '{"id":"1","status":"pending"}', OK)
    session.told("cancel", {"id": "1"}, '{"ok":true}', OK)
    holes: Any = Holes(NothingInvented(), None, Shapes(), 0)  # type: ignore[arg-type]
    written = Derivation(OK, '{"items":[{"id":"1","status":"lost"},{"id":"2","status":"open"}]}', "ok", "", 1.0)
    answer = asyncio.run(holes.fill(session, "list", {}, written, ()))
    return json.loads(answer.step.content)["items"]


def test_a_list_that_the_model_wrote_lags_as_a_derived_one_does() -> None:
    other = {"id": "2", "status": "open"}
    assert listed({}) == [{"id": "1", "status": "cancelled"}, other]
    assert listed({"list": UNTIL_SHOWN}) == [{"id": "1", "status": "pending"}, other]
