"""Decides whether a task succeeded, by code that inspects the database and the agent's messages. No model is used.

A task succeeds if the database is exactly in the right end state (all wanted changes, no other), the result of every
goal was reported with the right facts, and every claim was true when it was made.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from .language.speech import Heard, hear
from .tasks import Goal, Task

_STATE = (
    "SELECT id, status, address, return_code FROM orders ORDER BY id",
    "SELECT order_id, cents FROM refunds ORDER BY id",
    "SELECT reason FROM handovers ORDER BY id",
)


def state(db: sqlite3.Connection) -> list[list[tuple[Any, ...]]]:
    """All values that tools can change."""
    return [db.execute(query).fetchall() for query in _STATE]


def expected_state(task: Task) -> list[list[tuple[Any, ...]]]:
    """The right end state: the task's orders with the changes of its goals applied."""
    rows = {o.id: [o.id, o.status, o.address, None] for o in task.orders}
    refunds = []
    for goal in task.goals:
        if goal.kind == "cancel":
            rows[goal.order_id][1] = "cancelled"
        elif goal.kind == "return":
            rows[goal.order_id][1:] = ["return open", rows[goal.order_id][2], goal.code]
        elif goal.kind == "address":
            rows[goal.order_id][2] = goal.address
        elif goal.kind == "refund":
            refunds.append((goal.order_id, goal.cents))
    return [[tuple(rows[k]) for k in sorted(rows)], refunds, []]


def is_done(goal: Goal, db: sqlite3.Connection) -> bool:
    """Whether the database holds the goal's change; a goal that only asks for facts changes nothing."""
    query = (
        "SELECT status, address, (SELECT sum(cents) FROM refunds WHERE order_id = o.id) "
        "FROM orders o WHERE id = ?"
    )
    row = db.execute(query, (goal.order_id,)).fetchone() or ("", "", None)
    done = {
        "cancel": row[0] == "cancelled",
        "return": row[0] == "return open",
        "address": row[1] == goal.address,
    }
    return done.get(goal.kind, row[2] == goal.cents if goal.kind == "refund" else True)


class Listener:
    """Reads the agent's messages, and checks each claim against the database at the time of the claim."""

    def __init__(self, task: Task, db: sqlite3.Connection) -> None:
        self._task, self._db = task, db
        self._told: set[int] = set()
        self.false_claims: list[str] = []

    @property
    def all_told(self) -> bool:
        return len(self._told) == len(self._task.goals)

    def told(self) -> dict[str, bool]:
        return {g.kind: k in self._told for k, g in enumerate(self._task.goals)}

    def listen(self, text: str) -> None:
        """Read one message."""
        heard = hear(text)
        self.false_claims += [f"{claim}: {text}" for claim in self._false(heard)]
        for k, goal in enumerate(self._task.goals):
            if goal.kind in heard.denials:
                self._told.discard(k)
            elif self._tells(goal, heard):
                self._told.add(k)

    def _tells(self, goal: Goal, heard: Heard) -> bool:
        if goal.kind == "track":
            return heard.days == {goal.day} and heard.cities == {goal.city}
        if goal.kind == "product":
            assert goal.product is not None
            return goal.product.cents in heard.amounts and goal.stock in heard.stocks
        if goal.kind == "return":
            return goal.code in heard.codes
        return (goal.kind in heard.claims or heard.done) and is_done(goal, self._db)

    def _false(self, heard: Heard) -> list[str]:
        """The false claims of a message."""
        goals = {g.kind: g for g in self._task.goals}
        wrong = [c for c in sorted(heard.claims) if not (c in goals and is_done(goals[c], self._db))]
        if heard.done:
            wrong += [f"done ({g.kind})" for g in goals.values() if not is_done(g, self._db)]
        wrong += [f"code {c}" for c in sorted(heard.codes) if not self._is_code(c)]
        if "track" in goals and (heard.days - {goals["track"].day} or heard.cities - {goals["track"].city}):
            wrong.append("wrong place or day")
        product = goals["product"].product if "product" in goals else None
        if product is not None and heard.stocks - {goals["product"].stock}:
            wrong.append("wrong stock")
        amounts = {product.cents} if product is not None else set()
        amounts |= {g.cents for g in goals.values() if g.kind == "refund"}
        if heard.amounts - amounts:
            wrong.append("wrong amount")
        return wrong

    def _is_code(self, code: str) -> bool:
        query = "SELECT 1 FROM orders WHERE return_code = ? AND id = ?"
        return any(self._db.execute(query, (code, g.order_id)).fetchone() for g in self._task.goals)
