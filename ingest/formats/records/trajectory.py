"""The common form of a conversation that came without telemetry."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ingest.formats.records.outcomes import Outcome

_TIMES = ("timestamp", "created_at", "createdAt", "created", "time", "start_time")
_UNITS = ((10**17, 1), (10**14, 1_000), (10**11, 1_000_000), (0, 1_000_000_000))  # a number from here on, in ns


@dataclass(frozen=True)
class Trajectory:
    """``asked`` are the input messages of a model call and ``said`` its output, in forms that ``ingest.messages``
    reads. ``kept`` holds fields that have no place in the normal form. ``parent`` is the index of the trajectory that
    started this one, in the same list."""

    asked: list[Any]
    said: list[Any]
    system: Any = None
    tools: Any = None
    agent: str | None = None
    model: str | None = None
    conversation_id: str | None = None
    response_id: str | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    error: str | None = None
    at_ns: int = 0
    kept: Any = None
    parent: int | None = None

    def identity(self) -> list[Any]:
        """All content, as JSON values. Its hash identifies the trajectory."""
        told = [[o.name, o.score, o.label, o.explanation] for o in self.outcomes]
        ids = [self.agent, self.model, self.conversation_id, self.response_id, self.error, self.at_ns]
        return [self.asked, self.said, self.system, self.tools, ids, told, self.kept]

    def times(self) -> tuple[int, int]:
        """Start and end in ns; 0 if unknown."""
        times = [t for m in (*self.asked, *self.said) if isinstance(m, dict) and (t := time_of(m))]
        times += [self.at_ns] if self.at_ns else []
        return (min(times), max(times)) if times else (0, 0)


def time_of(record: dict[str, Any]) -> int:
    """The time of a record or a message in ns; 0 if it has none."""
    return next((t for k in _TIMES if (t := _ns(record.get(k)))), 0)


def _ns(value: Any) -> int:
    """An ISO 8601 time, or a number of seconds, milli-, micro- or nanoseconds since 1970."""
    if isinstance(value, bool) or value is None:
        return 0
    if isinstance(value, int | float):
        unit = next(unit for start, unit in _UNITS if value >= start) if 0 <= value < 2**63 else 0
        return min(int(value * unit), 2**63 - 1)
    try:
        return int(datetime.fromisoformat(value).timestamp() * 1_000_000) * 1000
    except (TypeError, ValueError, OverflowError):
        return 0
