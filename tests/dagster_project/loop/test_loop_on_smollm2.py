"""The loop on a real base: world, card, judge, clone, practice and gate on SmolLM2-135M, with the smallest budgets.

Dagster's assets call the same functions. A call takes 35 tokens; what a limit cuts off is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from smollm2_samples import smollm2_path
from talk_samples import talk

from dagster_project.loop.fits import first_start
from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from ingest.lake import Lake
from training.models.lora import manifest_of
from training.policy.episodes import read_episodes

FIT = {"max_tokens": 1, "evaluations": 1, "step_tokens": 512}  # one step
LORA = {"lora": {"rank": 4, "alpha": 8}, "learning_rate": 2e-3, "warmup_steps": 0}
BUDGETS: dict[str, Any] = {
    "world": {"max_tokens": 1, "rank": 4, "bias_calls": 12, "holes": 2, "step_tokens": 512},
    "card_calls": 2,
    "card": {"model_calls": 0, "base_calls": 0, "holes": 0, "user_turns": 0},
    "judge": {"fit": {**FIT, "learner": LORA}, "pair_share": 0},
    "clone": {**FIT, "max_tokens": 3_000, "learner": LORA},
    "head_start": {"fit": FIT},
    "train": {
        "steps": 1, "groups": 1, "group_size": 4, "held_out": 0, "planted_groups": 0,
        "min_score_spread": 0.0, "limits": {"turns": 6, "turn_tokens": 48, "total_tokens": 900, "from_data": False},
    },
    "gate": {"scenarios": 8, "min_slice": 3},
    "practice_workers": 1,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_stage_up_to_the_gate_runs_on_smollm2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = str(smollm2_path())
    talks = tmp_path / "talks.jsonl"
    talks.write_text("".join(json.dumps(talk(k)) + "\n" for k in range(24)))
    home = tmp_path / "home"
    Lake.create(home / "lake").ingest([talks])
    loop = Loop(Settings(home=home, base=base, **BUDGETS))
    verdict = loop.run_until("gate").facts
    check(loop, verdict, capsys.readouterr().out)


def check(loop: Loop, verdict: Mapping[str, Any], said: str) -> None:
    """What the stages have left behind, and what was said."""
    base = loop.settings.base
    for stage in ("clone", "judge", "candidate"):
        found = manifest_of(loop.read(stage).directory / "adapter")
        assert found is not None and found["base"] == base
    world = loop.read("world").facts
    assert world["base"] == base and world["counts"]["rows"] and not world["counts"]["too_long"]
    counts = loop.read("clone").facts["row_counts"]
    assert counts["rows"] == counts["conversations"] == 23 and not counts["left_out"] and not counts["cut"]
    began = json.loads((loop.read("candidate").directory / "start.json").read_text())["start"]
    assert Path(began) == first_start(loop.read("clone").directory).absolute() and Path(began).name == "head_start"
    (step,) = loop.read("candidate").facts["history"]
    assert step["episodes"] == 4 and not step["failed_episodes"] and not step["unscored"]
    assert step["rows"] and step["grad_norm"] > 0 and step["engine_kl"] < 0.02 and step["served_gap"] < 0.1
    lived = list(read_episodes(loop.settings.home / "candidate" / "episodes"))
    assert len(lived) == 4 and all("You help with orders." in json.dumps(one["messages"]) for one in lived)
    assert verdict["n"] == 8 and verdict["why"] and verdict["champion"] != verdict["version"]
    serving = loop.registry.champion()
    assert serving is not None
    assert serving.name == (verdict["version"] if verdict["promoted"] else verdict["champion"])
    for name, count in verdict["cut_off"].items():
        assert not count or f"gate: {count} of the {name}'s episodes ended at a limit" in said
