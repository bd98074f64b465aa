"""Lists that show for a while what was before the last write."""

from __future__ import annotations

import json
import random
from typing import Any

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.expressions import Source
from worldmodel.derive.schema import NEXT_CALL, UNTIL_SHOWN
from worldmodel.derive.values import parse
from worldmodel.learn.induce import induce
from worldmodel.learn.recipes import find
from worldmodel.learn.rows import Rows
from worldmodel.steps import Step


def step(tool: str, arguments: dict[str, Any], body: Any) -> Step:
    return Step(tool, arguments, json.dumps(body), "ok")


def desk(k: int, lag: str = "") -> list[Step]:
    """Notes of a shelf: added, and listed at once, after another call, and again."""
    rng = random.Random(f"desk {k}")
    shelf = f"S-{rng.randrange(100, 999)}"

    def new() -> dict[str, Any]:
        return {"note": f"N-{rng.randrange(10**6)}", "colour": rng.choice(["red", "blue"])}

    notes = [new() for _ in range(rng.randint(1, 3))]
    before, answered, steps = list(notes), True, list[Step]()

    def listed() -> None:
        nonlocal answered
        late = lag == UNTIL_SHOWN and not answered or lag == NEXT_CALL and steps and steps[-1].tool == "add_note"
        answered = True
        shown = before if late else notes
        steps.append(step("list_notes", {"shelf": shelf}, {"notes": [dict(one) for one in shown]}))

    def add() -> None:
        nonlocal before, answered
        before, answered = list(notes), False
        one = new()
        notes.append(one)
        steps.append(step("add_note", {"shelf": shelf, "colour": one["colour"]}, {"added": True, **one}))

    def other() -> None:
        steps.append(step("get_shelf", {"shelf": shelf}, {"shelf": shelf, "open": True}))

    listed()
    add()
    for _ in range(rng.randint(0, 1)):
        other()
    listed()
    listed()
    return steps


def right(engine: Engine, steps: list[Step]) -> list[bool]:
    session, found = Session(engine), []
    for one in steps:
        got = session.derive(one.tool, one.arguments, 0, accidents=False)
        found.append(got is not None and got.content is not None and parse(got.content) == parse(one.content))
        session.told(one.tool, one.arguments, one.content, one.outcome)
    return found


def test_how_long_a_list_lags_is_learned() -> None:
    for lag in ("", UNTIL_SHOWN, NEXT_CALL):
        rules, facts = induce({f"c{k}": desk(k, lag) for k in range(80)})
        assert rules.schema.lags == ({"list_notes": lag} if lag else {})
        found = [right(Engine(rules, facts), desk(k, lag)) for k in range(500, 530)]
        assert all(one[-1] and one[-2] for one in found), lag


def test_a_stale_list_takes_back_nothing_that_was_written() -> None:
    rules, facts = induce({f"c{k}": desk(k, UNTIL_SHOWN) for k in range(80)})
    session, steps = Session(Engine(rules, facts)), desk(900, UNTIL_SHOWN)
    for one in steps[:-1]:
        session.told(one.tool, one.arguments, one.content, one.outcome)
    fork = session.fork()
    for each in (session, fork):
        got = each.derive(steps[-1].tool, steps[-1].arguments, 0, accidents=False)
        assert got is not None and parse(got.content or "") == parse(steps[-1].content)


def board(k: int) -> list[Step]:
    """Cards that move: the answer of the move shows the whole card, and the next list does not show the move."""
    rng = random.Random(f"board {k}")
    number = {"board": f"B-{rng.randrange(100, 999)}"}
    names = [f"C-{rng.randrange(10**6)}" for _ in range(rng.randint(2, 4))]
    cards = [{"card": name, "column": rng.choice(["new", "open"])} for name in names]
    steps = [step("list_cards", number, {"cards": [dict(one) for one in cards]})]
    for _ in range(2):
        stale, one = [dict(card) for card in cards], rng.choice(cards)
        one["column"] = rng.choice([name for name in ("new", "open", "done") if name != one["column"]])
        steps.append(step("move_card", {"card": one["card"], "column": one["column"]}, dict(one)))
        steps.append(step("list_cards", number, {"cards": stale}))
        for card in rng.sample(cards, 2):
            steps.append(step("get_card", {"card": card["card"]}, dict(card)))
        steps.append(step("list_cards", number, {"cards": [dict(card) for card in cards]}))
    return steps


def test_a_stale_list_takes_back_nothing_that_the_answer_of_a_write_showed() -> None:
    rules, facts = induce({f"c{k}": board(k) for k in range(60)})
    assert rules.schema.lags == {"list_cards": UNTIL_SHOWN}
    one, other = {"card": "C-1", "column": "open"}, {"card": "C-2", "column": "new"}
    moved, left = {**one, "column": "done"}, {**other, "column": "done"}
    session = Session(Engine(rules, facts))
    for tool, arguments, body in (
        ("list_cards", {"board": "B-1"}, {"cards": [one, other]}),
        ("move_card", moved, moved),
        ("list_cards", {"board": "B-1"}, {"cards": [one, other]}),
        ("move_card", left, left),
        ("list_cards", {"board": "B-1"}, {"cards": [moved, other]}),
    ):
        session.told(tool, arguments, json.dumps(body), "ok")
    got = session.derive("list_cards", {"board": "B-1"}, 0, accidents=False)
    assert got is not None and parse(got.content or "") == {"cards": [moved, left]}


def test_what_a_list_is_selected_from_may_be_wrong_more_often_than_other_sources() -> None:
    rng = random.Random("shelves")
    whole = [[{"note": rng.randrange(10**6)} for _ in range(rng.randint(1, 4))] for _ in range(60)]
    for share, used in ((0.7, True), (0.4, False)):
        part = [notes if rng.random() < share else notes[1:] for notes in whole]
        for name, good in (("among/notes", used), ("arg/notes", False)):
            found = find(Rows([{name: notes} for notes in part], [f"c{k}" for k in range(60)]), whole)
            assert bool(found and found.support) == good, (share, name)
            assert not found or not good or found.expression == Source(name) and 0.5 <= found.precision < 0.9
