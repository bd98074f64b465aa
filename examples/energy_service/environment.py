"""The customer service of an energy provider as an environment (the protocol of training/environment.py).

Latencies are simulated and do not sleep. Starts and episodes are reproducible from their seeds.
"""

from __future__ import annotations

from typing import Any

from training.environment import Observation, Start, ToolCall

from ..shared import Streams
from .customers import Customer, opening
from .database import open_database, state
from .language.hearing import hear
from .tasks import Task, make_task
from .tools import TOOLS, Backend

SYSTEM = (
    "You are the service agent of the energy provider Wattline. Verify the caller before changes and invoice details. "
    "Use the tools, then answer the customer with the facts."
)


def expected_state(task: Task) -> list[list[tuple[Any, ...]]]:
    """The right end state of a task's database."""
    db = open_database(task.rows)
    for statement, values in task.changes:
        db.execute(statement, values)
    return state(db)


class ServiceEpisode:
    """One conversation, with one customer and one database."""

    def __init__(self, task_id: str, seed: int) -> None:
        self.task = make_task(task_id)
        self._db = open_database(self.task.rows)
        self._backend = Backend(self.task, self._db, f"{task_id} {seed}")
        self._customer = Customer(self.task, str(seed))
        self._told: set[int] = set()
        self._calls = 0
        self._errors = 0

    async def observe(self, call: ToolCall) -> Observation:
        """Answer a tool call from the database."""
        seen = self._backend.call(call)
        self._calls += 1
        self._errors += seen.is_error
        return seen

    async def respond(self, text: str) -> str | None:
        """The customer's next message; None if the customer has left."""
        heard = hear(text or "")
        for k, (kind, value) in enumerate(self.task.facts):
            if heard.states(kind, value, self.task.known_numbers):
                self._told.add(k)
        return self._customer.reply(text or "")

    def success(self) -> bool:
        """Whether the end state is right and the customer was told every fact."""
        return self._state_is_right() and len(self._told) == len(self.task.facts)

    def _state_is_right(self) -> bool:
        return state(self._db) == expected_state(self.task)

    def facts(self) -> dict[str, Any]:
        """The facts that the verdict is based on."""
        return {
            "kind": self.task.kind,
            "case": self.task.case,
            "temperament": self.task.temperament,
            "state_is_right": self._state_is_right(),
            "told": {f"{kind} {value}": k in self._told for k, (kind, value) in enumerate(self.task.facts)},
            "left": self._customer.left,
            "calls": self._calls,
            "errors": self._errors,
        }


class EnergyService(Streams):
    """Episodes of one split: `evaluation` (default), or `production`, which the traces are made from."""

    def _start(self, task_id: str) -> Start:
        task = make_task(task_id)
        tags = {"kind": task.kind, "case": task.case, "temperament": task.temperament}
        return Start(task_id, SYSTEM, TOOLS, opening(task), tags)

    def episode(self, start: Start, seed: int) -> ServiceEpisode:
        """A new episode of a start; `seed` determines timeouts, latencies and the customer's replies."""
        return ServiceEpisode(start.episode_id, seed)
