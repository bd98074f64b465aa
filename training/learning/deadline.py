"""Stops a run before its budget is spent. A clock can end a run between two steps; it never changes a step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Stop = Callable[[], bool]
"""Called between two steps; True ends the run, whose result is then partial."""


def never() -> bool:
    """Never stops: only the run's budget ends it."""
    return False


@dataclass(frozen=True)
class Deadline:
    """A `Stop` at a time of the wall clock (Unix seconds), so that it is the same moment in every process."""

    until: float

    @classmethod
    def after(cls, max_minutes: float) -> Deadline:
        """A deadline in `max_minutes` minutes."""
        return cls(time.time() + 60 * max_minutes)

    def __call__(self) -> bool:
        return time.time() >= self.until
