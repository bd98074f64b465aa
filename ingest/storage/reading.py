"""Rows of the tables as the records that other rooms use."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import duckdb
import orjson

from ingest.records import Conversation, Message, Outcome, Scenario, ToolProfile, Transition


def _rows(db: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return db.execute(sql).fetchall()


def _message(row: tuple[Any, ...]) -> Message:
    role, content, calls, call_id, name, is_error, error_class, latency = row
    out: Message = {"role": role, "content": content}
    if calls:
        out["tool_calls"] = orjson.loads(calls)
    if role == "tool":
        out["tool_call_id"] = call_id or ""
        out["name"] = name or ""
        out["is_error"] = bool(is_error)
        out["error_class"] = error_class or ""
        if latency is not None:
            out["latency_ms"] = latency
    return out


def read_conversations(db: duckdb.DuckDBPyConnection) -> list[Conversation]:
    """Every conversation, oldest first."""
    messages: dict[str, list[Message]] = defaultdict(list)
    for cid, *row in _rows(
        db,
        "SELECT conversation_id, role, content, tool_calls, tool_call_id, name, is_error, error_class,"
        " latency_ms FROM messages ORDER BY conversation_id, position",
    ):
        messages[cid].append(_message(tuple(row)))
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    for cid, name, score, label, why in _rows(
        db, "SELECT conversation_id, name, score, label, explanation FROM outcomes ORDER BY time_ns, name"
    ):
        outcomes[cid].append({"name": name, "score": score, "label": label, "explanation": why})
    return [
        Conversation(cid, agent, messages[cid], orjson.loads(tools), outcomes[cid], list(flags), started)
        for cid, agent, tools, flags, started in _rows(
            db,
            "SELECT conversation_id, agent, tools, flags, started_at_ns FROM conversations"
            " ORDER BY started_at_ns, conversation_id",
        )
    ]


def read_transitions(db: duckdb.DuckDBPyConnection) -> list[Transition]:
    """Every answered call, in the order of conversations and calls."""
    return [
        Transition(cid, index, tool, _arguments(arguments), content, is_error, error_class, latency, started)
        for cid, index, tool, arguments, content, is_error, error_class, latency, started in _rows(
            db,
            "SELECT t.conversation_id, call_index, tool, arguments, content, is_error, error_class,"
            " latency_ms, t.started_at_ns FROM transitions t"
            " JOIN conversations c ON t.conversation_id = c.conversation_id"
            " ORDER BY c.started_at_ns, t.conversation_id, call_index",
        )
    ]


def _arguments(text: str | None) -> dict[str, Any]:
    """The call's arguments; a value that is no object (invalid JSON, free text) is kept under ``input``."""
    value = orjson.loads(text) if text else None
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"input": value}


def read_scenarios(db: duckdb.DuckDBPyConnection) -> list[Scenario]:
    """Every scenario with the facts of its conversation, oldest first."""
    facts: dict[str, list[Transition]] = defaultdict(list)
    for t in read_transitions(db):
        facts[t.conversation_id].append(t)
    return [
        Scenario(
            sid, cid, system, orjson.loads(tools), said, tuple(goal), tuple(facts[cid]), outcome, started
        )
        for sid, cid, system, tools, said, goal, outcome, started in _rows(
            db,
            "SELECT scenario_id, conversation_id, system, tools, first_user_message, goal, outcome,"
            " started_at_ns FROM scenarios ORDER BY started_at_ns, scenario_id",
        )
    ]


def read_tool_profiles(db: duckdb.DuckDBPyConnection) -> dict[str, ToolProfile]:
    """Each tool's profile by name."""
    out = {}
    for tool, calls, errors, classes, p50, p90, p99, keys in _rows(
        db,
        "SELECT tool, calls, errors, error_classes, latency_ms_p50, latency_ms_p90, latency_ms_p99,"
        " argument_keys FROM tool_profile ORDER BY tool",
    ):
        quantiles = {k: v for k, v in (("p50", p50), ("p90", p90), ("p99", p99)) if v is not None}
        out[tool] = ToolProfile(
            tool, calls, int(errors), orjson.loads(classes), quantiles, orjson.loads(keys)
        )
    return out
