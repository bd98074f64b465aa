"""Learned log-probabilities are those under which the tokens were drawn; an engine that cannot give them refuses."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from training_samples import Walls, scenario, stir, tiny_base

from ingest.errors import UserError
from training.engines import Sampling
from training.engines.local import LocalEngine
from training.engines.vllm_server import VllmServer
from training.judging.ruler import Ruler
from training.learning.learner import Learner, LearnerSettings
from training.learning.losses import Drawing
from training.learning.policy_losses import Cispo
from training.learning.presets import learning_rate
from training.learning.trajectory import Trajectory
from training.models.base import Base
from training.models.lora import LoraSettings
from training.policy.practice import Practice
from training.policy.rollout import Limits

SHAPE = LearnerSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=1e-30, warmup_steps=0, bf16=False)


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


def lived(base: Base, learner: Learner, temperature: float, min_p: float) -> list[Trajectory]:
    engine = LocalEngine(base.model, base.format.pad_id, dtype=torch.float32)
    engine.publish_adapter("policy", *learner.weights())
    ruler: Any = Ruler
    practice = Practice(
        engine, base.format, Walls(), ruler, Limits(turns=2, turn_tokens=12), temperature=temperature, min_p=min_p
    )
    groups = asyncio.run(practice.groups([scenario(k) for k in range(3)], [1, 2, 3], 3, "policy"))
    return [t for group in groups for t in group if isinstance(t, Trajectory)]


@pytest.mark.parametrize(("temperature", "min_p"), [(1.0, 0.0), (1.0, 0.3), (0.6, 0.0), (1.7, 0.05)])
def test_the_ratio_is_one_on_policy(base: Base, temperature: float, min_p: float) -> None:
    drawing = Drawing(temperature, min_p)
    learner = Learner(base, SHAPE, drawing=drawing)
    stir(learner)
    rows = [t.row(1.0) for t in lived(base, learner, temperature, min_p)]
    assert len(rows) == 9
    assert learner.policy_step(rows, Cispo(kl_penalty=0.0))["engine_kl"] < 1e-6
    if not drawing.whole:
        other = Learner(base, SHAPE)
        stir(other)
        assert other.policy_step(rows, Cispo(kl_penalty=0.0))["engine_kl"] > 1e-3


def test_learned_logprobs_are_those_of_the_sampling_distribution() -> None:
    logits, ids = torch.tensor([[2.0, 1.0, 0.0, -4.0]]), torch.tensor([1])
    found = Drawing(0.5, 0.1).logprobs(logits, ids)[0]
    kept = torch.tensor([4.0, 2.0]).log_softmax(-1)  # e^-4 of the likeliest is below 0.1, and so is the rest
    assert found[:2].tolist() == pytest.approx(kept.tolist()) and found[2:].tolist() == [-torch.inf] * 2
    drawn_by_rounding = Drawing(0.5, 0.1).logprobs(logits, torch.tensor([2]))[0]
    assert drawn_by_rounding[2].isfinite()


def test_evaluation_gets_the_models_own_logprobs(base: Base) -> None:
    engine = LocalEngine(base.model, base.format.pad_id, dtype=torch.float32)

    async def logprobs(**more: Any) -> tuple[float, ...]:
        return (await engine.sample([9, 10, 11], adapter=None, sampling=Sampling(6, 0.5, (), 3, 0.1, **more))).logprobs

    plain, learned = asyncio.run(logprobs()), asyncio.run(logprobs(learned=True))
    assert all(a < b for a, b in zip(plain, learned, strict=True))


@pytest.mark.parametrize("asked", [Sampling(4, 0.7, learned=True), Sampling(4, 1.0, min_p=0.05, learned=True)])
def test_a_server_whose_logprobs_may_be_others_is_refused_before_it_samples(asked: Sampling) -> None:
    closed = object.__new__(VllmServer)
    with pytest.raises(UserError, match="train.min_p to 0"):
        asyncio.run(VllmServer.sample(closed, [1, 2], adapter=None, sampling=asked))


def test_rates_are_by_size_unless_they_are_given(base: Base, tmp_path: Path) -> None:
    sizes = [1e6, 1e8, 1e9, 1e10]
    models = [torch.nn.Linear(int(n**0.5), int(n**0.5), bias=False, device="meta") for n in sizes]
    for kind in ("supervised", "policy", "world"):
        rates = [learning_rate(m, kind) for m in models]  # type: ignore[arg-type]
        assert rates == sorted(rates, reverse=True) and len(set(rates)) == 4
    assert Learner(base, LearnerSettings(preset="policy")).peak_rate == 8e-4
    assert Learner(base, LearnerSettings(learning_rate=0.5)).peak_rate == 0.5
