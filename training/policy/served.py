"""Checks whether an engine serves the newest adapter, by comparing log-probabilities with the learner's.

Stale serving is silent: training runs, but the rollouts come from another policy (ART issue 661, TRL issue 5312). After
each step, every engine scores a few tokens of the step's own rows under the new name, through its prefix cache. The
learner computes the same log-probabilities with the new and with the previous adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingest.errors import UserError
from training.learning.batch import Row

POSITIONS = 8
ROWS = 8
"""So many rows are compared where the first one looks stale: in bfloat16, the rounding of one row can look like a step.
"""
LEAST_STEP = 0.01
"""Mean change of the log-probabilities in nats below which a step looks like rounding. The last steps of a schedule
that ends at 0 change so little; engines that fold adapters into bfloat16 weights then serve both as the same."""
MAX_GAP = 0.5
"""Mean gap between engine and learner in nats above which rounding cannot be the cause."""


class StaleAdapter(UserError):
    """An engine serves another adapter than the one that was published."""


@dataclass(frozen=True)
class Probe:
    """Ids, and the positions whose log-probabilities are compared (ascending, without 0)."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]

    @classmethod
    def several(cls, rows: Sequence[Row]) -> list[Probe]:
        """The shortest rows with POSITIONS learned tokens (or with the most), at evenly spaced ones: the rounding of
        one or two tokens can look like a step. Empty where no row has a learned token."""
        taught = sorted((row for row in rows if row.learned), key=lambda r: (-min(r.learned, POSITIONS), len(r.ids)))
        out = []
        for row in taught[:ROWS]:
            learned = [k for k, mark in enumerate(row.trained) if mark]
            chosen = tuple(learned[:: max(1, len(learned) // POSITIONS)][:POSITIONS])
            out.append(cls(row.ids[: chosen[-1] + 1], chosen))
        return out


def check_served(
    name: str, served: Sequence[float], now: Sequence[float], before: Sequence[float] | None = None
) -> float:
    """The mean gap between engine and learner, in nats. Raises StaleAdapter.

    `served` are the engine's log-probabilities under `name`, `now` the learner's, `before` the learner's before the
    step. If the engine's gap to `before` is less than a quarter of its gap to `now`, it serves the previous adapter,
    unless the two hardly differ.
    """
    gap_now = _mean_gap(served, now)
    moved = before is not None and _mean_gap(now, before) >= LEAST_STEP
    if before is not None and moved and _mean_gap(served, before) < gap_now / 4:
        raise StaleAdapter(
            f"the engine serves the previous adapter under the name {name!r}: log-probabilities differ from the "
            f"learner's by {gap_now:.2g} nats, and agree with those of the step before; restart the engine, or look "
            "for a cache in front of it"
        )
    if gap_now > MAX_GAP:
        raise StaleAdapter(
            f"the adapter that the engine serves as {name!r} is not the learner's: log-probabilities differ by "
            f"{gap_now:.2g} nats on average; check that both load the same base in the same precision"
        )
    return gap_now


def _mean_gap(first: Sequence[float], second: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(first, second, strict=True)) / len(first)
