"""The loop that is there to be read and the trainer take the same steps."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from training_samples import ComparedWalls, Walls, scenario, stir, tiny_base

from training.engines.local import LocalEngine
from training.judging.ruler import Judgement
from training.learning.learner import Learner, LearnerSettings
from training.learning.policy_losses import Cispo
from training.learning.trajectory import Trajectory
from training.models.base import Base
from training.models.lora import LoraSettings, save_weights
from training.models.lora_layers import read_adapter
from training.policy import reference_loop
from training.policy.grpo import Grpo, TrainSettings
from training.policy.practice import Practice
from training.policy.rollout import Limits

LEARNER = LearnerSettings(
    lora=LoraSettings(rank=4, alpha=8), learning_rate=1e-3, warmup_steps=2, schedule="cosine", bf16=False,
    max_grad_norm=0.3, micro_tokens=256,
)  # fmt: skip
SETTINGS = TrainSettings(
    steps=2, groups=3, group_size=4, held_out=0, learner=LEARNER, loss=Cispo(kl_penalty=0.1), min_p=0.02,
    limits=Limits(turns=3, turn_tokens=16), planted_groups=0, keep_episodes=False, changes_weight=0.7,
)  # fmt: skip


class Longest:
    """A judge that likes long episodes, gives no score now and then, and needs no model."""

    async def judge(self, group: list[Trajectory], seed: int = 0, planted: bool = False) -> Judgement:
        longest = max(len(t.ids) for t in group)
        scores: list[float | None] = [len(t.ids) / longest + 0.1 * (t.seed % 7) for t in group]
        return Judgement([None if k == seed % 9 else s for k, s in enumerate(scores)])


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


def practice(base: Base, worlds: Walls) -> Practice:
    judge: Any = Longest()
    engine = LocalEngine(base.model, base.format.pad_id, dtype=torch.float32)
    return Practice(
        engine, base.format, worlds, judge, SETTINGS.limits, min_p=SETTINGS.min_p,
        changes_weight=SETTINGS.changes_weight,
    )  # fmt: skip


@pytest.mark.parametrize("worlds", [Walls(), ComparedWalls()])
def test_the_reference_loop_and_the_trainer_give_the_same_update(base: Base, tmp_path: Path, worlds: Walls) -> None:
    start, scenarios = tmp_path / "start", [scenario(k) for k in range(8)]
    learner = Learner(base, LEARNER, seed=3)
    stir(learner)
    save_weights(*learner.weights(), start, {"role": "policy"})
    manifest = asyncio.run(
        Grpo(base, practice(base, worlds), scenarios, start, tmp_path / "policy", SETTINGS).train()
    )
    history = asyncio.run(
        reference_loop.train(base, practice(base, worlds), scenarios, start, tmp_path / "reference", SETTINGS)
    )
    for ours, plain in zip(manifest["history"], history, strict=True):
        assert (ours["rows"], ours["tokens"]) == (plain["rows"], plain["tokens"]) and plain["rows"] > 4
        assert ours["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-3)
        assert ours["lr"] == pytest.approx(plain["lr"])
    before, one, other = (read_adapter(tmp_path / name)[0] for name in ("start", "policy", "reference"))
    update = torch.cat([(one[k] - before[k]).flatten() for k in before])
    plain_update = torch.cat([(other[k] - before[k]).flatten() for k in before])
    assert update.norm() > 1e-3 and (update - plain_update).norm() < 2e-2 * update.norm()


def test_the_reference_loop_is_short() -> None:
    assert len(Path(reference_loop.__file__).read_text().splitlines()) <= 250
