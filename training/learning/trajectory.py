"""A trajectory: the record of one episode, in messages and in token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from training.environment import Observation, Start
from training.learning.batch import Row

INVENTED = ("generated", "abstained")
"""Provenances of answers that nothing in production determines."""


@dataclass
class Trajectory:
    """The record of an episode: its messages, and its ids with a mask of those that the agent sampled.

    `ids`, `trained` and `logprobs` are the current row. If a chat template rewrites earlier turns, a new row begins and
    the old one is appended to `closed`. Each sampled token is learned in the row in which it was sampled. `ended` is
    left (the user left), turns, tokens, or error. `reward` is None until the trajectory is scored; if it cannot be
    scored it stays None, never zero. `as_recorded`: how far its changes are those of the recorded success, None without
    one. Tokens were sampled at `temperature` with `min_p`.
    """

    start: Start
    seed: int
    messages: list[dict[str, Any]]
    ids: list[int] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    closed: list[Row] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    adapter: str | None = None
    temperature: float = 1.0
    min_p: float = 0.0
    ended: str = ""
    malformed: int = 0
    reward: float | None = None
    as_recorded: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def provenance(self) -> dict[str, int]:
        """Number of observations by provenance."""
        counts: dict[str, int] = {}
        for seen in self.observations:
            counts[seen.provenance] = counts.get(seen.provenance, 0) + 1
        return counts

    @property
    def cut_off(self) -> bool:
        """Whether a limit of turns or tokens ended the episode."""
        return self.ended in ("turns", "tokens")

    def invented(self) -> float:
        """Share of the observations that a model generated."""
        made_up = sum(o.provenance in INVENTED for o in self.observations)
        return made_up / max(1, len(self.observations))

    def rows(self, advantage: float) -> list[Row]:
        """All rows with a sampled token, in order. Each token of the episode has the same advantage."""
        rows = [replace(row, advantage=advantage) for row in self.closed]
        rows += [self._open(advantage)] if any(self.trained) else []
        name = f"{self.start.episode_id} {self.seed}" if len(rows) > 1 else ""
        return [replace(row, rollout=name) for row in rows]

    def supported(self) -> float:
        """Mean over the episode's observations of what each is worth; 1 without any. An invented answer is worth its
        support, which the world calibrates (worldmodel/support.py), an abstained one 0, any other 1. An error that is
        drawn at production's rate has the support of a draw, its probability; it is a fair sample, so it counts whole.
        """
        worth = [o.support if o.provenance in INVENTED else 1.0 for o in self.observations]
        return sum(worth) / len(worth) if worth else 1.0

    def row(self, advantage: float) -> Row:
        """The only row. Raises ValueError if there are several."""
        if self.closed:
            raise ValueError(f"this episode has {len(self.closed) + 1} rows; use rows()")
        return self._open(advantage)

    def begin_row(self, ids: Sequence[int]) -> None:
        """Close the current row and begin another one with a prompt."""
        if any(self.trained):
            self.closed.append(self._open(1.0))
        self.ids, self.trained, self.logprobs = list(ids), [False] * len(ids), []

    def sampled_tokens(self) -> int:
        """The number of ids that the agent sampled."""
        return sum(self.trained) + sum(row.learned for row in self.closed)

    def _open(self, advantage: float) -> Row:
        return Row(tuple(self.ids), tuple(self.trained), advantage, tuple(self.logprobs))


def seed_of(*parts: object) -> int:
    """A 63-bit seed from names and numbers; equal parts give equal seeds on every machine."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
