"""Keys of two parts, one field under two names, keys that make a call idempotent, and tries that are counted."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.layout import Layout
from worldmodel.derive.store import Store
from worldmodel.derive.trees import leaf_of
from worldmodel.learn.columns import Table
from worldmodel.learn.conversations import learn_transient
from worldmodel.learn.guards import grow
from worldmodel.learn.induce import induce
from worldmodel.learn.schema.links import learn_links
from worldmodel.learn.schema.records import learn_schema
from worldmodel.learn.schema.repeats import learn_repeats
from worldmodel.steps import OK, Step, outcome_of

ROOMS = ["hall", "attic", "cellar"]
DAYS = ["2026-05-01", "2026-05-02", "2026-05-03"]


def desk(k: int, length: int = 14) -> list[Step]:
    """Free times by room and day, and visits that are booked there once for each request."""
    rng = random.Random(f"desk {k}")
    free = {(room, day): rng.sample(range(9, 18), 3) for room in ROOMS for day in DAYS}
    visits: dict[str, dict[str, Any]] = {}
    asked: dict[str, str] = {}
    steps = []
    for _ in range(length):
        room, day = rng.choice(ROOMS), rng.choice(DAYS)
        tool = rng.choice(["times", "times", "book", "mine", "visit" if visits else "times"])
        arguments: dict[str, Any] = {"room": room, "day": day}
        body: Any = {"room": room, "day": day, "times": list(free[(room, day)])}
        if tool == "book":
            request = rng.choice(list(asked)) if asked and rng.random() < 0.35 else f"rq-{rng.randrange(10**6)}"
            arguments |= {"who": rng.choice(["ann", "bob"]), "request": request}
            repeated = request in asked
            if not repeated:
                asked[request] = f"V-{rng.randrange(1000, 9999)}"
                visits[asked[request]] = {"room": room, "when": {"day": day}, "who": arguments["who"],
                                           "cost": rng.randrange(99)}  # fmt: skip
            body = {"visit": {"id": asked[request], **visits[asked[request]]}, "repeated": repeated}
        elif tool == "visit":
            arguments = {"id": rng.choice(list(visits))}
            body = {"visit": {**arguments, **visits[arguments["id"]]}}
        elif tool == "mine":
            arguments = {"who": rng.choice(["ann", "bob"])}
            own = [v for v, visit in visits.items() if visit["who"] == arguments["who"]]
            body = {"who": arguments["who"], "visits": [_brief(v, visits[v]) for v in own]}
        steps.append(Step(tool, arguments, json.dumps(body), OK))
    return steps


def _brief(visit: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"id": visit, "day": fields["when"]["day"], "cost": fields["cost"]}


def test_what_calls_name_together_is_one_key() -> None:
    schema = learn_schema({f"c{k}": desk(k) for k in range(60)})
    (times,) = [site for site in schema.sites if site.tool == "times" and not site.path]
    assert {part.source for part in times.keys} == {"field/room", "field/day"}


def test_two_names_of_one_field_are_one_field() -> None:
    conversations = {f"c{k}": desk(k) for k in range(60)}
    schema = learn_links(conversations, learn_schema(conversations))
    store = Store(Layout(schema))
    visit = {"id": "V-1", "room": "hall", "when": {"day": DAYS[0]}, "who": "ann", "cost": 5}
    store.absorb("book", {}, {"visit": visit, "repeated": False}, "seen")
    type_ = next(site.type for site in schema.sites if site.tool == "book" and site.path == "visit")
    (shown,) = store.all_of(type_, 60)
    assert shown["day"] == shown["when.day"] == DAYS[0]


def test_a_list_and_its_length_under_one_name_are_two_fields() -> None:
    def make(k: int) -> list[Step]:
        steps, notes = [], {f"T{k}{j}": [f"n{k}{j}{i}" for i in range((k + j) % 4)] for j in range(6)}
        for n, (ticket, said) in enumerate([*notes.items()] * 2):
            answer, tool = ({"id": ticket, "notes": said}, "ticket") if n % 6 < 3 else ({"notes": len(said)}, "summary")
            steps.append(Step(tool, {"id": ticket}, json.dumps(answer), OK))
        return steps

    engine = Engine(*induce({f"c{k}": make(k) for k in range(20)}))
    session = engine.session()
    session.told("ticket", {"id": "T900"}, json.dumps({"id": "T900", "notes": ["a", "b"]}), OK)
    session.told("summary", {"id": "T900"}, json.dumps({"id": "T900", "notes": 2}), OK)
    for tool, notes in (("ticket", ["a", "b"]), ("summary", 2)):
        found = session.derive(tool, {"id": "T900"})
        assert found is not None and json.loads(str(found.content))["notes"] == notes


def test_a_key_used_again_gets_the_first_answer_again() -> None:
    conversations = {f"c{k}": desk(k) for k in range(60)}
    assert learn_repeats(conversations) == {"book": ("request",)}


def lock(k: int, length: int = 10) -> list[Step]:
    rng = random.Random(f"lock {k}")
    tries: dict[str, int] = {}
    steps = []
    for _ in range(length):
        door, code = rng.choice(["d10", "d11"]), f"{rng.randrange(1000, 9999)}"
        tries[door] = tries.get(door, 0) + 1
        text = f"wrong code, {4 - tries[door]} tries left" if tries[door] < 4 else "the door is locked"
        steps.append(Step("enter", {"door": door, "code": code}, text, outcome_of(text, True, "")))
    return steps


def test_refusals_on_the_same_are_counted() -> None:
    rules, facts = induce({f"c{k}": lock(k) for k in range(50)})
    session = Session(Engine(rules, facts))
    right = 0
    for step in lock(99):
        answer = session.derive(step.tool, step.arguments, 1, accidents=False)
        right += answer is not None and answer.content == step.content
        session.told(step.tool, step.arguments, step.content, step.outcome)
    assert right >= 9, right


def test_the_id_of_an_object_inside_is_not_the_key_of_an_item() -> None:
    """A member has one wait for each book, so both ids tell waits apart; `reserve` names the book and makes a wait."""

    def waits(k: int) -> list[Step]:
        rng = random.Random(f"waits {k}")
        held = {f"W{rng.randrange(1000)}": n for n in rng.sample(range(20), 3)}
        books = {n: {"id": f"B{n}", "title": f"Title {n * 7 % 20}"} for n in held.values()}
        items = [{"wait_id": w, "book": books[n], "state": "waiting", "place": rng.randint(1, 3)}
                 for w, n in held.items()]  # fmt: skip
        steps = [Step("mine", {"member": f"M{k}"}, json.dumps({"member": f"M{k}", "waits": items}), OK)]
        for book in books.values():
            steps.append(Step("book", {"book": book["id"]}, json.dumps({**book, "shelf": len(book["title"])}), OK))
        new = next(n for n in range(20) if n not in books)
        made = {"wait_id": f"W{rng.randrange(1000)}", "book": {"id": f"B{new}", "title": f"Title {new * 7 % 20}"}}
        steps.append(Step("reserve", {"book": f"B{new}"}, json.dumps({"wait": {**made, "place": 1}, "fee": 0}), OK))
        items.append({**made, "state": "waiting", "place": 1})
        steps.append(Step("mine", {"member": f"M{k}"}, json.dumps({"member": f"M{k}", "waits": items}), OK))
        for item in items[::2]:
            body = {"wait_id": item["wait_id"], "book": item["book"], "state": "cancelled", "was": item["state"]}
            steps.append(Step("cancel", {"wait": item["wait_id"]}, json.dumps(body), OK))
        return steps

    conversations = {f"c{k}": waits(k) for k in range(40)}
    schema = learn_schema(conversations)
    (site,) = [s for s in schema.sites if s.tool == "mine" and s.path == "waits[]"]
    assert [part.source for part in site.keys] == ["field/wait_id"]
    links = learn_links(conversations, schema).links["cancel"]
    assert any(link.type == site.type for link in links)


def clinic(k: int) -> list[Step]:
    """A file is opened, and `pay` acts on it without naming it. `free` is asked by day and room."""
    rng = random.Random(f"clinic {k}")
    owed = {f"P-{rng.randrange(9999)}": rng.randrange(50, 99) for _ in range(2)}
    free = {(room, day): rng.randrange(9) for room in "AB" for day in DAYS[:3]}
    steps = []
    days = rng.sample(DAYS, 2)
    for person, day in zip(owed, days, strict=True):
        steps.append(Step("open", {"person": person}, json.dumps({"person": person, "owed": owed[person]}), OK))
        for paid in (5, 7):
            owed[person] -= paid
            steps.append(Step("pay", {"sum": paid}, json.dumps({"person": person, "owed": owed[person]}), OK))
        room = rng.choice("AB")
        body = {"day": day, "free": free[room, day], "first": f"{free[room, day] + 8}:00"}
        steps.append(Step("free", {"day": day, "room": room}, json.dumps(body), OK))
    return steps


def test_the_record_that_was_opened_is_a_record_of_calls_that_do_not_name_it() -> None:
    conversations = {f"c{k}": clinic(k) for k in range(60)}
    schema = learn_links(conversations, learn_schema(conversations))
    (opened,) = [site.type for site in schema.sites if site.tool == "open" and not site.path]
    (link,) = [link for link in schema.links["free"] if link.type == opened]
    assert link.chosen and [part.source for part in link.keys] == ["now/person"]


def test_a_day_alone_is_no_key() -> None:
    schema = learn_schema({f"c{k}": clinic(k) for k in range(60)})
    (site,) = [site for site in schema.sites if site.tool == "free" and not site.path]
    assert {part.source.partition("/")[2] for part in site.keys} == {"day", "room"}


@pytest.mark.parametrize(("outcome", "passes"), [
    ("service_unavailable", True), ("rate_limited", True), ("connectionerror", True), ("gateway_timeout", True),
    ("slot_unavailable", False), ("too_many_bookings", False), ("corporate_rate_closed", False),
])  # fmt: skip
def test_only_errors_about_the_system_pass_by_their_name(outcome: str, passes: bool) -> None:
    steps = [Step("book", {"n": 1}, "no", outcome), Step("look", {}, "yes", OK)]
    assert learn_transient({"c": steps}) == ({("book", outcome)} if passes else set())


def test_checks_that_follow_each_other_are_learned_from_fewer_calls() -> None:
    """Trees that may be grown as checks in order are right more often on new calls, and in no case less often."""

    def drawn(seed: int, size: int) -> list[dict[str, int]]:
        rng = random.Random(seed)
        return [{f"rec/p/{name}": rng.randrange(10) for name in "abcdef"} for _ in range(size)]

    def said(row: dict[str, int]) -> str:
        a, b, c, d, e = (row[f"rec/p/{name}"] for name in "abcde")
        checks = {"blocked": a >= 8, "owes": b < 2, "full": c == 3, "late": d >= 8, "closed": e < 1}
        return next((name for name, holds in checks.items() if holds), "ok")

    gains = []
    for seed in range(6):
        rows, new = drawn(seed, 80), drawn(100 + seed, 400)
        trees = [grow(Table(rows), [said(row) for row in rows], checks=checks) for checks in (False, True)]
        plain, ordered = (sum(leaf_of(tree, row)[0].best()[0] == said(row) for row in new) for tree in trees)
        gains.append(ordered - plain)
    assert min(gains) >= 0 and sum(gains) >= 30
