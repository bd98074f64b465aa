"""Policy losses, one small class each: CISPO (the default), PPO-clip, GSPO, Dr. GRPO.

The importance ratio is relative to the sampler's own log-probabilities. Each class is also its own settings, and
refuses fields that the algorithm does not use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from training.learning.batch import Row
from training.learning.choices import without_defaults_of
from training.learning.losses import LossSum, Tokens, learned_tokens, rollouts

FORM = "The loss: cispo, ppo_clip, dr_grpo or gspo."


class _Policy(BaseModel):
    """Shared by the policy losses: the KL penalty and the logged metrics.

    KL estimate: k3 = exp(d) - d - 1 with d = log reference - log p (http://joschu.net/blog/kl-approx.html).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    needs_sampler: ClassVar[bool] = True
    sequence_level: ClassVar[bool] = False

    kl_penalty: float = Field(
        0.05, ge=0, description="Weight of the KL penalty (k3) to the adapter that the run started from."
    )

    @property
    def needs_reference(self) -> bool:
        return self.kl_penalty > 0

    def count(self, rows: Sequence[Row]) -> float:
        """The learned tokens of the whole step (DAPO, arXiv 2503.14476)."""
        return learned_tokens(rows)

    def __call__(self, tokens: Tokens) -> LossSum:
        assert tokens.sampler_N is not None
        gap_N = tokens.logprobs_N - tokens.sampler_N
        policy_N, clipped_N = self.policy(tokens, gap_N)
        scale_N = self.scale(tokens)
        metrics = {
            "loss": policy_N.detach().sum().item(),
            "clipped": clipped_N.float().sum().item(),
            "engine_kl": (gap_N.detach().exp() - 1 - gap_N.detach()).sum().item(),
        }
        if tokens.reference_N is not None:
            distance_N = tokens.reference_N - tokens.logprobs_N
            kl_N = distance_N.exp() - distance_N - 1
            policy_N = policy_N + self.kl_penalty * kl_N
            metrics["kl"] = kl_N.detach().sum().item()
        return LossSum((policy_N * scale_N).sum(), metrics)

    def policy(self, tokens: Tokens, gap_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each token's loss, and whether its ratio was clipped; `gap_N` is log p - log sampler."""
        raise NotImplementedError

    def scale(self, tokens: Tokens) -> torch.Tensor | float:
        """The factor of each token's loss before the sum."""
        return 1.0


class Cispo(_Policy):
    """-sg(min(ratio, max_importance_weight)) A log p: the weight is clipped, every token keeps its gradient
    (MiniMax-M1, arXiv 2506.13585, equations 4 and 5)."""

    form: Literal["cispo"] = Field("cispo", description=FORM)
    max_importance_weight: float = Field(5.0, gt=0, description="Importance weights above this are clipped.")

    def policy(self, tokens: Tokens, gap_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ratio_N = gap_N.detach().exp()
        weight_N = ratio_N.clamp(max=self.max_importance_weight)
        return -weight_N * tokens.advantages_N * tokens.logprobs_N, ratio_N > self.max_importance_weight


class _Clipped(_Policy):
    """-min(r A, clip(r) A) (PPO, arXiv 1707.06347, equation 7), clip-higher as in DAPO; with `dual_clip`, the loss of
    negative advantages is bounded (arXiv 1912.09729, equation 5).
    """

    clip_low: float = Field(0.2, gt=0, description="Ratios below 1 - clip_low get no gradient.")
    clip_high: float = Field(0.28, gt=0, description="Ratios above 1 + clip_high get none (clip-higher).")
    dual_clip: float | None = Field(3.0, gt=1, description="Bound of the ratio for negative advantages; null: none.")

    def policy(self, tokens: Tokens, gap_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ratio_N, advantages_N = self.ratio(tokens, gap_N), tokens.advantages_N
        bounded_N = ratio_N.clamp(1 - self.clip_low, 1 + self.clip_high)
        policy_N = -torch.minimum(ratio_N * advantages_N, bounded_N * advantages_N)
        if self.dual_clip is not None:
            worst_N = -self.dual_clip * advantages_N
            policy_N = torch.where(advantages_N < 0, torch.minimum(policy_N, worst_N), policy_N)
        return policy_N, bounded_N.detach() != ratio_N.detach()

    def ratio(self, tokens: Tokens, gap_N: torch.Tensor) -> torch.Tensor:
        return gap_N.exp()


class PpoClip(_Clipped):
    """PPO's clipped surrogate, token by token."""

    form: Literal["ppo_clip"] = Field("ppo_clip", description=FORM)


class DrGrpo(_Clipped):
    """PPO-clip, summed and divided by the constant rollouts times `max_tokens` (Dr. GRPO, arXiv 2503.20783).

    A token's weight depends on no length, neither its rollout's nor the others'.
    """

    form: Literal["dr_grpo"] = Field("dr_grpo", description=FORM)
    max_tokens: int = Field(256, ge=1, description="The constant length: about the agent's tokens in an episode.")

    def count(self, rows: Sequence[Row]) -> float:
        return rollouts(rows) * self.max_tokens


class Gspo(_Clipped):
    """PPO-clip on the geometric mean of a rollout's ratios; a rollout counts once (GSPO, arXiv 2507.18071, equations
    5 and 7, and 13 for the gradient token by token).
    """

    form: Literal["gspo"] = Field("gspo", description=FORM)
    clip_low: float = Field(3e-4, gt=0, description="Ratios below 1 - clip_low get no gradient (the paper's value).")
    clip_high: float = Field(4e-4, gt=0, description="Ratios above 1 + clip_high get none (the paper's value).")
    dual_clip: float | None = Field(None, gt=1, description="Bound of the ratio for negative advantages; null: none.")

    sequence_level: ClassVar[bool] = True

    def count(self, rows: Sequence[Row]) -> float:
        return rollouts(rows)

    def ratio(self, tokens: Tokens, gap_N: torch.Tensor) -> torch.Tensor:
        assert tokens.rollout_ratio_N is not None and tokens.rollout_tokens_N is not None
        sequence_N = tokens.rollout_ratio_N / tokens.rollout_tokens_N
        return (sequence_N + gap_N - gap_N.detach()).exp()

    def scale(self, tokens: Tokens) -> torch.Tensor | float:
        assert tokens.rollout_tokens_N is not None
        return 1 / tokens.rollout_tokens_N


def _form(given: Any) -> str:
    return str(given.get("form", "cispo") if isinstance(given, dict) else given.form)


PolicyLoss = Annotated[
    Annotated[Cispo, Tag("cispo")]
    | Annotated[PpoClip, Tag("ppo_clip")]
    | Annotated[DrGrpo, Tag("dr_grpo")]
    | Annotated[Gspo, Tag("gspo")],
    Discriminator(_form),
    without_defaults_of(Cispo, "form"),
]
"""The policy loss as a setting, selected by `form`; default CISPO."""
