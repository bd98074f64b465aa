"""Texts that hold several values: lists of texts, tables and labelled lines are read as records, and written again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.packing import ITEMS, Packing
from worldmodel.derive.templates import SAYS
from worldmodel.derive.values import parse
from worldmodel.learn.induce import induce
from worldmodel.learn.schema.packing import learn_packing
from worldmodel.steps import OK, Step

FIRST = ("Amber", "Birch", "Cobalt", "Dusty", "Elder", "Fern")
SECOND = ("lamp", "chair", "desk", "rug", "shelf with hooks")


def goods(rng: random.Random, n: int) -> list[dict[str, Any]]:
    ids = rng.sample(range(100, 1000), n)
    return [
        {"sku": f"G-{k}", "name": f"{rng.choice(FIRST)} {rng.choice(SECOND)}", "left": rng.randrange(0, 120),
         "shelf": rng.choice("ABC") + str(rng.randrange(10, 40)), "state": rng.choice(("open", "on hold"))}
        for k in sorted(ids)
    ]  # fmt: skip


def pipes(one: dict[str, Any]) -> str:
    return f"{one['sku']} | {one['name']} | {one['left']} left"


def row(one: dict[str, Any]) -> str:
    return f"  {one['sku']:<8} {one['name']:<26} {one['left']:>4} {one['shelf']}"


def recorded(answer: Callable[[list[dict[str, Any]]], str], n: int = 60) -> dict[str, list[Step]]:
    """Conversations that list goods, read one, and take some of it."""
    found = {}
    for k in range(n):
        rng = random.Random(k)
        stock = goods(rng, rng.randrange(0 if k % 3 == 0 else 1, 5))
        steps = [Step("list_goods", {}, answer(stock), OK)]
        for one in rng.sample(stock, min(2, len(stock))):
            steps.append(Step("show", {"sku": one["sku"]}, json.dumps(one), OK))
            one["left"] += (more := rng.randrange(1, 9))
            steps.append(Step("add", {"sku": one["sku"], "n": more}, '{"done":true}', OK))
            steps.append(Step("list_goods", {}, answer(stock), OK))
        found[f"c{k}"] = steps
    return found


def in_json(stock: list[dict[str, Any]]) -> str:
    return json.dumps({"n": len(stock), "goods": [pipes(one) for one in stock]})


def in_table(stock: list[dict[str, Any]]) -> str:
    return "\n".join([f"{len(stock)} goods in stock:", *map(row, stock), "End of list."]) if stock else "No goods."


def in_line(stock: list[dict[str, Any]]) -> str:
    listed = "; ".join(f"{one['sku']} {one['name']} ({one['left']} left)" for one in stock)
    return f"In stock: {listed}." if stock else "Nothing is in stock."


def packing_of(answer: Callable[[list[dict[str, Any]]], str]) -> Packing:
    return learn_packing(recorded(answer))["list_goods"]


@pytest.mark.parametrize("answer", [in_json, in_table, in_line])
def test_texts_are_read_as_records_and_written_as_they_were(answer: Callable[[list[dict[str, Any]]], str]) -> None:
    packing = packing_of(answer)
    for k in range(500, 540):
        rng = random.Random(k)
        stock = goods(rng, rng.randrange(0, 6))
        body = parse(answer(stock))
        opened = packing.unpack(body)
        assert packing.pack(opened) == body
        if not stock and isinstance(opened, str):
            continue
        rows = opened["goods"] if answer is in_json else opened.get(ITEMS, [])
        assert [one["value0"] for one in rows] == [one["sku"] for one in stock]
        if rows:
            assert any(v == stock[0]["name"] for v in rows[0].values())
            assert any(v == stock[0]["left"] and not isinstance(v, str) for v in rows[0].values())


@pytest.mark.parametrize("answer", [in_json, in_table, in_line])
def test_rules_answer_with_such_texts_after_a_write(answer: Callable[[list[dict[str, Any]]], str]) -> None:
    engine = Engine(*induce(recorded(answer, 90)))
    right = asked = 0
    for k in range(900, 930):
        rng = random.Random(k)
        stock = goods(rng, rng.randrange(2, 5))
        session = Session(engine)
        session.told("list_goods", {}, answer(stock), OK)
        one = rng.choice(stock)
        seen = session.derive("show", {"sku": one["sku"]}, k)
        assert seen is not None and seen.known.get("name") == one["name"], "what a list shows of a record is its"
        session.told("show", {"sku": one["sku"]}, json.dumps(one), OK)
        session.told("add", {"sku": one["sku"], "n": 5}, '{"done":true}', OK)
        one["left"] += 5
        again = session.derive("list_goods", {}, k)
        asked += 1
        right += again is not None and again.content == (answer(stock) if answer is not in_json else compact(stock))
    assert right >= 0.9 * asked


def compact(stock: list[dict[str, Any]]) -> str:
    return json.dumps(json.loads(in_json(stock)), separators=(",", ":"))


def card(rng: random.Random, notes: list[str]) -> str:
    kind, state = rng.choice(("bug", "task")), rng.choice(("To Do", "Done"))
    lines = [f"T-{rng.randrange(10, 99)} {rng.choice(FIRST)} {rng.choice(SECOND)}", f"Kind: {kind} | State: {state}",
             f"Owner: {rng.choice(('ann', 'bob', 'cy'))}", f"Notes: {len(notes)}"]  # fmt: skip
    return "\n".join([*lines, *(f"  - {note} (day {k + 1})" for k, note in enumerate(notes))])


def test_labelled_lines_are_fields_and_a_list_below_them_may_be_empty() -> None:
    rng = random.Random(7)
    some = ("seen on site", "waits", "call back")
    texts = [card(rng, [rng.choice(some) for _ in range(rng.randrange(0, 4))]) for _ in range(60)]
    packing = learn_packing({f"c{k}": [Step("show", {}, text, OK)] for k, text in enumerate(texts)})["show"]
    assert len(packing.heads) == 1, "an empty list is no other form"
    for text in texts:
        opened = packing.unpack(text)
        assert packing.pack(opened) == text
        assert {"kind", "state", "owner", "notes", ITEMS} <= opened.keys()
        assert len(opened[ITEMS]) == opened["notes"] and opened["state"] in ("To Do", "Done")


def test_names_stay_whole_and_odd_texts_stay_texts() -> None:
    """A name that calls name as it is, is no record; a text of no known form is not read, and one that lacks a value is
    not written."""
    named = {
        f"c{k}": [Step("rooms", {}, json.dumps({"rooms": [f"{a} - {b}" for a in FIRST[:3] for b in SECOND[:3]]}), OK),
                  Step("enter", {"room": f"{FIRST[k % 3]} - {SECOND[k % 3]}"}, '{"ok":true}', OK)]
        for k in range(40)
    }  # fmt: skip
    assert "rooms" not in learn_packing(named)
    packing = packing_of(in_table)
    assert packing.unpack("Closed today.\nCome back.") == "Closed today.\nCome back."
    opened = packing.unpack(in_table(goods(random.Random(1), 3)))
    broken = {**opened, ITEMS: [{**opened[ITEMS][0], "value0": None}]}
    assert packing.pack(broken) is None and packing.pack({SAYS: "another", ITEMS: []}) is None
    assert packing_of(in_json).unpack({"goods": ["one", "two"]}) == {"goods": ["one", "two"]}


def test_what_is_not_clear_is_not_read() -> None:
    """A value that holds what parts values, a number that is none or would be written in another way, a row that is
    wider than its columns, a line that divides: the text stays as it is."""
    packing = packing_of(in_json)
    for odd in ("G-431 | Elder | Fern lamp | 3 left", "G-431 | Fern lamp | some left", "G-431 | Fern lamp | 007 left"):
        assert packing.unpack({"n": 1, "goods": [odd]}) == {"n": 1, "goods": [odd]}
    table = packing_of(in_table)
    for line in ("  G-4310000Fern lamp                   3 A10", "-" * 46, "  G-431    " + "x" * 40 + " 3 A10"):
        text = f"1 goods in stock:\n{line}\nEnd of list."
        opened = table.unpack(text)
        assert opened == text or table.pack(opened) == text and opened[ITEMS][0]["value0"] == "G-431"


def test_words_of_one_conversation_are_no_part_of_a_form() -> None:
    rng = random.Random(2)
    own = [f"G-{rng.randrange(100, 999)} | Wilhelmina Oberdorfer | {rng.randrange(9)} EUR" for _ in range(100)]
    found = {"c0": [Step("list", {}, json.dumps({"owed": own}), OK)]}
    found |= {f"c{k}": [Step("list", {}, json.dumps({"owed": [f"G-{k}00 | Bo Li | {k} EUR"]}), OK)] for k in (1, 2)}
    forms = [form for one in learn_packing(found).values() for of_path in one.lists.values() for form in of_path]
    assert not any("ilhelmina" in f"{form.template} {form.names}" for form in forms)


def test_prose_and_odd_answers_are_left_alone() -> None:
    rng = random.Random(5)
    words = ("good", "slow", "clean", "small", "warm", "fine", "late")
    prose = {
        f"c{k}": [Step("reviews", {}, json.dumps(["{} {}. {}.".format(*rng.choices(words, k=3))]), OK),
                  Step("about", {}, "\n".join(" ".join(rng.sample(words, 4)) for _ in range(rng.randrange(2, 5))), OK)]
        for k in range(40)
    }  # fmt: skip
    assert learn_packing(prose) == {}
    cards = {f"c{k}": [Step("show", {}, card(random.Random(k), []), OK)] for k in range(30)}
    cards["odd"] = [Step("show", {}, text, OK) for text in ("Nothing found.\nTry again later.", "", "\n", "a\r\nb: c")]
    packing = learn_packing(cards)["show"]
    for step in cards["odd"]:
        assert packing.unpack(step.content) == step.content


def test_a_tool_with_few_texts_borrows_the_forms_of_another() -> None:
    found = recorded(in_json)
    for k in range(3):
        stock = goods(random.Random(k), 1)
        found[f"c{k}"].append(Step("drop", {}, json.dumps({"dropped": [pipes(one) for one in stock]}), OK))
    packings = learn_packing(found)
    assert packings["drop"].lists["dropped"] == packings["list_goods"].lists["goods"]
