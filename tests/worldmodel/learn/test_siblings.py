"""Fields that follow from other fields of the same answer, where nothing else says them."""

from __future__ import annotations

import json
import random
from typing import Any

from worldmodel.derive.engine import Engine
from worldmodel.derive.expressions import Source
from worldmodel.derive.rules import OWN, Form, Rules, Slot, ToolRules
from worldmodel.derive.schema import Schema
from worldmodel.derive.trees import Leaf
from worldmodel.learn.rows import Rows
from worldmodel.learn.slots import Parts, with_siblings
from worldmodel.sentences import describe_tool

SIZE = 60


def boards(seed: int) -> dict[str, Any]:
    """What a stack of boards shows: its share hangs on two fields."""
    rng = random.Random(seed)
    room = rng.randrange(40, 90)
    count = rng.randrange(3, room)
    return {"boards": count, "room": room, "used_pct": round(100 * count / room, 1)}


ANSWERS = [boards(seed) for seed in range(SIZE)]


def parts() -> Parts:
    """Rows that say the boards and the room of a stack, but not its share."""
    known = [{"arg/stack": f"S{k}", "now/boards": a["boards"], "now/room": a["room"]} for k, a in enumerate(ANSWERS)]
    rows = Rows(known, [f"c{k}" for k in range(SIZE)])
    train, test = [k for k in range(SIZE) if k % 4], [k for k in range(SIZE) if not k % 4]
    return Parts(rows, rows.part(train), rows.part(test), train, test)


def learned(*known: Slot) -> list[Slot]:
    return with_siblings(known, {name: [a[name] for a in ANSWERS] for name in ANSWERS[0]}, parts(), False)


SURE = [Slot(name, Source(f"now/{name}"), SIZE) for name in ("boards", "room")]


def test_what_no_recipe_gives_follows_from_the_others() -> None:
    slots = learned(*SURE, Slot("used_pct", None))
    assert [slot.own for slot in slots] == [False, False, True]
    form = Form("ok", tuple(slots), n=SIZE)
    engine = Engine(Rules(Schema(), {"show": ToolRules("show", SIZE, {"ok": form}, Leaf({"ok": SIZE}))}, ()))
    new = boards(1000)
    session = engine.session()
    session.store.now.update(boards=new["boards"], room=new["room"])
    found = session.derive("show", {"stack": "S1000"}, 0, accidents=False)
    assert found is not None and found.content is not None
    assert json.loads(found.content) == {name: new[name] for name in ("boards", "room", "used_pct")}
    assert any("of this answer" in line for line in describe_tool(engine.rules.tools["show"]))


def test_what_is_not_sure_says_nothing_of_others() -> None:
    unsure = [SURE[0], Slot("room", Source("now/room"), SIZE // 2)]
    slots = learned(*unsure, Slot("used_pct", None))
    assert slots == [*unsure, Slot("used_pct", None)] and not any(OWN in repr(slot.expression) for slot in slots)
