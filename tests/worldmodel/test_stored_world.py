"""A world as it is stored: lengths of what production wrote, and no second copy of the base's weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from world_samples import random_world

from worldmodel import WorldModel, artifact
from worldmodel.fit import body_tokens
from worldmodel.generate.resolver import MAX_BODY_TOKENS
from worldmodel.steps import OK, Step
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
