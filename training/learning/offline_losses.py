"""Losses for recorded conversations with outcomes: reward-weighted SFT, AsymRE, TOPR, KTO.

Traces have no log-probabilities. A policy gradient whose ratio is set to 1 would be REINFORCE, so a method that needs
the ratio is refused without them. Each class is also its own settings.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from training.learning.batch import Row
from training.learning.losses import LossSum, Tokens, learned_tokens, rollouts

METHOD = "The method: asymre, kto, reward_weighted_sft, topr or iterative_ppo."


class _Offline(BaseModel):
    """An offline loss, and its map from a conversation's reward (0 to 1) to the `advantage` of its rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    needs_sampler: ClassVar[bool] = False
    sequence_level: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False

    def advantages(self, rewards: Sequence[float]) -> list[float]:
        """One number per conversation; conversations with 0 are not trained on."""
        return list(rewards)

    def count(self, rows: Sequence[Row]) -> float:
        return learned_tokens(rows)

    def __call__(self, tokens: Tokens) -> LossSum:
        """-A log p, token by token."""
        loss_N = -tokens.advantages_N * tokens.logprobs_N
        return LossSum(loss_N.sum(), {"loss": loss_N.detach().sum().item()})


class RewardWeightedSft(_Offline):
    """SFT with each conversation weighted by its reward (arXiv 2506.06964); failures have weight 0."""

    method: Literal["reward_weighted_sft"] = Field("reward_weighted_sft", description=METHOD)


class AsymRe(_Offline):
    """REINFORCE without a ratio and with a baseline below the mean reward (AsymRE, arXiv 2506.20520). With such a
    baseline the policy improves and keeps its support; with a baseline at the mean or above, it can collapse.
    """

    method: Literal["asymre"] = Field("asymre", description=METHOD)
    margin: float = Field(0.1, gt=0, description="Distance of the baseline below the mean reward.")

    def advantages(self, rewards: Sequence[float]) -> list[float]:
        baseline = statistics.fmean(rewards) - self.margin
        return [reward - baseline for reward in rewards]


class Topr(_Offline):
    """SFT on successes; on failures, the gradient is weighted by min(pi / mu, 1) of the whole conversation (TOPR,
    arXiv 2503.14286). It needs recorded log-probabilities.
    """

    method: Literal["topr"] = Field("topr", description=METHOD)
    success: float = Field(0.5, gt=0, le=1, description="Rewards of at least this are successes.")

    needs_sampler: ClassVar[bool] = True
    sequence_level: ClassVar[bool] = True

    def advantages(self, rewards: Sequence[float]) -> list[float]:
        return [1.0 if reward >= self.success else -1.0 for reward in rewards]

    def __call__(self, tokens: Tokens) -> LossSum:
        assert tokens.rollout_ratio_N is not None
        taper_N = tokens.rollout_ratio_N.clamp(max=0).exp().to(tokens.logprobs_N.dtype)
        weight_N = torch.where(tokens.advantages_N > 0, tokens.advantages_N, tokens.advantages_N * taper_N)
        loss_N = -weight_N * tokens.logprobs_N
        return LossSum(loss_N.sum(), {"loss": loss_N.detach().sum().item()})


class Kto(_Offline):
    """KTO (arXiv 2402.01306): raises desirable and lowers undesirable conversations, with saturation, relative to the
    adapter that the fit started from.

    The reference point z0 is the batch's mean log ratio, at least 0, over the same conversations; the paper estimates
    it on mismatched pairs. The sum's value is a surrogate with KTO's gradient.
    """

    method: Literal["kto"] = Field("kto", description=METHOD)
    beta: float = Field(0.1, gt=0, description="Scale of a conversation's log ratio; larger values saturate earlier.")
    desirable: float = Field(1.0, gt=0, description="Weight of the successes.")
    undesirable: float = Field(1.0, gt=0, description="Weight of the failures.")
    success: float = Field(0.5, gt=0, le=1, description="Rewards of at least this are successes.")

    sequence_level: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True

    def advantages(self, rewards: Sequence[float]) -> list[float]:
        return [1.0 if reward >= self.success else -1.0 for reward in rewards]

    def count(self, rows: Sequence[Row]) -> float:
        return rollouts(rows)

    def __call__(self, tokens: Tokens) -> LossSum:
        assert tokens.rollout_distance_N is not None and tokens.rollout_tokens_N is not None
        sign_N = tokens.advantages_N.sign()
        point = max(0.0, tokens.mean_distance)
        kept_N = torch.sigmoid(self.beta * sign_N * (tokens.rollout_distance_N - point))
        good_N = (sign_N > 0).to(kept_N.dtype)
        weight_N = self.desirable * good_N + self.undesirable * (1 - good_N)
        slope_N = (weight_N * kept_N * (1 - kept_N) * self.beta * sign_N).to(tokens.logprobs_N.dtype)
        value_N = weight_N * (1 - kept_N) / tokens.rollout_tokens_N
        return LossSum((-slope_N * tokens.logprobs_N).sum(), {"loss": value_N.sum().item()})


def _method(given: Any) -> str:
    return str(given.get("method", "asymre") if isinstance(given, dict) else given.method)


OfflineLoss = Annotated[
    Annotated[RewardWeightedSft, Tag("reward_weighted_sft")]
    | Annotated[AsymRe, Tag("asymre")]
    | Annotated[Topr, Tag("topr")]
    | Annotated[Kto, Tag("kto")],
    Discriminator(_method),
]
"""The offline loss as a setting, selected by `method`; default AsymRE."""
