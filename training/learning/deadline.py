"""When a run stops before its budget is spent. A clock may end a run between two steps; it never changes a step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Stop = Callable[[], bool]
"""Asked between two steps; True ends the run, whose result is then partial."""


def never() -> bool:
    """A run's own budget is the only limit."""
    return False


@dataclass(frozen=True)
class Deadline:
    """A `Stop` at a moment of the wall clock (seconds since 1970), so that it means the same in every process."""

    until: float

    @classmethod
    def after(cls, max_minutes: float) -> Deadline:
        """`max_minutes` from now."""
        return cls(time.time() + 60 * max_minutes)

    def __call__(self) -> bool:
        return time.time() >= self.until
