"""Events of command-line agents (Codex CLI, Claude Code, Gemini CLI and their kin), each log record by itself.

An event is known by its name without the vendor before it: ``codex.tool_result`` and ``claude_code.tool_result`` are
the same. Sources: openai/codex, codex-rs/otel; code.claude.com/docs, monitoring-usage; google-gemini/gemini-cli,
docs/cli/telemetry.md. All of them write content only when the user's settings allow it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ingest.messages.normal import LogRecord
from ingest.messages.parts import first, parse
from ingest.session_ids import KEYS

PROMPT, ANSWER, TOOL, REQUEST, RESPONSE, SILENT = "prompt", "answer", "tool", "request", "response", "silent"
KINDS = {
    "user_prompt": PROMPT, "user_message": PROMPT,
    "assistant_response": ANSWER, "agent_response": ANSWER, "assistant_message": ANSWER, "agent_message": ANSWER,
    "tool_result": TOOL, "tool_call": TOOL, "tool.call": TOOL, "tool.result": TOOL,
    "api_request": REQUEST, "api_request_body": REQUEST,
    "api_response": RESPONSE, "api_response_body": RESPONSE,
    # What these tell is no part of a conversation: settings, decisions, tokens, files, connections.
    **dict.fromkeys((
        "config", "conversation_starts", "conversation_finished", "sse_event", "websocket_event", "websocket_connect",
        "websocket_request", "auth_recovery", "auth", "tool_decision", "sandbox_outcome", "turn_cost", "turn_ttft",
        "api_error", "api_refusal", "api_retries_exhausted", "permission_mode_changed", "mcp_server_connection",
        "internal_error", "plugin_installed", "plugin_loaded", "skill_activated", "at_mention",
        "hook_registered", "hook_execution_start", "hook_execution_complete", "hook_call", "compaction",
        "feedback_survey",
        "subagent_completed", "tool_output_truncated", "file_operation", "edit_strategy", "edit_correction",
        "slash_command", "slash_command.model", "model_routing", "chat_compression", "chat.invalid_chunk",
        "chat.content_retry", "chat.content_retry_failure", "next_speaker_check", "flash_fallback", "ripgrep_fallback",
        "web_fetch_fallback_attempt", "malformed_json_response", "extension_install", "extension_uninstall",
        "extension_enable", "extension_disable", "extension_update", "agent.start", "agent.finish", "ide_connection",
        "startup_stats", "loop_detected", "llm_loop_check", "approval_mode_switch", "approval_mode_duration",
        "session.start", "session.created", "session.updated", "session.idle", "session.deleted", "session.error",
        "agent.turn", "plan_execution", "network_retry_attempt", "keychain.availability",
        "token_storage.initialization"), SILENT),
}  # fmt: skip
_NAMES = ("tool_name", "function_name", "tool.name", "gen_ai.tool.name")
_CALL_IDS = ("call_id", "tool_use_id", "tool_call_id", "toolCallId", "gen_ai.tool.call.id")
_ARGUMENTS = ("arguments", "tool_input", "function_args", "tool_parameters", "args", "gen_ai.tool.call.arguments")
_RESULTS = ("output", "tool_output", "tool_result", "result", "content", "gen_ai.tool.call.result")
_TEXTS = {
    PROMPT: ("prompt", "user_prompt", "message", "text", "content"),
    ANSWER: ("response", "response_text", "text", "message", "content"),
    REQUEST: ("request_text", "body", "request_body"),
    RESPONSE: ("response_text", "body", "response_body"),
}
REDACTED = {"[REDACTED]", "<REDACTED>", "[redacted]", "REDACTED"}


@dataclass(frozen=True)
class Call:
    """A tool execution. ``is_error`` is None if the record does not say whether it failed."""

    name: str
    call_id: str | None
    arguments: Any
    result: Any
    error_type: str | None
    is_error: bool | None
    duration_ns: int | None


@dataclass(frozen=True)
class Event:
    """One event of a session. ``content`` is a text, a request or a response as JSON, or a ``Call``; None if the
    record holds no content."""

    kind: str
    session: str
    time_ns: int
    order: tuple[int, int]
    content: Any
    record: LogRecord = field(repr=False)

    @property
    def is_redacted(self) -> bool:
        """Whether the agent's settings replaced the content by a marker."""
        return isinstance(self.content, str) and self.content.strip() in REDACTED


def read_event(record: LogRecord) -> Event | None:
    """A log record as an event; None if it is not an event or names no session."""
    a = {**record.attributes, **record.body} if isinstance(record.body, dict) else record.attributes
    session = session_of(record)
    kind = next((KINDS[n] for n in names(record) if n in KINDS), None)
    if kind is None or session is None:
        return None
    time_ns = record.time_ns or _iso_ns(a.get("event.timestamp"))
    order = (time_ns, _int(a.get("event.sequence")))
    content: Any = None
    if kind == TOOL:
        content = _call(a)
    elif kind in _TEXTS:
        content = first(a, *_TEXTS[kind])
    return Event(kind, session, time_ns, order, content, record)


def session_of(record: LogRecord) -> str | None:
    """The session that a record names."""
    body = record.body if isinstance(record.body, dict) else {}
    found = first(record.attributes, *KEYS) or first(body, *KEYS) or first(record.resource, *KEYS)
    return None if found is None else str(found)


def sub_agent(record: LogRecord) -> str:
    """The sub-agent of a session that an event is about; "" for the session's own agent."""
    return str(first(record.attributes, "agent.id", "agent_id", "subagent.id", "agent.name", "agent_name") or "")


def names(record: LogRecord) -> list[str]:
    """The possible names of an event, without the vendor's prefix. Bridges from other loggers write a source location
    into ``event_name``, and the name into an attribute or the body."""
    told = (record.attributes.get("event.name"), record.event_name, record.body)
    found = [name for name in told if isinstance(name, str) and name and len(name) < 100]
    return [name for full in found for name in (full, full.partition(".")[2]) if name]


def vendor(record: LogRecord) -> str:
    """The agent that wrote a record, by its service, else by the event's name."""
    told = first(record.attributes, "agent.name") or first(record.resource, "service.name")
    prefixed = (
        n.partition(".")[0] for n in (record.attributes.get("event.name"), record.event_name) if isinstance(n, str)
    )
    return str(told or next(prefixed, ""))


def _call(a: dict[str, Any]) -> Call | None:
    name = first(a, *_NAMES)
    if not isinstance(name, str):
        return None
    went = a.get("success")
    is_error = None if went in (None, "") else str(went).lower() == "false"
    error = first(a, "error", "error.message", "error_message")
    result = first(a, *_RESULTS)
    if result is None and is_error and error is not None:
        result = error
    call_id = first(a, *_CALL_IDS)
    kind, took = first(a, "error_type", "error.type") if is_error else None, first(a, "duration_ms")
    return Call(
        name, call_id if isinstance(call_id, str) else None, parse(first(a, *_ARGUMENTS)), result,
        None if kind is None else str(kind), is_error, None if took is None else _int(took) * 1_000_000,
    )  # fmt: skip


def _int(value: Any) -> int:
    try:
        return max(0, min(int(float(value)), 2**62))
    except (TypeError, ValueError, OverflowError):
        return 0


def _iso_ns(value: Any) -> int:
    try:
        return int(datetime.fromisoformat(value).timestamp() * 1_000_000) * 1000
    except (TypeError, ValueError, OverflowError):
        return 0
