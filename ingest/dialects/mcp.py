"""Model Context Protocol spans: ``tools/call`` on client and server is one execution of a tool."""

from __future__ import annotations

from typing import Any

from ingest.dialects.mapping import Mapping, has
from ingest.messages.normal import Span


def _kind(span: Span, values: dict[str, Any]) -> str:
    return "execution" if values.get("mcp.method.name") == "tools/call" else "other"


def _prepare(span: Span, values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "target": span.name.rsplit(" ", 1)[-1]}


MAPPING = Mapping(
    name="mcp",
    detect=has("mcp.method.name"),
    kind_of=_kind,
    tool_name=("mcp.tool.name", "target"),
    arguments=("gen_ai.tool.call.arguments", "mcp.request.arguments"),
    result=("gen_ai.tool.call.result", "mcp.tool.result"),
    prepare=_prepare,
)
