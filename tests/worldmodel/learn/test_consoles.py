"""Kinds of tools that companies run behind agents: parts of a record that an argument names, refusals in sentences,
records two envelopes deep, validation. Each system is small, and its names say nothing of the code's."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.expressions import Linear
from worldmodel.derive.functions import apply
from worldmodel.derive.rules import Law, decode, encode
from worldmodel.derive.schema import Expected
from worldmodel.derive.situation import oddities
from worldmodel.derive.templates import fill
from worldmodel.derive.trees import Split, Test, leaf_of
from worldmodel.derive.values import dumps
from worldmodel.learn.columns import Table
from worldmodel.learn.forms import draft_forms
from worldmodel.learn.guards import grow, grow_guard
from worldmodel.learn.induce import induce
from worldmodel.learn.schema.arguments import learn_expected
from worldmodel.learn.search.formulas import novel
from worldmodel.steps import OK, Step, outcome_of

Conversation = list[Step]


def step(tool: str, arguments: dict[str, Any], body: Any) -> Step:
    content = body if isinstance(body, str) else json.dumps(body)
    return Step(tool, arguments, content, outcome_of(content, None, ""))


def learned(make: Callable[[int], Conversation], n: int) -> Engine:
    return Engine(*induce({f"c{k}": make(k) for k in range(n)}))


def replayed(engine: Engine, steps: Conversation) -> list[bool]:
    """Of each call, whether the rules alone answer as the system does."""
    session, right = Session(engine), []
    for one in steps:
        answer = session.derive(one.tool, one.arguments, 0, accidents=False)
        right.append(answer is not None and answer.content is not None and same(answer.content, one.content))
        session.told(one.tool, one.arguments, one.content, one.outcome)
    return right


def same(one: str, other: str) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return one == other


# ----- parts of a record, limits by kind, validation

MOST = {"small": 5, "large": 20}


def stages(k: int) -> Conversation:
    """A unit with two stages is scaled in one of them, up to what its tier allows."""
    rng = random.Random(f"stages {k}")
    name, tier = f"{rng.choice(['ore', 'tin', 'zinc'])}-{rng.choice(['mill', 'press', 'kiln'])}", rng.choice([*MOST])
    copies = {stage: rng.randint(1, 4) for stage in ("live", "test")}
    each = {stage: rng.choice([100, 250]) for stage in copies}

    def look() -> Step:
        parts = {s: {"copies": copies[s], "load": {"each": each[s], "all": copies[s] * each[s]}} for s in copies}
        return step("look", {"unit": name}, {"unit": name, "tier": tier, "stages": parts})

    def scale(arguments: dict[str, Any]) -> Step:
        missing = next((n for n in ("unit", "stage", "copies") if n not in arguments), None)
        if missing is not None:
            return step("scale", arguments, {"error": "invalid", "details": [f"{missing}: is required"]})
        if arguments["stage"] not in copies:
            return step("scale", arguments, {"error": "invalid", "details": ["stage: must be one of live|test"]})
        if arguments["copies"] > MOST[tier]:
            text = f"{tier} units run at most {MOST[tier]} copies"
            return step("scale", arguments, {"error": "limit", "message": text, "most": MOST[tier]})
        before, copies[arguments["stage"]] = copies[arguments["stage"]], arguments["copies"]
        return step("scale", arguments, {"unit": name, "from": before, "to": arguments["copies"]})

    steps = [look()]
    for _ in range(3):
        arguments = {"unit": name, "stage": rng.choice(["live", "test"]), "copies": rng.choice([2, 3, 4, 6, 7, 9])}
        wrong = rng.random()
        if wrong < 0.12:
            del arguments[rng.choice([*arguments])]
        elif wrong < 0.2:
            arguments["stage"] = rng.choice(["prod", "dev", "main"])
        steps += [scale(arguments), look()]
    return steps


def test_an_argument_names_a_part_of_a_record_and_limits_differ_by_kind() -> None:
    engine = learned(stages, 120)
    told = [one for k in range(500, 530) for one in stages(k)[1:]]
    right = [ok for k in range(500, 530) for ok in replayed(engine, stages(k))[1:]]
    for kind in (OK, "limit", "invalid"):
        of = [ok for one, ok in zip(told, right, strict=True) if one.outcome == kind]
        assert len(of) >= 5 and sum(of) >= 0.95 * len(of), kind


def test_what_is_odd_about_arguments_has_a_name() -> None:
    expected = (Expected("unit", True, "string"), Expected("stage", True, "string", ("live", "test")),
                Expected("copies", True, "integer"), Expected("note", False, "string"))  # fmt: skip
    assert oddities({"unit": "a", "stage": "live", "copies": 2.0}, expected) == {}
    assert oddities({"stage": "dev"}, expected) == {"odd/missing": "unit", "odd/option": "stage"}
    assert oddities({"unit": 3, "stage": None, "copies": "2"}, expected) == {
        "odd/type": "unit", "odd/wanted": "string", "odd/missing": "stage",
    }  # fmt: skip


# ----- sentences with names in them, some of which refuse

PEOPLE = ("Ada Okafor", "Bo Lindqvist", "Cy Moreau", "Di Fontana")


def clerk(k: int) -> Conversation:
    """A clerk puts people on courses and says so in sentences; a refusal is a sentence like any other."""
    rng = random.Random(f"clerk {k}")
    number, name = f"p{rng.randrange(1000, 9999)}", rng.choice(PEOPLE)
    taken = rng.sample(["art", "law", "math"], rng.randint(0, 2))
    full = rng.choice(["tax", "bio"])

    def show() -> Step:
        return step("person", {"id": number}, {"id": number, "name": name, "courses": list(taken), "n": len(taken)})

    def add(course: str) -> Step:
        arguments = {"id": number, "course": course}
        if course == full:
            return step("add", arguments, f"The course {course} is full.")
        if course in taken:
            return step("add", arguments, f"{name} takes {course} already.")
        taken.append(course)
        return step("add", arguments, f"Added {name} to {course}; {len(taken)} courses now.")

    steps = [show()]
    for _ in range(3):
        steps += [add(rng.choice(["art", "law", "math", "tax", "bio"])), show()]
    return steps


def test_a_refusal_in_a_sentence_changes_nothing_and_names_are_no_words_of_it() -> None:
    engine = learned(clerk, 120)
    said = {s.template for s in engine.rules.schema.texts["add"]}
    assert not any(name in text for name in PEOPLE for text in said)
    inert = engine.rules.schema.inert["add"]
    assert any("is full" in text for text in inert) and not any("Added" in text for text in inert)
    shown = [ok for k in range(500, 530) for ok in replayed(engine, clerk(k))[2::2]]
    assert sum(shown) >= 0.9 * len(shown)
    added = [(one, ok) for k in range(500, 530) for one, ok in zip(clerk(k), replayed(engine, clerk(k)), strict=True)
             if one.content.startswith("Added")]  # fmt: skip
    assert added and sum(ok for _, ok in added) >= 0.7 * len(added), "a course may be full that nobody has asked about"


# ----- records two envelopes deep, with something beside them


def cards(k: int) -> Conversation:
    """A customer's cards, each shown alone as well, and how many of them are in use."""
    rng = random.Random(f"cards {k}")
    owner, day = f"C-{rng.randrange(10000, 99999)}", f"2025-0{rng.randint(1, 9)}-11"
    numbers = [f"crd_{rng.randrange(36**5):x}" for _ in range(rng.randint(1, 3))]
    held = {number: rng.choice(["active", "active", "frozen"]) for number in numbers}

    def told(tool: str, arguments: dict[str, Any], data: Any) -> Step:
        return step(tool, arguments, {"ok": True, "data": data, "meta": {"as_of": day}})

    def customer() -> Step:
        shown = [{"card": c, "state": s, "brand": "visa"} for c, s in held.items()]
        data = {"customer": {"id": owner, "tier": "plus"}, "cards": shown, "in_use": [*held.values()].count("active")}
        return told("customer", {"id": owner}, data)

    def card(number: str) -> Step:
        one = {"card": number, "state": held[number], "brand": "visa", "usable": held[number] == "active"}
        return told("card", {"card": number}, {"card": one})

    def block(number: str) -> Step:
        held[number] = "blocked"
        return told("block", {"card": number}, {"card": number, "state": "blocked"})

    number = rng.choice([*held])
    return [customer(), card(number), block(number), card(number), customer()]


def test_records_two_envelopes_deep_are_one_type_and_counts_follow_their_states() -> None:
    engine = learned(cards, 80)
    sites = {(s.tool, s.path): s.type for s in engine.rules.schema.sites}
    assert sites[("card", "data.card")] == sites[("customer", "data.cards[]")] == sites[("block", "data")]
    right = [replayed(engine, cards(k)) for k in range(500, 520)]
    assert all(one[3] and one[4] for one in right), "the card and the number of active cards after a block"


# ----- parts of an answer that are shown on request


def bills(k: int) -> Conversation:
    """A stay whose bill is shown only where the call asks for it."""
    rng = random.Random(f"bills {k}")
    code, room, total = f"R{rng.randrange(1000, 9999)}", rng.randrange(100, 400), rng.randrange(50, 900)

    def stay(whole: bool) -> Step:
        shown = {"code": code, "room": room} | ({"bill": {"total": total, "paid": total // 2}} if whole else {})
        return step("stay", {"code": code} | ({"bill": True} if whole else {}), shown)

    return [stay(rng.random() < 0.6), stay(rng.random() < 0.4), stay(rng.random() < 0.6)]


def test_what_a_call_did_not_ask_for_is_not_absent() -> None:
    engine = learned(bills, 80)
    assert engine.rules.schema.asked == {"stay": {"bill.total": "bill", "bill.paid": "bill"}}
    steps = next(s for k in range(500, 900) for s in [bills(k)] if ["bill" in one.arguments for one in s] == [1, 0, 1])
    assert replayed(engine, steps)[1:] == [True, True]


# ----- the parts


def test_a_rule_that_shows_where_a_record_is_known_is_learned_from_those_calls() -> None:
    rng = random.Random(2)
    rows, labels = [], []
    for _ in range(240):
        known, tier, amount = rng.random() < 0.5, rng.choice("abc"), rng.randint(1, 9)
        most = {"a": 3, "b": 5, "c": 7}[tier]
        labels.append("no" if amount > most else "yes")
        row: dict[str, Any] = {"arg/amount": amount, "known/r": known}
        rows.append({**row, "rec/r/tier": tier} if known else row)
    tree = grow_guard(Table(rows), labels, range(len(rows)), [f"c{i}" for i in range(len(rows))])
    seen = [i for i, row in enumerate(rows) if row["known/r"]]
    assert sum(leaf_of(tree, rows[i])[0].best()[0] == labels[i] for i in seen) >= 0.95 * len(seen)


def test_a_list_that_has_an_item_of_some_kind_decides() -> None:
    rng = random.Random(3)
    rows, labels = [], []
    for _ in range(80):
        held = rng.sample(["fee", "book", "form"], rng.randint(0, 2))
        labels.append("blocked" if "fee" in held else "done")
        rows.append({"arg/n": rng.randint(1, 9), "rec/r/holds": [{"type": kind, "since": "May"} for kind in held]})
    tree = grow(Table(rows), labels)
    assert isinstance(tree, Split) and tree.test == Test("rec/r/holds", "has", "fee")
    for row, label in zip(rows, labels, strict=True):
        assert leaf_of(tree, row)[0].counts == {label: labels.count(label)}


@pytest.mark.parametrize("as_json", [False, True])
def test_texts_that_differ_in_a_value_of_the_call_s_records_are_one(as_json: bool) -> None:
    rng = random.Random(4)
    steps, rows = [], []
    for k in range(40):
        tier, most = rng.choice([("small", 5), ("large", 20)])
        text = f"{tier} units run at most {most} copies"
        content = json.dumps({"error": "limit", "message": text}) if as_json else text
        steps.append(Step("scale", {"n": k}, content, "limit"))
        rows.append({"arg/n": k, "rec/unit/tier": tier})
    drafts, _ = draft_forms(steps, rows, frozenset())
    assert [len(draft.at) for draft in drafts] == [40]
    assert drafts[0].slots["0"] == [row["rec/unit/tier"] for row in rows]


@pytest.mark.parametrize("as_json", [False, True])
def test_texts_that_differ_in_two_values_are_one(as_json: bool) -> None:
    """Only one of the two names is known in some calls, so that there are templates with a gap at either place."""
    rng = random.Random(6)
    houses = ["Corner House", "Blue Door", "Old Mill", "Harbour View", "Green Bowl"]
    steps, rows = [], []
    for k in range(60):
        here, there = rng.sample(houses, 2)
        text = f"The basket has goods from {here}. Empty it before you order from {there}."
        content = json.dumps({"error": "basket", "message": text, "details": {"count": k}}) if as_json else text
        steps.append(Step("add", {"n": k}, content, "basket"))
        names = [("rec/basket/house", here), ("now/name", there)]
        rows.append({"arg/n": k, **dict(names if k % 3 else names[k // 3 % 2 :][:1])})
    drafts, _ = draft_forms(steps, rows, frozenset())
    assert [len(draft.at) for draft in drafts] == [60]
    for at, i in enumerate(drafts[0].at):
        gaps = [drafts[0].slots[str(k)][at] for k in range(len(drafts[0].slots))]
        said = fill(drafts[0].template, gaps)
        assert (json.dumps(said) if as_json else said) == steps[i].content


def test_many_names_in_a_long_sentence_are_values_though_nothing_shows_them() -> None:
    models = ["Honda e", "Fiat 500e", "Renault Twingo", "Ford E-Transit", "BYD Seal", "Tesla Model S"]
    texts = [f"Your {models[k % 6]} is held for you free of charge for {k} minutes." for k in range(48)]
    texts += [f"The parcel is {('lost', 'late', 'here')[k % 3]}." for k in range(24)]
    steps = [Step("hold", {"n": k}, text) for k, text in enumerate(texts)]
    drafts, _ = draft_forms(steps, [{"arg/x": 0} for _ in steps], frozenset())
    assert sorted(len(draft.at) for draft in drafts) == [8, 8, 8, 48]


def test_the_last_digits_of_a_name_are_a_number() -> None:
    assert apply("last_two_digits", ["usr_1207"]) == 7 and apply("last_number", ["usr_1207"]) == 1207
    assert apply("last_number", ["nobody"]) == apply("last_two_digits", [""])


def failures(bodies: list[Any]) -> list[Step]:
    return [Step("pay", {"n": k}, json.dumps(body), "declined") for k, body in enumerate(bodies)]


@pytest.mark.parametrize("bodies", [
    [{"error": "card_declined", "retry": True}, {"error": "card_declined", "retry": False}],
    [{"error": "locked for now", "until": None}, {"error": "locked for now", "until": float("nan")}],
    [{"error": "x", "fields": {"email": "is required"}}, {"error": "x", "fields": {"phone": "is required"}}],
    [{"error": "File \\u0000 not saved for Anna"}, {"error": "File \\u0000 not saved for Bobby"}],
])  # fmt: skip
def test_bodies_are_compared_as_bodies(bodies: list[Any]) -> None:
    """Words of JSON, keys and escapes are no words of a text."""
    steps = failures([body for body in bodies for _ in range(6)])
    names = ["Anna", "Bobby"]
    rows = [{"arg/n": k, "rec/r/name": names[k // 6], "odd/missing": ["email", "phone"][k // 6]} for k in range(12)]
    drafts, labels = draft_forms(steps, rows, frozenset())
    for draft in drafts:
        for at, i in enumerate(draft.at):
            gaps = [draft.slots[str(k)][at] for k in range(len(draft.slots))]
            assert dumps(fill(draft.template, gaps)) == dumps(json.loads(steps[i].content))
    assert all(labels)


def test_bodies_that_differ_elsewhere_are_kept_apart() -> None:
    rooms = ["Alpha", "Beta", "Gamma", "Delta"]
    bodies = [{"limit": 5 + k if k % 4 == 2 else "none", "code": "E2" if k % 4 == 3 else "E1",
               "message": f"Room {rooms[k % 4]} is closed"} for k in range(24)]  # fmt: skip
    rows = [{"arg/n": k, "rec/r/room": rooms[k % 4]} for k in range(24)]
    drafts, _ = draft_forms(failures(bodies), rows, frozenset())
    for draft in drafts:
        assert all(len(values) == len(draft.at) for values in draft.slots.values())
        for at, i in enumerate(draft.at):
            assert fill(draft.template, [draft.slots[str(k)][at] for k in range(len(draft.slots))]) == bodies[i]
    assert sorted(len(draft.at) for draft in drafts) == [6, 18]


def test_a_text_with_the_mark_of_a_gap_is_not_merged() -> None:
    steps = failures([{"error": f"File \0 not saved for {name}"} for name in ("Anna", "Bobby") for _ in range(6)])
    rows = [{"arg/n": k, "seen/name": ("Anna", "Bobby")[k // 6]} for k in range(12)]
    drafts, labels = draft_forms(steps, rows, frozenset())
    assert all(labels) and sorted(len(draft.at) for draft in drafts) == [6, 6]


def test_a_field_called_says_is_no_sentence() -> None:
    def talk(k: int) -> Conversation:
        read = step("cow", {"id": f"B-{k}"}, {"id": f"B-{k}", "says": ["moo"], "fed": k % 3})
        return [read, step("feed", {"id": f"B-{k}"}, {"id": f"B-{k}", "says": None if k % 2 else "thanks"}), read]

    rules, _ = induce({f"c{k}": talk(k) for k in range(20)})
    assert rules.schema.inert == {} and decode(encode(rules)).schema == rules.schema


def test_options_and_needed_arguments_are_those_of_many_conversations() -> None:
    own = [{"note": "x", "mail": f"p{k}@m.example", "sum": k} for k in range(5)]
    calls = {f"c{k}": [step("pay", own[k], {"ok": k})] * 4 for k in range(5)}
    calls.update({f"c{k}": [step("pay", {"note": None, "sum": 1}, {"ok": k})] for k in range(5, 40)})
    found = {one.name: one for one in learn_expected(calls)["pay"]}
    assert found["sum"].needed and not found["note"].needed and not found["mail"].needed
    assert not found["mail"].options


def test_two_arguments_with_one_value_name_the_same_part() -> None:
    def look(k: int) -> Conversation:
        held = {"a": {"sum": k}, "b": {"sum": 7}}
        return [step("pot", {"id": f"P-{k}"}, {"id": f"P-{k}", "pots": held}),
                step("move", {"id": f"P-{k}", "src": "a", "dst": "ab"[k % 2]}, {"was": k})]  # fmt: skip

    engine = learned(look, 40)
    session = Session(engine)
    one = look(50)[0]
    session.told(one.tool, one.arguments, one.content, one.outcome)
    row = session.situation("move", {"id": "P-50", "src": "a", "dst": "a"}).row
    assert [v for n, v in row.items() if n.startswith("pick/") and n.endswith(("src.sum", "dst.sum"))] == [50, 50]


def test_laws_of_one_slot_have_names_of_their_own() -> None:
    rows = [{"arg/a": k, "arg/b": 2 * k + 1} for k in range(8)]
    names = {"law/ok/total": 2.0, "law/ok/total+": 3.0}
    known = [Law(name, Linear(((factor, "arg/a"),)), "total") for name, factor in names.items()]
    new = novel([Law("law/ok/total", Linear(((1.0, "arg/b"),)), "total")], rows, known)
    assert [law.name for law in new] == ["law/ok/total++"]


def test_a_refusing_sentence_is_no_write_in_learning_and_in_answering() -> None:
    engine = learned(clerk, 120)
    session = Session(engine)
    for one in (one for k in range(500, 520) for one in clerk(k) if one.tool == "add"):
        before = session.history.written
        session.told(one.tool, one.arguments, one.content, one.outcome)
        done = one.content.startswith("Added")
        assert engine.wrote(one.tool, one.content, one.outcome) == done
        assert session.history.written == before + done
