"""Trajectories in ATIF, the Agent Trajectory Interchange Format of the Harbor project, versions 1.x.

Since version 1.7 ``trajectory_id`` names a trajectory, ``session_id`` only the run that it belongs to, and a trajectory
may hold those of its sub-agents (``subagent_trajectories``). Each is a conversation of its own.
"""

from __future__ import annotations

from typing import Any

from ingest.formats.records.outcomes import outcomes_of
from ingest.formats.records.trajectory import Trajectory

_ROLES = {"user": "user", "agent": "assistant", "system": "system", "tool": "tool", "environment": "tool"}
_EMBEDDED = "subagent_trajectories"


def is_trajectory(value: Any) -> bool:
    """Whether a JSON value is one."""
    is_atif = isinstance(value, dict) and str(value.get("schema_version", "")).upper().startswith("ATIF")
    return is_atif and isinstance(value.get("steps"), list)


def trajectories_of(value: Any) -> list[Trajectory] | None:
    """A trajectory and those of its sub-agents, or None for another value."""
    if not is_trajectory(value):
        return None
    _check(value)
    found: list[Trajectory] = []
    _read(value, None, frozenset(), found)
    return found


def _check(value: dict[str, Any]) -> None:
    """Raises ValueError with what is wrong with a trajectory."""
    if not value["steps"]:
        raise ValueError("the trajectory has no steps")
    wrong = next((n for n, step in enumerate(value["steps"], 1) if not isinstance(step, dict)), None)
    if wrong is not None:
        raise ValueError(f"step {wrong} of the trajectory is no object")


def _read(value: dict[str, Any], parent: int | None, named: frozenset[str], found: list[Trajectory]) -> None:
    """Adds a trajectory and those within. ``named`` are the ids of those around it: one that has the same id is known
    by its content."""
    told = value.get("trajectory_id") or value.get("session_id")
    conversation_id = str(told) if told and str(told) not in named else None
    place = len(found)
    found.append(_trajectory({k: v for k, v in value.items() if k != _EMBEDDED}, conversation_id, parent))
    for inner in value.get(_EMBEDDED) or ():
        _read(inner, place, named | {str(told)}, found)


def _trajectory(value: dict[str, Any], conversation_id: str | None, parent: int | None) -> Trajectory:
    agent = value.get("agent") or {}
    messages = [message for step in value["steps"] for message in _messages(step)]
    answered = bool(messages) and messages[-1]["role"] == "assistant"
    return Trajectory(
        messages[:-1] if answered else messages, messages[-1:] if answered else [],
        tools=agent.get("tool_definitions"), agent=agent.get("name"), model=agent.get("model_name"),
        conversation_id=conversation_id, outcomes=outcomes_of(value), kept=value, parent=parent,
    )  # fmt: skip


def _messages(step: dict[str, Any]) -> list[dict[str, Any]]:
    """A step: what was said and called, then one message for each observed result. A step of the agent that
    holds only an observation (its call was the step before) says nothing of its own."""
    calls = [_call(call) for call in step.get("tool_calls") or ()]
    said: dict[str, Any] = {
        "role": _ROLES.get(step.get("source", ""), "assistant"),
        "content": step.get("message"),
        "timestamp": step.get("timestamp"),
    }
    if calls:
        said["tool_calls"] = calls
    if step.get("reasoning_content"):
        said["reasoning_content"] = step["reasoning_content"]
    results = (step.get("observation") or {}).get("results") or ()
    out = [said] if calls or said["content"] or not results else []
    return out + [_result(result, calls, step) for result in results]


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = {"name": call["function_name"], "arguments": call.get("arguments") or {}}
    return {"id": call.get("tool_call_id"), "type": "function", "function": function}


def _result(result: dict[str, Any], calls: list[dict[str, Any]], step: dict[str, Any]) -> dict[str, Any]:
    """``source_call_id`` may be missing where there is only one call that it can mean."""
    call_id = result.get("source_call_id") or (calls[0]["id"] if len(calls) == 1 else None)
    said = {"role": "tool", "tool_call_id": call_id, "content": result.get("content"),
            "timestamp": step.get("timestamp")}  # fmt: skip
    is_error = (result.get("extra") or {}).get("is_error")
    return {**said, "is_error": is_error} if isinstance(is_error, bool) else said
