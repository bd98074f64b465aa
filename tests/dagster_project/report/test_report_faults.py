"""The report says how many episodes the real environment's own errors ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from loop_samples import finish, practised_home, save_adapter

from dagster_project.loop.passes import Loop
from dagster_project.report import page
from dagster_project.report.contents import gather

EVALUATION: dict[str, Any] = {
    "before": 0.4, "after": 0.6, "gain": 0.2, "low": -0.1, "high": 0.5, "episodes": 12, "kinds": {},
    "intervals": {"before": [0.2, 0.6], "after": [0.4, 0.8]},
}  # fmt: skip


@pytest.mark.parametrize("before, after", [(0, 0), (1234, 2)])
def test_episodes_ended_by_the_environment_are_reported(tmp_path: Path, before: int, after: int) -> None:
    home = tmp_path / "home"
    loop = Loop(practised_home(home, environment="any:Thing"))
    candidate = loop.read("candidate").fingerprint
    save_adapter(home / "adapter", 1.0)
    loop.registry.promote(loop.registry.add(home / "adapter", {}).name, "the first")
    verdict = {"promoted": False, "why": "no gain", "n": 8, "version": "policy-other"}
    gate = finish(home, "gate", verdict, {"candidate": candidate})
    (gate.directory / "example.json").write_text(json.dumps({"conversation": "talk-3", "messages": []}))
    faults = {"before": before, "after": after, "first": "OSError: <no> database" if before else ""}
    finish(home, "evaluation", {**EVALUATION, "faults": faults}, {"after": candidate})
    text = page.render(gather(loop))
    assert ("errors of the environment ended" in text) == bool(before)
    if before:
        assert "1,234 episodes of the clone" in text and "OSError: &lt;no&gt; database" in text
