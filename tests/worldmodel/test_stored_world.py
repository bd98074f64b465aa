"""A world as it is stored: lengths of what production wrote, and no second copy of the base's weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from world_samples import random_world

from worldmodel import WorldModel, artifact
from worldmodel.derive.engine import Engine
from worldmodel.derive.expressions import Linear
from worldmodel.derive.rules import Law, Rules, ToolRules
from worldmodel.derive.schema import Schema
from worldmodel.derive.trees import Leaf
from worldmodel.fit import body_tokens
from worldmodel.generate.recording import asks_history
from worldmodel.generate.resolver import MAX_BODY_TOKENS
from worldmodel.steps import OK, Step
from worldmodel.users.knowledge import Knowledge
from worldmodel.users.reactions import Reactions
from worldmodel.users.user import reply_tokens


def test_bodies_and_replies_have_the_length_of_recorded_ones() -> None:
    assert body_tokens([100] * 99 + [900]) == 125 and reply_tokens([40] * 99 + [900]) == 50
    assert body_tokens([4]) == 32 and body_tokens([5000]) == MAX_BODY_TOKENS
    assert reply_tokens([]) == reply_tokens([2]) == 16 and reply_tokens([400]) == 500


def test_a_world_on_a_given_engine_loads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [Step("get", {"id": f"P-{k}"}, json.dumps({"id": f"P-{k}", "w": k}), OK) for k in range(9)]
    made = random_world({f"c{k}": [step] for k, step in enumerate(steps)}, 20, 400, body_tokens=77)
    assert made.rules is not None
    artifact.save_tools(tmp_path, made.resolver)
    artifact.save_rules(tmp_path, made.rules.rules, made.rules.facts)
    manifest = {"version": artifact.VERSION, "id": "w", "base": "rehearsal-tiny", "adapters": {}, "max_turns": 2}
    artifact.write_json(tmp_path / "manifest.json", manifest)
    monkeypatch.setattr(artifact, "load_base", lambda name: pytest.fail("the base was loaded again"))
    loaded = WorldModel.load(tmp_path, made.resolver.engine)
    assert loaded.resolver.engine is made.resolver.engine and loaded.resolver.body_tokens == 77


def test_a_world_of_an_earlier_format_has_users_with_its_only_figure() -> None:
    found = artifact._of_users({"version": 4, "max_turns": 7})
    assert found == {"patience": 7, "leave_bias": 0.0, "knowledge": Knowledge(), "reactions": Reactions({}, [])}
    measured = {"patience": 2, "leave_bias": 0.5, "knowledge": {"told": {"zip": 3}, "questions": {}, "statements": {}}}
    found = artifact._of_users({"version": artifact.VERSION, "users": measured})
    assert found["patience"] == 2 and found["knowledge"].told == {"zip": 3}


def test_history_is_found_through_laws() -> None:
    """A recorded answer must not be replayed where a law that its guard asks says something of the episode's past."""
    laws = (
        Law("law/total", Linear(((1.0, "arg/a"),))),
        Law("law/again", Linear(((1.0, "n/pay"),))),
        Law("law/twice", Linear(((2.0, "law/again"),))),
    )
    rules = ToolRules("pay", 9, {}, Leaf({"none": 9}), laws=laws)
    asks = asks_history(Engine(Rules(Schema(), {"pay": rules})), "pay")
    assert [asks(name) for name in ("law/total", "law/again", "law/twice", "prev/x", "arg/n/a")] == [
        False, True, True, True, False,
    ]  # fmt: skip
    assert all(map(asks, ("used/key", "first/key/id", "refused/declined")))
