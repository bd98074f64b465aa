"""Losses for recorded conversations with outcomes, where nobody samples: reward-weighted SFT, AsymRE, TOPR, KTO.

Traces carry no log-probabilities. With a ratio that is set to 1 for want of them, a policy gradient is REINFORCE under
another name, so a method that needs the ratio is refused without them. Each class is also its own settings.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from training.learning.batch import Row
from training.learning.losses import LossSum, Tokens, learned_tokens, rollouts


class _Offline(BaseModel):
    """A loss, and what a conversation's reward (0 to 1) becomes as its rows' `advantage`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    needs_sampler: ClassVar[bool] = False
    sequence_level: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False

    def advantages(self, rewards: Sequence[float]) -> list[float]:
        """One number a conversation; conversations with 0 teach nothing."""
        return list(rewards)

    def count(self, rows: Sequence[Row]) -> float:
        return learned_tokens(rows)

    def __call__(self, tokens: Tokens) -> LossSum:
        """-A log p, token by token."""
        loss_N = -tokens.advantages_N * tokens.logprobs_N
        return LossSum(loss_N.sum(), {"loss": loss_N.detach().sum().item()})


class RewardWeightedSft(_Offline):
    """SFT in which a conversation counts as much as its reward (arXiv 2506.06964); failures teach nothing."""

    method: Literal["reward_weighted_sft"] = "reward_weighted_sft"


class AsymRe(_Offline):
    """REINFORCE without a ratio and with a baseline below the mean reward (AsymRE, arXiv 2506.20520): with such a
    baseline the policy improves and keeps its support; at the mean or above, it may collapse.
    """

    method: Literal["asymre"] = "asymre"
    margin: float = Field(0.1, gt=0, description="How far the baseline lies below the mean reward.")

    def advantages(self, rewards: Sequence[float]) -> list[float]:
        baseline = statistics.fmean(rewards) - self.margin
        return [reward - baseline for reward in rewards]


class Topr(_Offline):
    """Successes as SFT; failures are pushed away as far as the policy still says them: times min(pi / mu, 1) of the
    whole conversation (TOPR, arXiv 2503.14286). It needs recorded log-probabilities.
    """

    method: Literal["topr"] = "topr"
    success: float = Field(0.5, gt=0, le=1, description="Rewards from here on are successes.")

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
    """KTO (arXiv 2402.01306): desirable conversations gain, undesirable ones lose, both saturating, relative to the
    adapter that the fit started from.

    The reference point z0 is the batch's mean log ratio, not below 0, of the very conversations; the paper estimates it
    on mismatched pairs. The sum's value is a surrogate whose gradient is KTO's.
    """

    method: Literal["kto"] = "kto"
    beta: float = Field(0.1, gt=0, description="How soon a conversation's log ratio saturates.")
    desirable: float = Field(1.0, gt=0, description="Weight of the successes.")
    undesirable: float = Field(1.0, gt=0, description="Weight of the failures.")
    success: float = Field(0.5, gt=0, le=1, description="Rewards from here on are successes.")

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
"""The offline loss as a setting: `method` names it, AsymRE if nothing does."""
