"""Losses over learned tokens. Each returns a sum; the learner divides by the token count of the whole step.

Dividing a micro-batch by its own count would weigh tokens by the company they keep; so would a mean over rows, and
there a trajectory split in two rows would count twice (DAPO, arXiv 2503.14476, token-level loss).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field


class GrpoSettings(BaseModel):
    """The policy loss. `cispo` clips the importance weight and keeps every token's gradient (arXiv 2506.13585)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal["cispo", "ppo"] = Field("cispo", description="CISPO, or PPO's clipped surrogate.")
    max_importance_weight: float = Field(5.0, gt=0, description="CISPO: importance weights above this are clipped.")
    clip_low: float = Field(0.2, gt=0, description="PPO: ratios below 1 - clip_low get no gradient.")
    clip_high: float = Field(0.28, gt=0, description="PPO: ratios above 1 + clip_high get none (clip-higher).")
    dual_clip: float = Field(3.0, gt=1, description="PPO: bound of the loss for negative advantages.")
    kl_penalty: float = Field(0.05, ge=0, description="Weight of the k3 divergence from the serving adapter.")


@dataclass(frozen=True)
class LossSum:
    """A sum over N tokens, and sums of what is worth logging."""

    total: torch.Tensor
    metrics: dict[str, float]


def sft(logprobs_N: torch.Tensor, weights_N: torch.Tensor | None = None) -> LossSum:
    """Cross-entropy, each token times its weight; the metric is the plain one."""
    weighted_N = logprobs_N if weights_N is None else logprobs_N * weights_N.to(logprobs_N.device)
    return LossSum(-weighted_N.sum(), {"loss": -logprobs_N.detach().sum().item()})


def grpo(
    logprobs_N: torch.Tensor,
    sampler_N: torch.Tensor,
    advantages_N: torch.Tensor,
    reference_N: torch.Tensor | None,
    settings: GrpoSettings,
) -> LossSum:
    """The policy loss plus the divergence from the reference.

    The ratio is to the sampler's own log-probabilities, the ones under which the tokens were really drawn. CISPO:
    -sg(min(ratio, max_importance_weight)) A log p. PPO: -min(r A, clip(r) A), bounded by dual_clip for A < 0.
    Divergence: k3 = exp(d) - d - 1 with d = log reference - log p (http://joschu.net/blog/kl-approx.html).
    """
    ratio_N = (logprobs_N - sampler_N).exp()
    if settings.form == "cispo":
        weight_N = ratio_N.detach().clamp(max=settings.max_importance_weight)
        policy_N = -weight_N * advantages_N * logprobs_N
        clipped_N = ratio_N.detach() > settings.max_importance_weight
    else:
        bounded_N = ratio_N.clamp(1 - settings.clip_low, 1 + settings.clip_high)
        policy_N = -torch.minimum(ratio_N * advantages_N, bounded_N * advantages_N)
        worst_N = -settings.dual_clip * advantages_N
        policy_N = torch.where(advantages_N < 0, torch.minimum(policy_N, worst_N), policy_N)
        clipped_N = bounded_N.detach() != ratio_N.detach()
    total = policy_N.sum()
    metrics = {
        "loss": policy_N.detach().sum().item(),
        "clipped": clipped_N.float().sum().item(),
        "engine_kl": (ratio_N.detach() - 1 - (logprobs_N - sampler_N).detach()).sum().item(),
    }
    if reference_N is not None:
        distance_N = reference_N - logprobs_N
        kl_N = distance_N.exp() - distance_N - 1
        total = total + settings.kl_penalty * kl_N.sum()
        metrics["kl"] = kl_N.detach().sum().item()
    return LossSum(total, metrics)
