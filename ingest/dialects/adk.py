"""Google ADK. ``gcp.vertex.agent.*`` holds Gemini requests and responses. Unknown values are written as
``<not specified>``, ``N/A``, ``{}`` or ``<not serializable>``. Parallel calls get an extra span, which is ignored.
"""

from __future__ import annotations

from typing import Any

from ingest.dialects.mapping import Mapping, has
from ingest.messages.normal import Span

_PRE = "gcp.vertex.agent."
_NOTHING = ("{}", "N/A", "<not serializable>", "<elided>", "")


def _prepare(span: Span, values: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if not (k.startswith(_PRE) and v in _NOTHING)}


def _kind(span: Span, values: dict[str, Any]) -> str:
    if "merged" in str(values.get("gen_ai.tool.name", "")):
        return "other"
    if _PRE + "tool_call_args" in values or _PRE + "tool_response" in values:
        return "execution"
    return "inference" if _PRE + "llm_request" in values else "other"


MAPPING = Mapping(
    name="google-adk",
    detect=has(_PRE + "llm_request", _PRE + "tool_call_args", _PRE + "tool_response"),
    kind_of=_kind,
    input=(_PRE + "llm_request",),
    output=(_PRE + "llm_response",),
    tools=(_PRE + "llm_request",),
    conversation=(_PRE + "session_id",),
    tool_name=("gen_ai.tool.name",),
    call_id=("gen_ai.tool.call.id",),
    arguments=(_PRE + "tool_call_args",),
    result=(_PRE + "tool_response",),
    prepare=_prepare,
)
