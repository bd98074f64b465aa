"""The batch format of all losses: ids, which of them are learned, and per-token values of the learned ones.

Axes: B rows, T tokens; N the learned tokens of a batch, in row order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(frozen=True)
class Row:
    """One sequence. `advantage` weights its learned tokens in a policy loss; `weights` weights each of them in a
    supervised loss; `logprobs` are the sampler's. Both have one entry per learned token, or none. Rows with the same
    `rollout` are parts of one trajectory; a row with an empty name is a whole one.
    """

    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    advantage: float = 1.0
    logprobs: tuple[float, ...] = field(default=())
    weights: tuple[float, ...] = field(default=())
    rollout: str = ""

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.trained):
            raise ValueError(f"{len(self.ids)} ids but {len(self.trained)} marks")
        if self.trained and self.trained[0]:
            raise ValueError("the first token of a row cannot be learned: nothing comes before it")
        if self.logprobs and len(self.logprobs) != self.learned:
            raise ValueError(f"{self.learned} learned tokens but {len(self.logprobs)} log-probabilities")
        if self.weights and len(self.weights) != self.learned:
            raise ValueError(f"{self.learned} learned tokens but {len(self.weights)} weights")

    @property
    def learned(self) -> int:
        return sum(self.trained)


@dataclass(frozen=True)
class Layout:
    """Members of one packed row: `shared` tokens that all of them begin with, then each member's own."""

    shared: int
    members: tuple[int, ...]

    @property
    def positions_BT(self) -> torch.Tensor:
        """The position of each token in its member [1, T]."""
        owns = [torch.arange(self.shared, self.shared + count) for count in self.members]
        return torch.cat([torch.arange(self.shared), *owns])[None]

    @property
    def seen_B1TT(self) -> torch.Tensor:
        """Which tokens each token attends to [1, 1, T, T]: the shared ones and those of its member, up to itself."""
        owner_T = torch.tensor([-1] * self.shared + [k for k, count in enumerate(self.members) for _ in range(count)])
        positions_T = self.positions_BT[0]
        seen_TT = (owner_T[:, None] == owner_T) | (owner_T == -1)
        return (seen_TT & (positions_T[:, None] >= positions_T))[None, None]

    def without_last(self) -> Layout:
        """The layout of all tokens but the last one."""
        return Layout(self.shared, tuple(k for k in (*self.members[:-1], self.members[-1] - 1) if k))


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right. Causal attention never attends from real tokens to padding."""

    ids_BT: torch.Tensor
    trained_BT: torch.Tensor
    advantages_N: torch.Tensor
    sampler_N: torch.Tensor | None
    weights_N: torch.Tensor | None = None
    layout: Layout | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on a device. `trained_BT` stays on the CPU, where positions are selected from it."""

        def there(value: torch.Tensor | None) -> torch.Tensor | None:
            return None if value is None else value.to(device, non_blocking=True)

        ids_BT, advantages_N = self.ids_BT.to(device, non_blocking=True), self.advantages_N.to(device)
        sampler_N, weights_N = there(self.sampler_N), there(self.weights_N)
        return Batch(ids_BT, self.trained_BT, advantages_N, sampler_N, weights_N, self.layout)


def collate(rows: Sequence[Row], pad_id: int, multiple: int = 1) -> Batch:
    """Rows as one batch. The length of the model's input (all columns but the last) is a multiple of `multiple`."""
    longest = 1 + multiple * math.ceil((max(len(r.ids) for r in rows) - 1) / multiple)
    ids_BT = torch.full((len(rows), longest), pad_id)
    trained_BT = torch.zeros((len(rows), longest), dtype=torch.bool)
    for k, row in enumerate(rows):
        ids_BT[k, : len(row.ids)] = torch.tensor(row.ids)
        trained_BT[k, : len(row.ids)] = torch.tensor(row.trained)
    advantages_N = torch.tensor([row.advantage for row in rows for _ in range(row.learned)])
    sampled = [p for row in rows for p in row.logprobs]
    sampler_N = torch.tensor(sampled) if sampled else None
    weights_N = None
    if any(row.weights for row in rows):
        weights_N = torch.tensor([w for row in rows for w in (row.weights or [1.0] * row.learned)])
    return Batch(ids_BT, trained_BT, advantages_N, sampler_N, weights_N)


def by_length(rows: Sequence[Row], tokens: int) -> list[list[Row]]:
    """Rows grouped by similar length, each group with at most `tokens` padded tokens (at least one row)."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda r: len(r.ids)):
        if groups and len(row.ids) * (len(groups[-1]) + 1) <= tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def epochs(rows: Sequence[Row], tokens: int, seed: int, start: int = 0):  # type: ignore[no-untyped-def]
    """Endless groups for training, shuffled each epoch; `start` skips groups when a run resumes.

    Rows are shuffled first and then sorted by length within stretches, so that groups differ between epochs.
    """
    number, epoch = 0, 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(rows))
        groups: list[list[Row]] = []
        for at in range(0, len(order), 512):
            groups += by_length([rows[k] for k in order[at : at + 512]], tokens)
        for k in rng.permutation(len(groups)):
            if number >= start:
                yield groups[k]
            number += 1
        epoch += 1
