"""Vercel AI SDK 3 to 6 (and 7's legacy integration): ``ai.*`` attributes, scope ``ai``."""

from __future__ import annotations

from typing import Any

from ingest.dialects.mapping import Mapping, has
from ingest.messages.normal import Span
from ingest.messages.parts import first, parse


def _kind(span: Span, values: dict[str, Any]) -> str:
    operation = str(values.get("ai.operationId", ""))
    if operation == "ai.toolCall":
        return "execution"
    if operation.endswith((".doGenerate", ".doStream")):
        return "inference"
    return "agent" if operation.startswith("ai.") and "embed" not in operation else "other"


def _prepare(span: Span, values: dict[str, Any]) -> dict[str, Any]:
    parts: list[Any] = []
    if reasoning := first(values, "ai.response.reasoning", "ai.result.reasoning"):
        parts.append({"type": "reasoning", "content": reasoning})
    if text := first(values, "ai.response.text", "ai.result.text", "ai.response.object", "ai.result.object"):
        parts.append({"type": "text", "text": text})
    calls = parse(first(values, "ai.response.toolCalls", "ai.result.toolCalls"))
    if isinstance(calls, list):
        parts += [{**c, "type": "tool-call"} for c in calls if isinstance(c, dict)]
    return {**values, "output": [{"role": "assistant", "content": parts}]} if parts else values


MAPPING = Mapping(
    name="vercel-ai",
    detect=has("ai.operationId"),
    kind_of=_kind,
    input=("ai.prompt.messages", "ai.prompt"),
    output=("output",),
    tools=("ai.prompt.tools",),
    agent=("ai.telemetry.functionId",),
    model=("ai.response.model", "ai.model.id"),
    response_id=("ai.response.id", "gen_ai.response.id"),
    tool_name=("ai.toolCall.name",),
    call_id=("ai.toolCall.id",),
    arguments=("ai.toolCall.args", "ai.toolCall.input"),
    result=("ai.toolCall.result", "ai.toolCall.output"),
    prepare=_prepare,
)
