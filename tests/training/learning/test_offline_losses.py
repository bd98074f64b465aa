"""Losses for recorded conversations: the papers' gradients, and no ratio that nobody recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from training_samples import adapter_of_all, conversations, stir, tiny_base

from ingest.errors import UserError
from training.learning.batch import Row
from training.learning.fits import FitSettings
from training.learning.learner import Learner, LearnerSettings
from training.learning.losses import Tokens
from training.learning.offline_losses import AsymRe, Kto, OfflineLoss, RewardWeightedSft, Topr
from training.models.base import Base
from training.models.lora import LoraSettings, manifest_of
from training.policy.clone import policy_rows
from training.policy.offline.fit import OfflineSettings, fit_offline, offline_rows, rewarded

LEARNER = LearnerSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=2e-3, warmup_steps=0, bf16=False)
FIT = FitSettings(learner=LEARNER, max_tokens=6000, max_epochs=100, step_tokens=800, evaluations=2)
LENGTHS = torch.tensor([3, 2, 4])


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


@pytest.fixture(scope="module")
def start(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter_of_all(base, LEARNER, 12, tmp_path_factory.mktemp("start") / "clone")


def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    logprobs = -torch.rand(9, generator=draw, dtype=torch.float64)
    gap = torch.randn(9, generator=draw, dtype=torch.float64)
    return {"logprobs": logprobs, "other": logprobs - gap, "advantages": torch.tensor([1.0, -1.0, -1.0]).double()}


def sums(values_N: torch.Tensor) -> torch.Tensor:
    return torch.stack([part.sum() for part in values_N.split(LENGTHS.tolist())])


def ours(loss: Any) -> torch.Tensor:
    """The gradient of our loss by log p; `other` stands for the sampler's and for the reference's."""
    found = batch()
    logprobs = found["logprobs"].clone().requires_grad_()
    gaps = sums(found["logprobs"] - found["other"])
    tokens = Tokens(
        logprobs, found["advantages"].repeat_interleave(LENGTHS), found["other"], found["other"], None,
        gaps.repeat_interleave(LENGTHS), gaps.repeat_interleave(LENGTHS), LENGTHS.repeat_interleave(LENGTHS).double(),
        gaps.mean().item(),
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(loss(tokens).total, logprobs)
    return gradient


def test_the_kto_gradient_equals_that_of_the_paper() -> None:
    loss, found = Kto(beta=0.4, desirable=1.3, undesirable=0.7), batch()
    logprobs = found["logprobs"].clone().requires_grad_()
    ratio = sums(logprobs - found["other"])  # TRL's kto_trainer.py: chosen and rejected log ratios
    point = ratio.mean().clamp(min=0).detach()
    chosen = 1 - torch.sigmoid(0.4 * (ratio[:1] - point))
    rejected = 1 - torch.sigmoid(0.4 * (point - ratio[1:]))
    (expected,) = torch.autograd.grad(1.3 * chosen.sum() + 0.7 * rejected.sum(), logprobs)
    assert torch.allclose(ours(loss), expected, rtol=0, atol=1e-9) and expected.abs().min() > 0


def test_the_topr_gradient_equals_that_of_the_paper() -> None:
    found = batch()
    logprobs = found["logprobs"].clone().requires_grad_()
    taper = sums(found["logprobs"] - found["other"]).exp().clamp(0, 1)
    whole = sums(logprobs)
    (expected,) = torch.autograd.grad(-whole[0] + (taper[1:] * whole[1:]).sum(), logprobs)
    assert torch.allclose(ours(Topr()), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("loss", [RewardWeightedSft(), AsymRe()])
def test_other_methods_weight_the_log_likelihood(loss: Any) -> None:
    assert torch.equal(ours(loss), -batch()["advantages"].repeat_interleave(LENGTHS))


def test_each_method_maps_rewards_to_its_weights() -> None:
    rewards = [1.0, 0.0, 0.5, 0.9]
    assert RewardWeightedSft().advantages(rewards) == rewards
    assert AsymRe(margin=0.1).advantages(rewards) == pytest.approx([0.5, -0.5, 0.0, 0.4])
    assert Kto().advantages(rewards) == Topr().advantages(rewards) == [1.0, -1.0, 1.0, 1.0]
    read = TypeAdapter(OfflineLoss).validate_python
    assert read({}) == AsymRe() and read({"method": "kto", "beta": 0.2}) == Kto(beta=0.2)


def likelihood(base: Base, adapter: Path, success: bool) -> float:
    """Mean log-likelihood of what the agent wrote in conversations that went well, or badly."""
    chosen = [c for c, reward in rewarded(conversations(40, seed=9)) if (reward >= 0.5) == success]
    return -Learner(base, LEARNER, start=adapter).evaluate(policy_rows(chosen, base.format, False))


@pytest.mark.parametrize("loss", [RewardWeightedSft(), AsymRe(), Kto(beta=1.0)], ids=lambda v: v.method)
def test_successful_conversations_become_more_likely_than_failed_ones(
    base: Base, start: Path, tmp_path: Path, loss: Any
) -> None:
    settings = OfflineSettings(loss=loss, fit=FIT)
    manifest = fit_offline(base, rewarded(conversations(24)), start, tmp_path / "out", settings, show_system=False)
    kept = manifest_of(tmp_path / "out")
    assert kept is not None and kept["method"] == loss.method and manifest["partial"] is None

    def gap(adapter: Path) -> float:
        return likelihood(base, adapter, True) - likelihood(base, adapter, False)

    assert gap(tmp_path / "out") > gap(start) + 0.02


def test_a_ratio_without_a_recorded_log_probability_is_refused(base: Base, start: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="carry no log-probabilities of the recorded agent. Use asymre"):
        scored = rewarded(conversations(24))
        fit_offline(base, scored, start, tmp_path / "o", OfflineSettings(loss=Topr()), show_system=False)
    learner = Learner(base, LEARNER)
    stir(learner)
    with pytest.raises(ValueError, match="sampler's log-probabilities for every row"):
        learner.policy_step([Row((9, 10), (False, True))], Topr())


def test_failures_do_not_select_the_weights(base: Base, start: Path, tmp_path: Path) -> None:
    scored = sorted(rewarded(conversations(24)), key=lambda pair: -pair[1])  # the latest are failures
    with pytest.raises(UserError, match="all failures.*held_out_share"):
        fit_offline(base, scored, start, tmp_path / "o", OfflineSettings(), show_system=False)


def test_outcomes_that_do_not_differ_are_refused(base: Base, start: Path, tmp_path: Path) -> None:
    good = [c for c, reward in rewarded(conversations(24)) if reward == 1.0]
    with pytest.raises(UserError, match=f"got {len(good)} conversations with rewards"):
        fit_offline(base, rewarded(good), start, tmp_path / "out", OfflineSettings(), show_system=False)
    assert offline_rows([(good[0], 0.0)], base, RewardWeightedSft(), False) == []
