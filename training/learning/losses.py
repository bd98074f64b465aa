"""What every loss shares: log-probabilities of the learned tokens, and the protocol that the learner knows.

A loss returns a sum over tokens; the learner divides by the loss's own count of the whole optimizer step. Dividing a
micro-batch by its own count would weigh tokens by the company they keep; so would a mean over rows, and there a
trajectory split in two rows would count twice (DAPO, arXiv 2503.14476, token-level loss).
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
    """A sum over N tokens, and sums of what is worth logging."""

    total: torch.Tensor
    metrics: dict[str, float]


@dataclass(frozen=True)
class Tokens:
    """What a loss may read of the N learned tokens of a micro-batch.

    `rollout_ratio_N`, `rollout_distance_N` and `rollout_tokens_N` are of each token's whole rollout, whichever rows and
    micro-batches it lies in (for losses that are `sequence_level`, without gradient): the sums of log p - log sampler
    and of log p - log reference (zeros where there is no sampler or reference), and the number of learned tokens.
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
    """The mean over the step's rollouts of log p - log reference, summed over a rollout's tokens."""


class Loss(Protocol):
    """One algorithm. The learner runs the model and knows no more than this."""

    needs_sampler: ClassVar[bool]
    """Whether every row must carry the sampler's log-probabilities."""
    sequence_level: ClassVar[bool]
    """Whether the sums over whole rollouts are needed: one more forward pass, without gradient."""

    @property
    def needs_reference(self) -> bool:
        """Whether the reference adapter's log-probabilities are needed."""
        ...

    def count(self, rows: Sequence[Row]) -> float:
        """What the sum over all rows of an optimizer step is divided by."""
        ...

    def __call__(self, tokens: Tokens) -> LossSum:
        """The sum over a micro-batch."""
        ...


@dataclass(frozen=True)
class Drawing:
    """The distribution that tokens are drawn from: softmax(logits / temperature), without the tokens that are less
    likely than `min_p` times the likeliest (arXiv 2407.01082).
    """

    temperature: float = 1.0
    min_p: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether it is the model's own distribution."""
        return self.temperature == 1.0 and self.min_p == 0.0

    def logprobs(self, logits_NV: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [N, V] under this distribution. `ids_N` were drawn, so they are never cut off: rounding
        must not make them impossible."""
        scaled_NV = logits_NV / self.temperature
        if self.min_p:
            floor_N1 = scaled_NV.detach().amax(-1, keepdim=True) + math.log(self.min_p)
            cut_NV = (scaled_NV < floor_N1).scatter(-1, ids_N[:, None], False)
            scaled_NV = scaled_NV.masked_fill(cut_NV, -torch.inf)
        return scaled_NV.log_softmax(-1)


WHOLE = Drawing()


@dataclass(frozen=True)
class Sft:
    """Cross-entropy, each token times its weight; the metric is the plain one."""

    needs_sampler: ClassVar[bool] = False
    sequence_level: ClassVar[bool] = False
    needs_reference: bool = False

    def count(self, rows: Sequence[Row]) -> float:
        return learned_tokens(rows)

    def __call__(self, tokens: Tokens) -> LossSum:
        weighted_N = tokens.logprobs_N if tokens.weights_N is None else tokens.logprobs_N * tokens.weights_N
        return LossSum(-weighted_N.sum(), {"loss": -tokens.logprobs_N.detach().sum().item()})


def learned_tokens(rows: Sequence[Row]) -> int:
    """Learned tokens of all rows."""
    return sum(row.learned for row in rows)


def rollouts(rows: Sequence[Row]) -> int:
    """Distinct rollouts among the rows; a row without a name is one of its own."""
    return len({row.rollout for row in rows if row.rollout}) + sum(not row.rollout for row in rows)
