"""Recorded conversations of a small agent, with outcomes, as `rehearsal ingest` reads them."""

from __future__ import annotations

import json
from typing import Any

TOOL = {
    "name": "get_order",
    "description": "Looks up an order.",
    "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
}


def talk(k: int) -> dict[str, Any]:
    """One conversation: an order is looked up; every third time the agent gives no answer, and has failed."""
    order, status = f"W{4000 + k}", ("shipped", "pending")[k % 2]
    call = {"name": "get_order", "arguments": json.dumps({"order_id": order})}
    return {
        "id": f"talk-{k}", "agent": "desk", "created_at": f"2026-03-02T08:{k:02}:00Z", "tools": [TOOL],
        "reward": float(k % 3 > 0),
        "messages": [
            {"role": "system", "content": "You help with orders."},
            {"role": "user", "content": f"Where is my order {order}?"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": call}]},
            {"role": "tool", "tool_call_id": "c", "content": json.dumps({"order_id": order, "status": status})},
            {"role": "assistant", "content": f"It is {status}." if k % 3 else "I do not know."},
        ],
    }  # fmt: skip
