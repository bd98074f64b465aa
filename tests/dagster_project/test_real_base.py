"""The whole loop on a real base: every stage of the demo on SmolLM2-135M, with budgets that only show that it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from smollm2_samples import smollm2_path

from dagster_project.cli.demo import run_demo
from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from training.models.lora import manifest_of

ONCE = {"max_tokens": 1_000, "evaluations": 1, "step_tokens": 512}
BUDGETS: dict[str, Any] = {
    "world": {"max_tokens": 2_000},
    "card_calls": 4,
    "clone": ONCE,
    "judge": {"fit": ONCE},
    "train": {
        "steps": 1, "groups": 1, "group_size": 2, "held_out": 1, "evaluate_every": 1, "planted_groups": 1,
        "limits": {"turns": 2, "turn_tokens": 24, "total_tokens": 700, "from_data": False},
    },
    "gate": {"scenarios": 8, "min_slice": 3},
    "evaluation": {"episodes": 2},
    "practice_workers": 1,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_stage_of_the_demo_runs_on_smollm2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = str(smollm2_path())
    home = tmp_path / "home"
    monkeypatch.setenv("REHEARSAL_BASE", base)
    for name, value in BUDGETS.items():
        monkeypatch.setenv(f"REHEARSAL_{name.upper()}", json.dumps(value))
    run_demo(home, None, True, Console())
    loop = Loop(Settings(home=home))
    assert loop.settings.base == base and not loop.settings.compact
    for stage in ("clone", "judge", "candidate"):
        found = manifest_of(loop.read(stage).directory / "adapter")
        assert found is not None and found["base"] == loop._base().name
    counts = loop.read("clone").facts["row_counts"]
    assert counts["rows"] == counts["conversations"] and not counts["left_out"]  # nothing is dropped in silence
    assert loop.read("candidate").facts["steps"] == 1
    report = json.loads((home / "report.json").read_text())
    assert report["episodes"] == 2 and report["gate"]["why"]
