"""The support desk as an environment: the protocol of training/environment.py over the real database.

Latencies are simulated and do not sleep. Starts and episodes are reproducible from their seeds.
"""

from __future__ import annotations

from typing import Any

from training.environment import Observation, Start, ToolCall

from ..shared import Streams
from .customers import Customer
from .database import open_database
from .tasks import make_task
from .tools import TOOLS, Desk
from .verdict import Listener, expected_state, state

SYSTEM = "You are the support agent of a furniture shop. Use the tools, then tell the customer."


class DeskEpisode:
    """One agent's run at the desk, with one customer and one database."""

    def __init__(self, task_id: str, seed: int) -> None:
        self.task = make_task(task_id)
        self._db = open_database(self.task.orders, self.task.stock_seed)
        self._desk = Desk(self.task, self._db, f"{task_id} {seed}")
        self._customer = Customer(self.task, str(seed))
        self._listener = Listener(self.task, self._db)
        self._calls = 0
        self._errors = 0

    async def observe(self, call: ToolCall) -> Observation:
        """Answer a tool call from the database."""
        seen = self._desk.call(call)
        self._calls += 1
        self._errors += seen.is_error
        return seen

    async def respond(self, text: str) -> str | None:
        """The customer's next message; None if the customer has left. Later calls return None as well."""
        self._listener.listen(text)
        return self._customer.reply(text)

    def success(self) -> bool:
        """Whether the end state is right, every goal was reported, and no false claim was made."""
        return (
            state(self._db) == expected_state(self.task)
            and self._listener.all_told
            and not self._listener.false_claims
        )

    def facts(self) -> dict[str, Any]:
        """The facts that the verdict is based on."""
        return {
            "kind": self.task.kind,
            "temperament": self.task.temperament,
            "goals": [g.kind for g in self.task.goals],
            "state_is_right": state(self._db) == expected_state(self.task),
            "told": self._listener.told(),
            "false_claims": list(self._listener.false_claims),
            "left": self._customer.left,
            "calls": self._calls,
            "errors": self._errors,
        }


class SupportDesk(Streams):
    """Episodes of one split: `evaluation` (default), or `production`, which the traces are made from."""

    def _start(self, task_id: str) -> Start:
        task = make_task(task_id)
        tags = {"kind": task.kind, "temperament": task.temperament}
        return Start(task_id, SYSTEM, TOOLS, Customer(task, "").opening, tags)

    def episode(self, start: Start, seed: int) -> DeskEpisode:
        """A new episode of a start; `seed` determines timeouts, latencies and the customer's replies."""
        return DeskEpisode(start.episode_id, seed)
