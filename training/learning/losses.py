"""The loss protocol, the sampling distribution, and the supervised loss.

A loss returns a sum over tokens. The learner divides it by the loss's count over the whole optimizer step. Dividing
each micro-batch by its own count would make a token's weight depend on its micro-batch, and a mean over rows would
count a trajectory that is split in two rows twice (DAPO, arXiv 2503.14476, token-level loss).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from training.learning.batch import Row


@dataclass(frozen=True)
class LossSum:
    """A sum over N tokens, and sums of logged metrics."""

    total: torch.Tensor
    metrics: dict[str, float]


@dataclass(frozen=True)
class Tokens:
    """The input of a loss: the N learned tokens of a micro-batch.

    `rollout_ratio_N`, `rollout_distance_N` and `rollout_tokens_N` refer to each token's whole rollout, over all its
    rows and micro-batches (for `sequence_level` losses, without gradient): the sum of log p - log sampler, the sum of
    log p - log reference (zeros without a sampler or reference), and the number of learned tokens.
    """

    logprobs_N: torch.Tensor
    advantages_N: torch.Tensor
    sampler_N: torch.Tensor | None = None
    reference_N: torch.Tensor | None = None
    weights_N: torch.Tensor | None = None
    rollout_ratio_N: torch.Tensor | None = None
    rollout_distance_N: torch.Tensor | None = None
    rollout_tokens_N: torch.Tensor | None = None
    mean_distance: float = 0.0
    """The mean over the step's rollouts of the sum of log p - log reference."""


class Loss(Protocol):
    """One algorithm. The learner runs the model and uses only this interface."""

    needs_sampler: ClassVar[bool]
    """Whether every row must have the sampler's log-probabilities."""
    sequence_level: ClassVar[bool]
    """Whether sums over whole rollouts are needed, which takes one more forward pass without gradient."""

    @property
    def needs_reference(self) -> bool:
        """Whether the reference adapter's log-probabilities are needed."""
        ...

    def count(self, rows: Sequence[Row]) -> float:
        """The divisor of the sum over all rows of an optimizer step."""
        ...

    def __call__(self, tokens: Tokens) -> LossSum:
        """The sum over a micro-batch."""
        ...


@dataclass(frozen=True)
class Drawing:
    """The sampling distribution: softmax(logits / temperature), without tokens whose probability is below `min_p` times
    the largest one (arXiv 2407.01082).
    """

    temperature: float = 1.0
    min_p: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether it is the model's own distribution (temperature 1, min_p 0)."""
        return self.temperature == 1.0 and self.min_p == 0.0

    def logprobs(self, logits_NV: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [N, V] under this distribution. The sampled `ids_N` are never excluded, even if rounding
        puts them below the threshold."""
        scaled_NV = logits_NV / self.temperature
        if self.min_p:
            floor_N1 = scaled_NV.detach().amax(-1, keepdim=True) + math.log(self.min_p)
            cut_NV = (scaled_NV < floor_N1).scatter(-1, ids_N[:, None], False)
            scaled_NV = scaled_NV.masked_fill(cut_NV, -torch.inf)
        return scaled_NV.log_softmax(-1)


WHOLE = Drawing()


@dataclass(frozen=True)
class Sft:
    """Cross-entropy, weighted per token; the metric is unweighted."""

    needs_sampler: ClassVar[bool] = False
    sequence_level: ClassVar[bool] = False
    needs_reference: bool = False

    def count(self, rows: Sequence[Row]) -> float:
        return learned_tokens(rows)

    def __call__(self, tokens: Tokens) -> LossSum:
        weighted_N = tokens.logprobs_N if tokens.weights_N is None else tokens.logprobs_N * tokens.weights_N
        return LossSum(-weighted_N.sum(), {"loss": -tokens.logprobs_N.detach().sum().item()})


def learned_tokens(rows: Sequence[Row]) -> int:
    """The number of learned tokens of all rows."""
    return sum(row.learned for row in rows)


def rollouts(rows: Sequence[Row]) -> int:
    """The number of distinct rollouts; a row without a name counts as one."""
    return len({row.rollout for row in rows if row.rollout}) + sum(not row.rollout for row in rows)
