"""The desk's twelve tools: their arguments, effects, answers and errors.

Errors are JSON: {"error":"rate_limited","message":"..."}; the class is stable. Timeouts and latencies are a function of
the episode's seed, the tool, and the index of the call among the calls of that tool, so they are the same for two
agents in equal episodes.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from typing import Any

from training.environment import Observation, ToolCall

from ..shared import Timeouts, dumps
from .tasks import Task

PAGE_SIZE = 2
RATE_LIMIT_SECONDS = 5
TIMEOUT_RATES = {
    "get_order": 0.1,
    "track_parcel": 0.2,
    "get_product": 0.12,
    "find_orders": 0.07,
    "search_products": 0.08,
    "cancel_order": 0.12,
    "open_return": 0.12,
    "refund_order": 0.12,
    "change_address": 0.12,
}
MEDIAN_LATENCY_MS = {
    "track_parcel": 640.0,
    "search_products": 210.0,
    "refund_order": 480.0,
    "find_orders": 180.0,
}
TIMEOUT_MS = 5000.0
POLICIES = {
    "returns": "sent back within 30 days",
    "refunds": "paid within 3 days",
    "shipping": "free above 50 dollars",
}
_PREFIXED, _BARE = re.compile(r"O-\d{5}", re.ASCII), re.compile(r"\d{5}", re.ASCII)


def _tool(name: str, description: str, required: int | None = None, /, **properties: str) -> dict[str, Any]:
    names = list(properties)
    return {
        "type": "function",
        "name": name,
        "description": description,
        "parameters": {
            "type": "object",
            "properties": {k: {"type": t} for k, t in properties.items()},
            "required": names[: len(names) if required is None else required],
        },
    }


TOOLS: tuple[dict[str, Any], ...] = (
    _tool("find_orders", "Orders of a customer, by name", 1, name="string", page="integer"),
    _tool("get_order", "One order", order_id="string"),
    _tool("track_parcel", "Where the carrier has a parcel", number="string"),
    _tool("search_products", "Products of a line", 1, query="string", page="integer"),
    _tool("get_product", "Price and stock of a product", sku="string"),
    _tool("cancel_order", "Cancel an order", order_id="string"),
    _tool("open_return", "Open a return in the warehouse", number="string"),
    _tool("refund_order", "Pay money back", order_id="string", cents="integer"),
    _tool("change_address", "Ship an order elsewhere", order_id="string", address="string"),
    _tool("get_policy", "What the shop promises", topic="string"),
    _tool("wait", "Wait", seconds="integer"),
    _tool("hand_over", "Hand over to a colleague", reason="string"),
)
_DEFINITIONS = {t["name"]: t["parameters"] for t in TOOLS}
_TYPES: dict[str, type] = {"string": str, "integer": int}


class ToolError(Exception):
    """A refused call: its error class, and the message that the agent reads."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class, self.message = error_class, message


class Desk:
    """The tools of one episode, over its database. `noise_seed` seeds timeouts and latencies."""

    def __init__(self, task: Task, db: sqlite3.Connection, noise_seed: str) -> None:
        self.db = db
        self._task, self._noise_seed = task, noise_seed
        self._codes = {o.id: o.return_code for o in task.orders}
        self._calls: Counter[str] = Counter()
        self._timeouts = Timeouts(TIMEOUT_RATES)
        self._searches = 0
        self._stale: dict[int, dict[str, Any]] = {}

    def call(self, call: ToolCall) -> Observation:
        """Answer one call. A refused call returns an observation with an error, never an exception."""
        rng = random.Random(f"{self._noise_seed} {call.name} {self._calls[call.name]}")
        self._calls[call.name] += 1
        latency = round(rng.lognormvariate(0, 0.35) * MEDIAN_LATENCY_MS.get(call.name, 90.0), 1)
        try:
            if self._timeouts.hits(call.name, rng):  # before any effect
                raise ToolError("timeout", "no answer in 5 s")
            body = self._answer(call)
        except ToolError as error:
            body = {"error": error.error_class, "message": error.message}
            latency = TIMEOUT_MS + latency if error.error_class == "timeout" else latency
            return Observation(dumps(body), True, error.error_class, latency)
        if call.name == "wait":
            latency += 1000.0 * call.arguments["seconds"]
        return Observation(dumps(body), latency_ms=latency)

    def _answer(self, call: ToolCall) -> dict[str, Any]:
        schema = _DEFINITIONS.get(call.name)
        if schema is None:
            raise ToolError("unknown_tool", f"no tool {call.name[:40]}")
        for name in schema["required"]:
            if name not in call.arguments:
                raise ToolError("invalid_argument", f"{name} is missing")
        for name, value in call.arguments.items():
            if name not in schema["properties"]:
                raise ToolError("invalid_argument", f"unknown argument {name[:40]}")
            wanted = schema["properties"][name]["type"]
            if not isinstance(value, _TYPES[wanted]) or isinstance(value, bool):
                raise ToolError("invalid_argument", f"{name} must be {wanted}")
            if isinstance(value, str) and not value.isprintable():  # also refuses lone surrogates, which SQLite rejects
                raise ToolError("invalid_argument", f"{name} must be plain text")
        handler: Callable[..., dict[str, Any]] = getattr(self, f"_{call.name}")
        return handler(**call.arguments)

    # ----- look-ups

    def _find_orders(self, name: str, page: int = 1) -> dict[str, Any]:
        self._count_search()
        rows = self.db.execute(
            "SELECT o.id, o.item FROM orders o JOIN customers c ON c.id = o.customer_id "
            "WHERE c.name = ? ORDER BY o.id",
            (name,),
        ).fetchall()
        return _page("orders", [f"{item}: O-{number}" for number, item in rows], page)

    def _search_products(self, query: str, page: int = 1) -> dict[str, Any]:
        self._count_search()
        if len(query) < 3:
            raise ToolError("invalid_argument", "query needs 3 letters")
        rows = self.db.execute(
            "SELECT sku, name FROM products WHERE instr(line, ?) > 0 ORDER BY rowid", (query,)
        ).fetchall()
        return _page("items", [f"{name}: {sku}" for sku, name in rows], page)

    def _get_order(self, order_id: str) -> dict[str, Any]:
        number = self._prefixed(order_id)
        fresh = self._view(number)
        return self._stale.pop(number, fresh)

    def _track_parcel(self, number: str) -> dict[str, Any]:
        order = self._bare(number)
        row = self.db.execute("SELECT state, city, day FROM parcels WHERE order_id = ?", (order,)).fetchone()
        if row is None:
            raise ToolError("not_found", f"no parcel {number}")
        return {"parcel": number, "state": row[0], "city": row[1], "day": row[2]}

    def _get_product(self, sku: str) -> dict[str, Any]:
        row = self.db.execute("SELECT name, cents, stock FROM products WHERE sku = ?", (sku,)).fetchone()
        if row is None:
            raise ToolError("not_found", f"no product {sku[:12]}")
        return {"sku": sku, "name": row[0], "cents": row[1], "stock": row[2]}

    def _get_policy(self, topic: str) -> dict[str, Any]:
        if topic not in POLICIES:
            raise ToolError("not_found", "topics: " + ", ".join(POLICIES))
        return {"topic": topic, "text": POLICIES[topic]}

    # ----- writes

    def _cancel_order(self, order_id: str) -> dict[str, Any]:
        number = self._prefixed(order_id)
        status = self._status(number)
        if status in ("shipped", "delivered"):
            raise ToolError("conflict", f"{order_id} has shipped")
        if status != "processing":
            raise ToolError("conflict", f"{order_id} is {status}")
        self._change(number, "UPDATE orders SET status = 'cancelled' WHERE id = ?", (number,))
        return {"order": order_id, "result": "accepted"}

    def _open_return(self, number: str) -> dict[str, Any]:
        order = self._bare(number)
        status = self._status(order)
        if status not in ("shipped", "delivered"):
            reason = "has not shipped" if status == "processing" else f"is {status}"
            raise ToolError("conflict", f"{number} {reason}")
        update = "UPDATE orders SET status = 'return open', return_code = ? WHERE id = ?"
        self._change(order, update, (self._codes[order], order))
        return {"return": number, "result": "accepted"}

    def _refund_order(self, order_id: str, cents: int) -> dict[str, Any]:
        number = self._prefixed(order_id)
        price = self._view(number)["cents"]
        if not 0 < cents <= price:
            raise ToolError("conflict", f"refund must be 1 to {price}")
        self._change(number, "INSERT INTO refunds (order_id, cents) VALUES (?, ?)", (number, cents))
        return {"order": order_id, "refund": cents, "result": "accepted"}

    def _change_address(self, order_id: str, address: str) -> dict[str, Any]:
        number = self._prefixed(order_id)
        status = self._status(number)
        if status != "processing":
            raise ToolError("conflict", f"{order_id} has shipped" if status != "cancelled" else "cancelled")
        if not re.fullmatch(r"\d+ [A-Z]\w+ \w+", address):
            raise ToolError("invalid_argument", "address must be like 1 Elm Street")
        self._change(number, "UPDATE orders SET address = ? WHERE id = ?", (address, number))
        return {"order": order_id, "result": "accepted"}

    def _wait(self, seconds: int) -> dict[str, Any]:
        if not 1 <= seconds <= 60:
            raise ToolError("invalid_argument", "seconds must be 1 to 60")
        if seconds >= RATE_LIMIT_SECONDS:
            self._searches = 0
        return {"waited": seconds}

    def _hand_over(self, reason: str) -> dict[str, Any]:
        self.db.execute("INSERT INTO handovers (reason) VALUES (?)", (reason,))
        return {"result": "accepted"}

    # ----- quirks

    def _count_search(self) -> None:
        if self._searches >= self._task.search_burst:
            raise ToolError("rate_limited", f"too many searches, wait {RATE_LIMIT_SECONDS} s")
        self._searches += 1

    def _change(self, number: int, statement: str, values: tuple[Any, ...]) -> None:
        """Write, and let the next read of this order show its old state (a lagging read replica)."""
        self._stale[number] = self._view(number)
        self.db.execute(statement, values)

    def _prefixed(self, order_id: str) -> int:
        if not _PREFIXED.fullmatch(order_id):
            raise ToolError("invalid_argument", "order_id needs the O- prefix")
        self._status(int(order_id[2:]))
        return int(order_id[2:])

    def _bare(self, number: str) -> int:
        if not _BARE.fullmatch(number):
            raise ToolError("invalid_argument", "number takes digits only")
        return int(number)

    def _status(self, number: int) -> str:
        row = self.db.execute("SELECT status FROM orders WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise ToolError("not_found", f"no order {number}")
        return row[0]

    def _view(self, number: int) -> dict[str, Any]:
        row = self.db.execute(
            "SELECT item, cents, status, address, return_code, "
            "(SELECT sum(cents) FROM refunds WHERE order_id = o.id) FROM orders o WHERE id = ?",
            (number,),
        ).fetchone()
        view = {"order": f"O-{number}", "item": row[0], "cents": row[1], "status": row[2], "address": row[3]}
        return {
            **view,
            **({"return_code": row[4]} if row[4] else {}),
            **({"refunded": row[5]} if row[5] else {}),
        }


def _page(key: str, found: list[str], page: int) -> dict[str, Any]:
    if page < 1:
        raise ToolError("invalid_argument", "page starts at 1")
    end = page * PAGE_SIZE
    return {key: found[end - PAGE_SIZE : end], "page": page, "more": len(found) > end}
