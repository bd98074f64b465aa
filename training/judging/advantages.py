"""Advantages from a group's scores, and the judge's noise, which decides which groups carry no signal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

SURELY = 0.95
"""Quantile: this share of groups of pure noise is dropped."""


@dataclass(frozen=True)
class Scored:
    """A group's advantages, or the reason why it is dropped."""

    advantages: list[float]
    dropped: str = ""


def no_noise(members: int) -> float:
    """The spread of equal members under a judge without noise: 0."""
    return 0.0


def advantages(
    scores: Sequence[float | None],
    min_score_spread: float,
    weights: Sequence[float] | None = None,
    noise_spread: Callable[[int], float] = no_noise,
) -> Scored:
    """Scores less the group's mean. They are not divided by the deviation, which would amplify the judge's noise.

    A member's weight (default 1) scales its advantage; 0 excludes it. The mean is weighted, over the members that are
    scored and not excluded, so the advantages sum to zero. A group is dropped if less than three quarters of it is
    scored, or if its scores spread no more than `min_score_spread` or than noise does (`noise_spread`, a function of
    the number of members).
    """
    nothing = [0.0] * len(scores)
    shares = [1.0] * len(scores) if weights is None else list(weights)
    if sum(s is not None for s in scores) < -(-3 * len(scores) // 4):
        return Scored(nothing, "unscored")
    known = [(s, w) for s, w in zip(scores, shares, strict=True) if s is not None and w > 0]
    if len(known) < 2:
        return Scored(nothing, "too few members" if len(scores) > len(known) else "no spread")
    spread = max(s for s, _ in known) - min(s for s, _ in known)
    if spread <= max(min_score_spread, noise_spread(len(known))):
        return Scored(nothing, "no spread")
    mean = sum(s * w for s, w in known) / sum(w for _, w in known)
    return Scored([0.0 if s is None else w * (s - mean) for s, w in zip(scores, shares, strict=True)])


def kept_share(as_recorded: float | None, weight: float) -> float:
    """The share of a judge's score that an episode keeps: 1 less up to `weight` where it changes other things than the
    recorded success did; 1 if there is no such recording (`as_recorded` is None)."""
    return 1.0 if as_recorded is None else 1.0 - weight + weight * as_recorded


@dataclass
class JudgeNoise:
    """The deviation of the judge's scores for equal members, measured on planted groups of verbatim copies.

    The scores are averaged over the orders, as in training, so the deviation is on the scale on which groups are
    compared. `positions` are (position in the prompt from 0 to 1, score less the round's mean).
    """

    squares: float = 0.0
    freedom: int = 0
    groups: int = 0
    positions: list[tuple[float, float]] = field(default_factory=list)

    def add(self, scores: Sequence[float | None], positions: Sequence[tuple[float, float]] = ()) -> None:
        """Add one planted group's scores; unscored members are ignored."""
        known = [s for s in scores if s is not None]
        self.positions += positions
        if len(known) > 1:
            mean = statistics.fmean(known)
            self.squares += sum((s - mean) ** 2 for s in known)
            self.freedom += len(known) - 1
            self.groups += 1

    @property
    def deviation(self) -> float:
        """The standard deviation of scores of equal members; 0 before any group was planted."""
        return math.sqrt(self.squares / self.freedom) if self.freedom else 0.0

    def spread(self, members: int) -> float:
        """The SURELY quantile of the spread (largest less smallest score) of a group of equal members."""
        return self.deviation * _range_quantile(members) if members > 1 else 0.0

    @property
    def position_bias(self) -> float:
        """The score difference between the last and the first position (least squares over the planted groups)."""
        if len(self.positions) < 2:
            return 0.0
        place, score = np.array(self.positions).T
        spread = float(((place - place.mean()) ** 2).sum())
        return float(((place - place.mean()) * score).sum() / spread) if spread else 0.0


@lru_cache(maxsize=64)
def _range_quantile(members: int) -> float:
    """The SURELY quantile of the range of `members` standard normal numbers (Tukey's studentised range with infinite
    degrees of freedom), simulated with a fixed seed."""
    drawn = np.random.default_rng(0).standard_normal((40_000, members))
    return float(np.quantile(np.ptp(drawn, axis=1), SURELY))
