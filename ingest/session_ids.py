"""Which session a log record belongs to that names no trace, for those who read records and those who drop them."""

from __future__ import annotations

KEYS = ("session.id", "conversation.id", "gen_ai.conversation.id", "thread.id", "session_id", "conversation_id")
TRACE = "session:"  # before a session's id: what stands for the trace of its records


def trace_sql(record: str) -> str:
    """The same as an expression of DuckDB over a row of ``log_records``; NULL for a record of no session."""
    places = [(of, key) for of in ("attributes", "body", "resource") for key in KEYS]
    found = [f"""nullif(json_extract_string({record}.{of}, '$."{key}"'), '')""" for of, key in places]
    return f"'{TRACE}' || coalesce({', '.join(found)})"
