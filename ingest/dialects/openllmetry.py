"""OpenLLMetry (Traceloop) before 2026: flattened ``gen_ai.prompt.N`` and ``gen_ai.completion.N``; its
``@tool`` and MCP spans with ``traceloop.entity.*``."""

from __future__ import annotations

from typing import Any

from ingest.dialects.mapping import Mapping, either, has, has_prefix
from ingest.messages.normal import Span
from ingest.messages.parts import parse
from ingest.messages.shapes import strict_parts


def _kind(span: Span, values: dict[str, Any]) -> str:
    kind = values.get("traceloop.span.kind")
    if kind == "tool" or (kind == "task" and "tool.name" in values):
        return "execution"
    if kind in ("agent", "workflow", "task"):
        return "agent"
    if "gen_ai.prompt" in values or "gen_ai.completion" in values or "llm.request.type" in values:
        return "inference"
    return "other"


def _prepare(span: Span, values: dict[str, Any]) -> dict[str, Any]:
    out = {**values}
    for key in ("gen_ai.prompt", "gen_ai.completion"):
        if isinstance(out.get(key), list):
            out[key] = [_message(m) for m in out[key]]
    output = parse(values.get("traceloop.entity.output"))
    if isinstance(output, dict) and "result" in output and set(output) <= {"result", "is_error"}:
        output = output["result"]
    elif isinstance(output, dict) and set(output) == {"output"}:
        output = output["output"]
    if output is not None:
        out["traceloop.entity.output"] = output
    return out


def _message(m: Any) -> Any:
    """A flattened message. Content blocks are JSON text there. Vertex spans name a user's text by the role."""
    if not isinstance(m, dict):
        return m
    if isinstance(m.get("user"), str) and not {"role", "content"} & set(m):
        return {"role": "user", "content": m["user"]}
    content = m.get("content")
    if content == "[]" and m.get("tool_calls"):
        return {**m, "content": None}
    blocks = strict_parts(content)
    return m if blocks is content else {**m, "content": blocks}


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
    asked=("traceloop.entity.input",),
    answered=("traceloop.entity.output",),
    tools=("llm.request.functions",),
    agent=("gen_ai.agent.name",),
    model=("gen_ai.response.model", "gen_ai.request.model"),
    response_id=("gen_ai.response.id",),
    tool_name=("tool.name",),
    display_name=("traceloop.entity.name",),
    call_id=("gen_ai.tool.call.id",),
    arguments=("tool.arguments", "traceloop.entity.input"),
    result=("traceloop.entity.output",),
    prepare=_prepare,
)
