"""Claude Code and the Claude Agent SDK: ``span.type`` = ``claude_code.*``; a tool's output is an event."""

from __future__ import annotations

from typing import Any

from ingest.dialects.mapping import Mapping, looks
from ingest.messages.normal import Span
from ingest.messages.parts import first

_KINDS = {"llm_request": "inference", "tool": "execution", "tool.execution": "execution", "interaction": "agent"}
_ARGUMENTS = ("full_command", "command", "file_path", "pattern", "url", "query")


def _type(span: Span) -> str:
    return str(span.attributes.get("span.type", span.name)).removeprefix("claude_code.")


def _kind(span: Span, values: dict[str, Any]) -> str:
    return _KINDS.get(_type(span), "other")


def _prepare(span: Span, values: dict[str, Any]) -> dict[str, Any]:
    out = {**values}
    for e in span.events:
        if e["name"] == "tool.output":
            out["result"] = first(e["attributes"], "output", "content", "diff", "result")
    if "tool_input" not in out and (named := {k: out[k] for k in _ARGUMENTS if k in out}):
        out["tool_input"] = named
    if out.get("success") in (False, "false"):
        out["failed"] = True
    return out


MAPPING = Mapping(
    name="claude-code",
    detect=looks(lambda span: str(span.attributes.get("span.type", span.name)).startswith("claude_code.")),
    kind_of=_kind,
    input=("new_context", "user_prompt"),
    output=("response.model_output", "response"),
    system=("system_prompt",),
    tools=("tools",),
    agent=("agent.name", "agent_name"),
    model=("model",),
    response_id=("request_id",),
    tool_name=("tool_name", "gen_ai.tool.name"),
    call_id=("tool_use_id", "tool.use_id", "gen_ai.tool.call.id"),
    arguments=("tool_input",),
    result=("result", "tool_output"),
    error=("failed",),
    prepare=_prepare,
)
