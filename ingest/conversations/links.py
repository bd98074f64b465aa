"""A tool call with its result and its execution, which telemetry records separately."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ingest.messages.chatform import Turn
from ingest.messages.normal import Observed

Ran = tuple[int, str, str]  # when a call ran (ns), and its trace and span


@dataclass(slots=True)
class Link:
    """One call: the turn that made it, the turn with its result, and its execution span (later only ``ran``)."""

    call: dict[str, Any]
    call_turn: Turn
    answer: Turn | None = None
    execution: Observed | None = None
    repairs: list[str] = field(default_factory=list)
    ran: Ran | None = None
    attempts: list[Observed] = field(default_factory=list)  # all of its executions; ``execution`` counts

    def forget_span(self) -> None:
        """Keep only the time and the ids of the execution span; its content is in the turns."""
        if e := self.execution:
            self.ran, self.execution, self.attempts = (e.start_ns, e.trace_id, e.span_id), None, []

    @property
    def is_error(self) -> bool:
        return bool(self.answer and self.answer.message.get("is_error"))
