"""Production's agent does not try what it knows to fail, so its traces lack those refusals. Rules do not take that for
permission: a write in a state in which none ever succeeded is refused as the tool refuses, or not answered."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence

import pytest
from world_samples import random_world

from worldmodel import WorldModel
from worldmodel.derive.engine import Engine, Session
from worldmodel.learn.induce import induce
from worldmodel.sentences import describe_tool
from worldmodel.steps import OK, Step


def read(number: int, state: str, colour: str = "red") -> Step:
    return Step("read_case", {"case": f"C-{number}"}, json.dumps({"case": f"C-{number}", "state": state,
                "colour": colour, "size": number}), OK, 20.0)  # fmt: skip


def close(number: int) -> Step:
    return Step("close_case", {"case": f"C-{number}"}, '{"closed":true}', OK, 20.0)


def refusal(number: int) -> Step:
    text = json.dumps({"error": "conflict", "message": f"C-{number} is a draft"})
    return Step("close_case", {"case": f"C-{number}"}, text, "conflict", 20.0)


def corpus(tried: Sequence[int] = ()) -> dict[str, list[Step]]:
    """Half of the cases are drafts; the agent reads them, and closes only the others. Those in `tried` it tries too."""
    found = {}
    for k in range(120):
        rng = random.Random(f"untried {k}")
        number, state = 3000 + 7 * k, rng.choice(["open", "draft"])
        colour = "blue" if k == 5 else rng.choice(["red", "green"])
        steps = [read(number, state, colour)]
        if state == "open":
            steps += [close(number), read(number, "closed", colour)]
        elif k in tried:
            steps += [refusal(number)]
        found[f"c{k}"] = steps
    return found


def after_reading(engine: Engine, state: str, colour: str = "red") -> Session:
    session = Session(engine)
    step = read(77, state, colour)
    session.told(step.tool, step.arguments, step.content, step.outcome)
    return session


def drafts() -> list[int]:
    return [int(cid[1:]) for cid, steps in corpus().items() if len(steps) == 1]


def test_a_common_state_in_which_nothing_succeeded_is_learned_and_said() -> None:
    engine = Engine(*induce(corpus()))
    untried = engine.rules.tools["close_case"].untried
    assert list(untried.values()) == [("draft",)], "a rare colour may be missing by chance"
    assert engine.rules.tools["read_case"].untried == {}
    assert any("never seen to succeed" in line and "draft" in line
               for line in describe_tool(engine.rules.tools["close_case"]))  # fmt: skip
    asked = "close_case", {"case": "C-77"}
    allowed, unlike = (after_reading(engine, state).derive(*asked) for state in ("open", "draft"))
    assert allowed is not None and (allowed.outcome, allowed.untried) == (OK, "")
    assert unlike is not None and "state is draft" in unlike.untried
    rare = after_reading(engine, "open", "blue").derive(*asked)
    assert rare is not None and not rare.untried


def test_one_recorded_refusal_shows_how_it_is_refused() -> None:
    engine = Engine(*induce(corpus(tried=drafts()[:1])))
    found = after_reading(engine, "draft").derive("close_case", {"case": "C-77"})
    assert found is not None and found.outcome == "conflict" and found.sure
    assert json.loads(found.content or "")["message"] == "C-77 is a draft"


@pytest.fixture(scope="module")
def model() -> Iterator[WorldModel]:
    made = random_world(corpus(), 60, 700, body_tokens=120)
    yield made
    made.close()


def test_without_a_recorded_refusal_the_world_gives_no_answer(model: WorldModel) -> None:
    for state, provenance in (("open", "derived"), ("draft", "abstained")):
        told = read(77, state)
        messages = [
            {"role": "user", "content": "close it"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "name": told.tool,
             "arguments": dict(told.arguments)}]},
            {"role": "tool", "tool_call_id": "1", "name": told.tool, "content": told.content},
        ]  # fmt: skip
        episode = model.world(messages=messages).episode()
        seen = episode.call("close_case", {"case": "C-77"})
        assert seen.provenance == provenance, (state, seen)
    assert "never seen to succeed" in (episode.ended or "")
