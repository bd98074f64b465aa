"""What answers hang on without any call naming it: the place where the session is, and how it moves."""

from __future__ import annotations

import json
import random

import pytest

from benchmarks.kinds import KINDS
from benchmarks.stateful import StatefulSystem
from training.models.edits import canonical
from worldmodel.derive.engine import Engine, Session
from worldmodel.derive.functions import FUNCTIONS, apply, is_of
from worldmodel.derive.grounding import opened
from worldmodel.derive.values import UNKNOWN
from worldmodel.learn.induce import induce
from worldmodel.learn.recipes import find
from worldmodel.learn.rows import Rows
from worldmodel.steps import OK, Step

ROOMS = ("attic", "cellar", "hall", "porch")
THINGS = "amber basil cedar delta ember fjord grove haven inlet jetty knoll larch maple north ocean pearl".split()


def conversation(k: int, length: int = 14) -> list[Step]:
    """Rooms with things in them, others in each conversation. Moving says nothing; a look around names no room."""
    rng = random.Random(f"rooms {k}")
    things = {room: rng.sample(THINGS, 3) for room in ROOMS}
    at = "hall"
    steps = []
    for _ in range(length):
        tool = rng.choice(["go", "look", "look", "where"])
        arguments = {}
        if tool == "go":
            at = rng.choice(ROOMS)
            arguments, content = {"room": at}, "moved"
        else:
            content = json.dumps({"things": things[at]} if tool == "look" else {"room_now": at})
        steps.append(Step(tool, arguments, content, OK))
    return steps


@pytest.fixture(scope="module")
def rooms() -> Engine:
    return Engine(*induce({f"c{k}": conversation(k) for k in range(80)}))


def test_a_place_that_no_call_names_is_part_of_the_key(rooms: Engine) -> None:
    sites = {site.tool: [part.source for part in site.keys] for site in rooms.rules.schema.sites}
    assert sites["look"] == ["now/room_now"]
    assert rooms.rules.schema.start == {"room_now": "hall"}


def test_what_was_seen_in_a_place_is_seen_again_there(rooms: Engine) -> None:
    session = Session(rooms)
    here = '{"things": ["oboe", "harp"]}'
    session.told("look", {}, here, OK)  # before anything said that this is the hall
    session.told("go", {"room": "attic"}, "moved", OK)
    elsewhere = session.derive("look", {})
    assert elsewhere is not None and elsewhere.content is None
    session.told("look", {}, '{"things": ["drum"]}', OK)
    session.told("go", {"room": "hall"}, "moved", OK)
    again = session.derive("look", {})
    assert again is not None and again.content is not None and canonical(again.content) == canonical(here)


def test_a_first_word_of_where_one_is_belongs_to_what_was_seen_before(rooms: Engine) -> None:
    session = Session(rooms)
    session.store.now.clear()  # a system whose start is not always the same
    session.told("look", {}, '{"things": ["oboe"]}', OK)
    session.told("where", {}, '{"room_now": "porch"}', OK)
    answer = session.derive("look", {})
    assert answer is not None and answer.content is not None and json.loads(answer.content) == {"things": ["oboe"]}


def test_what_a_recording_read_elsewhere_is_not_at_the_start(rooms: Engine) -> None:
    steps = [Step("go", {"room": "attic"}, "moved", OK), Step("look", {}, '{"things": ["drum"]}', OK)]
    session = opened(rooms, steps)
    at_start = session.derive("look", {})
    assert at_start is not None and at_start.content is None
    session.told("go", {"room": "attic"}, "moved", OK)
    there = session.derive("look", {})
    assert there is not None and there.content is not None and json.loads(there.content) == {"things": ["drum"]}


@pytest.mark.parametrize(("kind", "least"), [("place 2", 0.87), ("folders 2", 0.89)])
def test_random_places_and_folders_are_followed(kind: str, least: float) -> None:
    system = StatefulSystem(kind, [KINDS[kind.split()[0]]])
    rules, facts = induce({f"c{k}": [s for s, _ in system.conversation(f"{kind} {k}")] for k in range(100)})
    right = asked = 0
    for k in range(100, 130):
        session = Session(Engine(rules, facts))
        for step, determined in system.conversation(f"{kind} {k}"):
            said = session.derive(step.tool, step.arguments, k, accidents=False)
            if determined:
                asked += 1
                right += said is not None and said.content is not None and (
                    canonical(said.content) == canonical(step.content)
                )
            session.told(step.tool, step.arguments, step.content, step.outcome)
    assert asked > 200 and right >= least * asked


def test_a_path_follows_from_the_place_and_from_a_step_back() -> None:
    rng = random.Random(4)
    rows, targets = [], []
    for _ in range(80):
        at, step = "/".join(["", "root", *rng.sample(THINGS, rng.randrange(1, 4))]), rng.choice([*THINGS, "..", ".."])
        rows.append({"arg/step": step, "now/at": at})
        targets.append(at.rpartition("/")[0] if step == ".." else f"{at}/{step}")
    found = find(Rows(rows), targets)
    assert found is not None and (found.support, found.against) == (80, 0)


def test_functions_give_what_they_say_they_give() -> None:
    samples = {
        "t": ["a b/c d", "12", "x\ny", ""], "n": [3, 2, 0.5, 7], "l": [["b", "a"], [2, 1], []],
        "N": [[3, 1, 2], [2.5, 4]], "*": ["a", 2, 0.5],
    }  # fmt: skip
    for name, function in FUNCTIONS.items():
        given = [[]]
        for kind in function.kinds:
            given = [[*before, value] for before in given for value in samples[kind]]
        for values in given:
            result = apply(name, values)
            if result is not UNKNOWN and function.gives != "*":
                good = isinstance(result, bool) if function.gives == "b" else is_of(function.gives, result)
                assert good, (name, values, result)
