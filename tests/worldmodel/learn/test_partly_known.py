"""What is seldom known is learned from the calls where it is known: fields of records, lists, limits, places."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from benchmarks.kinds import KINDS
from benchmarks.stateful import StatefulSystem
from benchmarks.systems import System
from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.expressions import Append, Source, evaluate
from worldmodel.derive.functions import apply
from worldmodel.derive.situation import Row
from worldmodel.derive.trees import leaf_of
from worldmodel.learn.columns import Table
from worldmodel.learn.forms import draft_forms
from worldmodel.learn.guards import grow
from worldmodel.learn.induce import induce
from worldmodel.learn.recipes import find
from worldmodel.learn.rows import Rows
from worldmodel.learn.schema.records import learn_schema
from worldmodel.steps import OK, Step

WORDS = "amber basil cedar delta ember fjord grove haven inlet jetty knoll larch maple north".split()


def test_a_value_may_follow_from_a_field_that_few_calls_know() -> None:
    rng = random.Random(3)
    rows: list[Row] = []
    targets: list[Any] = []
    for _ in range(120):
        text, mode = "\n".join(" ".join(rng.choices(WORDS, k=4)) for _ in range(rng.randrange(1, 4))), rng.choice("lw")
        rows.append({"arg/name": rng.choice(WORDS), "arg/mode": mode, "now/text": " ".join(rng.choices(WORDS, k=3))})
        if rng.random() < 0.3:
            rows[-1]["rec/file/text"] = text
        targets.append(len(text.split()) if mode == "w" else text.count("\n") + 1)
    found = find(Rows(rows), targets)
    assert found is not None
    for mode, count in (("w", 5), ("l", 2)):
        row = {"arg/name": "x", "arg/mode": mode, "rec/file/text": "one two\nthree four five", "now/text": "six"}
        assert evaluate(found.expression, row) == count


def test_an_addition_is_seen_in_lists_that_were_not_known_before() -> None:
    rng = random.Random(5)
    rows: list[Row] = []
    targets: list[Any] = []
    for k in range(30):
        before, item, gone = rng.sample(WORDS[:8], 3), rng.choice(WORDS), rng.choice(WORDS)
        before = [*before, gone] if gone not in before else before
        after = [w for w in before if w != gone]
        targets.append(after if item in after else [*after, item])
        rows.append({"arg/from": gone, "arg/to": item, **({"rec/here/items": before} if k % 10 == 0 else {})})
    found = find(Rows(rows), targets)
    assert found is not None and found.against == 0
    assert found.expression == Append("without(rec/here/items|arg/from)", Source("arg/to"), once=True)


def test_a_limit_that_few_calls_know_is_compared_and_not_replaced_by_a_number() -> None:
    rng = random.Random(2)
    rows: list[Row] = []
    labels: list[str] = []
    for _ in range(90):
        left, sum_ = rng.randrange(10, 400), rng.randrange(1, 120)
        rows.append({"arg/sum": sum_, **({"rec/x/left": left} if rng.random() < 0.5 else {})})
        labels.append("few" if left < sum_ else "ok")
    tree = grow(Table(rows), labels)
    for left, sum_, label in ((60, 20, "ok"), (60, 61, "few"), (110, 115, "few"), (30, 25, "ok")):
        assert leaf_of(tree, {"arg/sum": sum_, "rec/x/left": left})[0].best()[0] == label


def test_what_is_known_of_a_tested_source_is_not_mixed_with_what_is_unknown() -> None:
    rng = random.Random(2)
    rows: list[Row] = []
    labels: list[str] = []
    for _ in range(80):
        state = rng.choice(["held", "open", "sent", "new"])
        rows.append({"arg/id": f"A{rng.randrange(9999)}", **({"rec/x/state": state} if rng.random() < 0.5 else {})})
        labels.append("ok" if state == "held" else "conflict")
    leaf, _ = leaf_of(grow(Table(rows), labels), {"arg/id": "A1", "rec/x/state": "sent"})
    assert leaf.best() == ("conflict", 1.0)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_refusal_that_names_a_state_is_one_sentence(as_json: bool) -> None:
    rng = random.Random(7)
    steps: list[Step] = []
    rows: list[Row] = []
    for k in range(40):
        state = rng.choice(["open", "sent", "closed"])
        text = json.dumps({"error": "conflict", "message": f"the order is {state}"}) if as_json else f"order is {state}"
        steps.append(Step("settle", {"id": k}, text, "conflict"))
        rows.append({"arg/id": k, **({"rec/order/status": state} if k % 2 else {})})
    drafts, _ = draft_forms(steps, rows, frozenset())
    assert [len(draft.at) for draft in drafts] == [40]


@pytest.mark.parametrize("seed", [1, 3, 7])
def test_records_have_one_type_and_no_part_of_the_session_in_their_keys(seed: int) -> None:
    system = System(seed)
    schema = learn_schema({f"c{k}": [s for s, _ in system.conversation(f"{seed} {k}")] for k in range(220)})
    assert not [site for site in schema.sites if any(part.source.startswith("now/") for part in site.keys)]
    for kind in system.kinds:
        tools = {tool for tool in system.tools if tool.endswith(f"_{kind.name}")}
        shown = {s.type for s in schema.sites if s.tool in tools and s.path == (system.envelope or "")
                 and set(kind.key) < set(s.fields)}  # fmt: skip
        assert len(shown) == 1, shown


# ----- steps on a path


def walk(k: int, length: int = 16) -> list[Step]:
    """Folders, others in each conversation; a step answers the last name only, so that two folders may look alike."""
    rng = random.Random(f"walk {k}")
    tree = {w: {v: {} for v in rng.sample(WORDS[:5], 2)} for w in rng.sample(WORDS[:5], 2)}
    names: dict[tuple[str, ...], list[str]] = {(): [*tree, f"{rng.choice(WORDS)}.txt"]}
    for w, inner in tree.items():
        names[(w,)] = [*inner, f"{rng.choice(WORDS)}.txt"]
        names.update({(w, v): [f"{rng.choice(WORDS)}.txt", f"{rng.choice(WORDS)}.md"] for v in inner})
    at: tuple[str, ...] = ()
    steps = []
    for _ in range(length):
        inner = [w for w in names[at] if "." not in w]
        tool = rng.choice(["enter", "list", "list", "add"])
        if tool == "list":
            steps.append(Step("list", {}, json.dumps({"items": names[at]}), OK))
        elif tool == "add":
            new = f"{rng.choice(WORDS)}{rng.randrange(99)}.txt"
            names[at] = [*names[at], new]
            steps.append(Step("add", {"name": new}, "done", OK))
        else:
            step = ".." if at and (not inner or rng.random() < 0.5) else rng.choice(inner)
            at = at[:-1] if step == ".." else (*at, step)
            steps.append(Step("enter", {"to": step}, json.dumps({"here": at[-1] if at else "top"}), OK))
    return steps


def test_folders_of_one_name_are_told_apart_by_the_steps_that_led_there() -> None:
    session = Session(Engine(*induce({f"c{k}": walk(k) for k in range(70)})))

    def told(tool: str, arguments: dict[str, Any], **fields: Any) -> None:
        session.told(tool, arguments, json.dumps(fields) if fields else "done", OK)

    told("list", {}, items=["amber", "basil", "x.txt"])
    told("enter", {"to": "amber"}, here="amber")
    told("list", {}, items=["cedar", "y.txt"])
    told("enter", {"to": "cedar"}, here="cedar")
    told("list", {}, items=["one.txt"])
    told("enter", {"to": ".."}, here="amber")
    told("add", {"name": "new.txt"})
    again = session.derive("list", {})
    assert (
        again is not None
        and again.content is not None
        and json.loads(again.content)["items"] == ["cedar", "y.txt", "new.txt"]
    )
    told("enter", {"to": ".."}, here="top")
    told("enter", {"to": "basil"}, here="basil")
    told("enter", {"to": "cedar"}, here="cedar")
    other = session.derive("list", {})
    assert other is not None and other.content is None


@pytest.mark.parametrize(
    ("path", "step", "leads"),
    [(".", "a", "./a"), ("./a", "..", "."), (".", "..", ".."), ("/a/b", "..", "/a"), ("./a", "/x/y", "/x/y"),
     ("/a", "../b/c", "/b/c"), ("/a", "..", "/"), ("..", "..", "../..")],
)  # fmt: skip
def test_a_step_leads_from_a_path(path: str, step: str, leads: str) -> None:
    assert apply("entered", (path, step)) == leads


def test_records_are_learned_where_tools_of_one_type_show_other_fields() -> None:
    name = "broker 3000"
    system = StatefulSystem(name, [KINDS["broker"]])
    recorded = {f"c{k}": [s for s, _ in system.conversation(f"{name} {k}")] for k in range(120)}
    assert learn_schema(recorded).sites


def test_a_new_record_of_a_catalogue_is_not_taken_for_one_that_is_refused() -> None:
    """All conversations share the parts, and refused ones show no record: a part that no recording has may be there."""
    rng = random.Random(8)
    parts = {f"P-{100 + k}": {"name": f"{rng.choice(WORDS)} {rng.choice(WORDS)}", "price": 5 * k} for k in range(24)}
    old = {f"P-{300 + k}": rng.choice(list(parts)) for k in range(10)}
    found = {}
    for k in range(150):
        steps = []
        for part in rng.sample([*parts, *old], 2):
            moved = {"error": "replaced", "detail": f"see {old.get(part)}"}
            body = {"part": part, **parts[part]} if part in parts else moved
            steps.append(Step("part", {"part": part}, json.dumps(body), OK if part in parts else "replaced"))
        found[f"c{k}"] = steps
    session = Session(Engine(*induce(found)))
    known = session.derive("part", {"part": "P-105"})
    assert known is not None and known.outcome == OK and known.sure
    outcomes = [session.derive("part", {"part": f"P-{500 + k}"}, k) for k in range(200)]
    well = sum(one is not None and one.outcome == OK for one in outcomes)
    assert 100 < well < 180 and not any(one is not None and one.sure for one in outcomes)
