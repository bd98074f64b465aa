"""The best adapter of a run is selected on held-out pairs, if the judge scored enough of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from training_samples import Walls, adapter_of_all, scenario, tiny_base

from training.engines.local import LocalEngine
from training.judging.ruler import Judgement, Ruler, RulerSettings
from training.learning.learner import LearnerSettings
from training.learning.trajectory import Trajectory
from training.models.lora import LoraSettings
from training.policy.grpo import Grpo, TrainSettings
from training.policy.practice import Practice
from training.policy.rollout import Limits

LEARNER = LearnerSettings(lora=LoraSettings(rank=2, alpha=4), learning_rate=5e-4, warmup_steps=0, bf16=False)
HELD_OUT = 10
ALARM = "too few held-out pairs were scored to select this adapter"


@dataclass
class Judged(Practice):
    """Prefers the candidate in the first `scored` pairs; the other pairs, and the groups of practice, have no score."""

    scored: int = HELD_OUT

    async def judge(self, groups: Sequence[Sequence[Trajectory]], seeds: Sequence[int]) -> list[Judgement]:
        if len(groups) != HELD_OUT:
            return [Judgement([None] * len(group)) for group in groups]
        return [Judgement([0.0, 1.0] if k < self.scored else [None, None]) for k in range(HELD_OUT)]


@pytest.mark.parametrize(("scored", "best"), [(9, 1), (8, 0), (0, 0)])
def test_an_adapter_is_selected_only_if_most_pairs_were_scored(tmp_path: Path, scored: int, best: int) -> None:
    base = tiny_base()
    start = adapter_of_all(base, LEARNER, 0, tmp_path / "start")
    settings = TrainSettings(
        steps=1, groups=1, group_size=2, held_out=HELD_OUT, evaluate_every=1, planted_groups=0, learner=LEARNER
    )
    client = httpx.AsyncClient()  # never asked
    practice = Judged(
        LocalEngine(base.model, base.format.pad_id), base.format, Walls(), Ruler(RulerSettings(), client),
        Limits(turns=1, turn_tokens=4), min_p=settings.min_p, scored=scored,
    )  # fmt: skip
    run = Grpo(base, practice, [scenario(k) for k in range(HELD_OUT + 1)], start, tmp_path / "policy", settings)
    manifest = asyncio.run(run.train())
    (step,) = manifest["history"]
    assert (manifest["best_step"], step["held_out_scored"]) == (best, scored / HELD_OUT)
    assert (ALARM in step["alarms"]) == (best == 0) and ("held_out_gain" in step) == (scored > 0)
