"""Whether an engine serves the adapter that was just trained: a few log-probabilities, asked and computed.

Stale serving is silent: training runs, and the rollouts come from another policy (reference: ART 661, TRL 5312). After
each step a few tokens of the step's own rows are asked of every engine, through its prefix cache, under the new name.
The learner knows what the new adapter says of them, and what the one before said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingest.errors import UserError
from training.learning.batch import Row

POSITIONS = 8
MAX_GAP = 0.5
"""Nats between engine and learner, on average, that no rounding explains."""


class StaleAdapter(UserError):
    """An engine serves another adapter than the one that was published."""


@dataclass(frozen=True)
class Probe:
    """Ids, and the positions whose log-probabilities are compared (ascending, none of them the first)."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Probe | None:
        """The shortest row that teaches something, at tokens that were learned, evenly spread."""
        taught = [row for row in rows if row.learned]
        if not taught:
            return None
        row = min(taught, key=lambda r: len(r.ids))
        learned = [k for k, mark in enumerate(row.trained) if mark]
        chosen = tuple(learned[:: max(1, len(learned) // POSITIONS)][:POSITIONS])
        return cls(row.ids[: chosen[-1] + 1], chosen)


def check_served(
    name: str, served: Sequence[float], now: Sequence[float], before: Sequence[float] | None = None
) -> float:
    """The mean gap between engine and learner, in nats. Raises StaleAdapter.

    `served` are the engine's log-probabilities under `name`, `now` the learner's, `before` the learner's before the
    step. An engine that agrees with `before` four times better than with `now` serves the adapter before.
    """
    gap_now = _mean_gap(served, now)
    if before is not None and _mean_gap(served, before) < gap_now / 4:
        raise StaleAdapter(
            f"the engine serves the adapter before {name!r} under its name (log-probabilities are {gap_now:.2g} nats "
            "off the learner's, and those of the step before fit); restart the engine, or look for a cache before it"
        )
    if gap_now > MAX_GAP:
        raise StaleAdapter(
            f"under {name!r} the engine serves something else than the learner holds: log-probabilities are "
            f"{gap_now:.2g} nats off on average; check that engine and learner load the same base, in one precision"
        )
    return gap_now


def _mean_gap(first: Sequence[float], second: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(first, second, strict=True)) / len(first)
