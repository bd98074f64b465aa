"""Langfuse SDK 3 and later: ``langfuse.observation.*``; input and output are any JSON."""

from __future__ import annotations

from typing import Any

from ingest.dialects.mapping import Mapping, has
from ingest.messages.normal import Span
from ingest.messages.parts import parse
from ingest.messages.tool_definitions import read_tools

_INPUT = "langfuse.observation.input"
_OUTPUT = "langfuse.observation.output"


def _prepare(span: Span, values: dict[str, Any]) -> dict[str, Any]:
    out = {**values, "name": span.name}
    given = parse(values.get(_INPUT))
    kind = values.get("langfuse.observation.type")
    if kind == "generation" and isinstance(given, list):
        # the LangChain handler lists tool definitions among the messages, with role tool
        definitions = [m["content"] for m in given if _is_definition(m)]
        out[_INPUT] = [m for m in given if not _is_definition(m)]
        out["tools"] = definitions
    return out


def _is_definition(m: Any) -> bool:
    content = m.get("content") if isinstance(m, dict) and m.get("role") == "tool" else None
    return isinstance(content, dict) and "function" in content and bool(read_tools([content]))


MAPPING = Mapping(
    name="langfuse",
    detect=has("langfuse.observation.type", _INPUT, _OUTPUT),
    kind="langfuse.observation.type",
    kinds={"generation": "inference", "tool": "execution", "agent": "agent", "chain": "agent", "span": "agent"},
    input=(_INPUT,),
    output=(_OUTPUT,),
    tools=("tools", _INPUT),
    model=("langfuse.observation.model.name",),
    display_name=("name",),
    arguments=(_INPUT,),
    result=(_OUTPUT,),
    error=("langfuse.observation.level",),
    prepare=_prepare,
)
