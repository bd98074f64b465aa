"""OpenLLMetry (Traceloop) before 2026: flattened ``gen_ai.prompt.N`` and ``gen_ai.completion.N``; its
``@tool`` and MCP spans with ``traceloop.entity.*``."""

from __future__ import annotations

from typing import Any

from ingest.dialects.mapping import Mapping, either, has, has_prefix
from ingest.messages.normal import Span
from ingest.messages.parts import parse


def _kind(span: Span, values: dict[str, Any]) -> str:
    kind = values.get("traceloop.span.kind")
    if kind == "tool":
        return "execution"
    if kind in ("agent", "workflow", "task"):
        return "agent"
    if "gen_ai.prompt" in values or "gen_ai.completion" in values or "llm.request.type" in values:
        return "inference"
    return "other"


def _prepare(span: Span, values: dict[str, Any]) -> dict[str, Any]:
    out = {**values}
    output = parse(values.get("traceloop.entity.output"))
    if isinstance(output, dict) and "result" in output and set(output) <= {"result", "is_error"}:
        output = output["result"]
    elif isinstance(output, dict) and set(output) == {"output"}:
        output = output["output"]
    if output is not None:
        out["traceloop.entity.output"] = output
    return out


MAPPING = Mapping(
    name="openllmetry",
    detect=either(
        has("traceloop.span.kind", "llm.request.type", "traceloop.entity.input"),
        has_prefix("gen_ai.prompt.", "gen_ai.completion."),
    ),
    kind_of=_kind,
    flattened=("gen_ai.prompt", "gen_ai.completion", "llm.request.functions"),
    input=("gen_ai.prompt",),
    output=("gen_ai.completion",),
    tools=("llm.request.functions",),
    agent=("gen_ai.agent.name",),
    model=("gen_ai.response.model", "gen_ai.request.model"),
    response_id=("gen_ai.response.id",),
    tool_name=("traceloop.entity.name",),
    call_id=("gen_ai.tool.call.id",),
    arguments=("traceloop.entity.input",),
    result=("traceloop.entity.output",),
    prepare=_prepare,
)
