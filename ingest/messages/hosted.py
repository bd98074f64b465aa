"""Read provider-executed tools: one item of the answer has the call and its result.

OpenAI Responses (``mcp_call``, ``web_search_call``, ``code_interpreter_call``, ``file_search_call``, ``computer_call``,
``shell_call``, ...), Mistral (``tool.execution``), Groq (``executed_tools``), Gemini (``executableCode`` and
``codeExecutionResult``), and the interface messages of the AI SDK (``tool-<name>``). Nothing here knows a tool's name.
"""

from __future__ import annotations

import re
from typing import Any

from ingest.messages.kinds import plain

_CALL = re.compile(r"[_.\-]?call$", re.IGNORECASE)
_ARGUMENTS = ("arguments", "args", "input", "action", "operation", "parameters")
_RESULTS = ("output", "outputs", "results", "result", "response")
_SOURCES = "sources"
# Fields that are neither arguments nor a result.
_ABOUT = {"id", "type", "status", "name", "call_id", "tool_call_id", "toolCallId", "tool_name", "toolName", "object",
          "index", "error", "container_id", "server_label", "server_name", "approval_request_id",
          "pending_safety_checks", "created_at", "completed_at", "agent_id", "model", "info", "phase",
          "caller", "namespace", "execution", "environment", "max_output_length", *_ARGUMENTS, *_RESULTS}  # fmt: skip
_FAILED = {"failed", "error", "errored", "output-error", "output-denied"}
_STATES = {"input-streaming", "input-available", "approval-requested", "approval-responded", "output-available",
           "output-error", "output-denied", "partial-call", "call", "result"}  # fmt: skip


def read_hosted(x: dict[str, Any]) -> tuple[str, Any, Any, tuple[Any, bool | None] | None]:
    """Read an item with a call and perhaps its result. Return name, arguments, id, and (result, failed) or None."""
    name = _first_text(x, "name", "tool_name", "toolName") or _CALL.sub("", str(x.get("type") or x.get("kind") or ""))
    asked = next((x[k] for k in _ARGUMENTS if x.get(k) is not None), None)
    answer = next((x[k] for k in _RESULTS if x.get(k) is not None), None)
    if asked is None:
        asked = {k: v for k, v in x.items() if k not in _ABOUT and v is not None} or None
    elif isinstance(asked, dict) and isinstance(asked.get(_SOURCES), list):
        answer = asked[_SOURCES] if answer is None else answer
        asked = {k: v for k, v in asked.items() if k != _SOURCES}
    if answer is None and isinstance(x.get("info"), dict):
        answer = x["info"] or None
    call_id = _first_text(x, "call_id", "tool_call_id", "toolCallId", "id")
    failed = x.get("error") not in (None, "", False) or str(x.get("status", "")).lower() in _FAILED
    if answer is None and failed:
        answer = _error_text(x.get("error"))
    told = (_plain_outputs(answer), True if failed else None) if answer is not None or failed else None
    return name, asked, call_id, told


def _first_text(x: dict[str, Any], *keys: str) -> str | None:
    return next((x[k] for k in keys if isinstance(x.get(k), str) and x[k]), None)


def _error_text(error: Any) -> Any:
    if isinstance(error, dict):
        said = next((error[k] for k in ("message", "content", "error_code", "code") if error.get(k)), None)
        return said if isinstance(said, str) else error
    return error


def _plain_outputs(answer: Any) -> Any:
    """Join the logs of a code sandbox to one text."""
    if isinstance(answer, list) and answer and all(_is_log(a) for a in answer):
        return "\n".join(a["logs"] for a in answer)
    return answer


def _is_log(x: Any) -> bool:
    return isinstance(x, dict) and isinstance(x.get("logs"), str) and set(x) <= {"type", "logs"}


def interface_part(x: dict[str, Any]) -> dict[str, Any] | None:
    """Return a tool part of an AI SDK interface message (``tool-<name>``, ``dynamic-tool``, ``tool-invocation``) as an
    item with a call and its result; None for any other part."""
    inner = x.get("toolInvocation")
    if isinstance(inner, dict):
        x = {**inner, "type": "tool-invocation"}
    state = x.get("state")
    if not isinstance(state, str) or state not in _STATES or not isinstance(x.get("toolCallId"), str):
        return None
    kind = str(x.get("type", ""))
    name = x.get("toolName") or (kind[5:] if kind.startswith("tool-") else kind)
    asked = x["args"] if "args" in x else x.get("input", x.get("rawInput"))
    item = {"id": x["toolCallId"], "name": name, "arguments": asked}
    answer = x.get("output", x.get("result"))
    if answer is not None:
        item["output"] = answer
    if state == "output-error":
        item |= {"error": x.get("errorText") or True, "status": "failed"}
    return item


_CODE = ("executableCode", "executable_code")
_RAN = ("codeExecutionResult", "code_execution_result")


def code_part(x: dict[str, Any]) -> dict[str, Any] | None:
    """Return a part of Gemini's code execution as a typed part; None for any other part."""
    for key in _CODE:
        if isinstance(x.get(key), dict):
            code = x[key]
            asked = {k: code[k] for k in ("language", "code") if code.get(k) is not None}
            return {"type": "tool_call", "name": "code_execution", "arguments": asked, "id": code.get("id")}
    for key in _RAN:
        if isinstance(x.get(key), dict):
            ran = x[key]
            failed = "ok" not in plain(str(ran.get("outcome") or "ok"))
            printed = ran.get("output", "")
            out = {"type": "tool_result", "name": "code_execution", "id": ran.get("id"), "output": printed}
            return {**out, "is_error": True} if failed else out
    return None
