"""What a recording says of a record that it wrote to before it read it: all that the write does not change."""

from __future__ import annotations

import json

from worldmodel.derive.engine import Engine
from worldmodel.learn.induce import induce
from worldmodel.steps import OK, Step
from worldmodel.world import Grounding


def show(number: int, state: str) -> Step:
    body = {"crate": f"K-{number}", "state": state, "kilos": number % 89, "owner": f"U{number * 7}"}
    return Step("show_crate", {"crate": f"K-{number}"}, json.dumps(body))


def move(number: int) -> Step:
    return Step("move_crate", {"crate": f"K-{number}"}, '{"ok":true}')


def test_a_read_after_a_write_says_what_the_write_left_alone() -> None:
    recorded = {f"c{k}": [show(k, "stored"), move(k), show(k, "moved")] for k in range(2000, 2040)}
    engine = Engine(*induce(recorded))
    session = Grounding((move(2500), show(2500, "moved"))).session(engine)
    (mark,) = [m for m in session.store.records if m[1] == ("K-2500",)]
    known = session.store.fields(*mark)
    assert known["kilos"] == 2500 % 89 and known["owner"] == f"U{2500 * 7}"
    assert "state" not in known, "before the move it was something else"
    session.told("move_crate", {"crate": "K-2500"}, '{"ok":true}', OK)
    answer = session.derive("show_crate", {"crate": "K-2500"})
    assert answer is not None and answer.content is not None
    assert json.loads(answer.content) == json.loads(show(2500, "moved").content)
