"""OpenInference: flattened ``llm.input_messages``. The raw request and response in ``input.value`` and ``output.value``
supply what the flattened form lost.
"""

from __future__ import annotations

import json
from typing import Any

from ingest.dialects.mapping import Mapping, either, has, has_prefix
from ingest.messages.normal import Span
from ingest.messages.parts import parse
from ingest.messages.shapes import strict_parts

_KINDS = {"llm": "inference", "tool": "execution", "agent": "agent", "chain": "agent"}


def _prepare(span: Span, values: dict[str, Any]) -> dict[str, Any]:
    for key in ("llm.input_messages", "llm.output_messages"):
        if isinstance(values.get(key), list):
            raw = values.get(_RAW[key])
            values = {**values, key: [_message(m, raw) for m in values[key]]}
    tools = values.get("llm.tools")
    if isinstance(tools, list):
        values = {**values, "llm.tools": [t.get("tool", t).get("json_schema") for t in tools if isinstance(t, dict)]}
    return {**values, "span.name": _short_name(span.name)}


_RAW = {"llm.input_messages": "input.value", "llm.output_messages": "output.value"}


def _kind(span: Span, values: dict[str, Any]) -> str:
    """The span's kind; if an attribute limit dropped it, inferred from the other attributes."""
    kind = values.get("openinference.span.kind")
    if isinstance(kind, str):
        return _KINDS.get(kind.lower(), "other")
    return "inference" if "llm.input_messages" in values or "llm.output_messages" in values else "other"


def _short_name(name: str) -> str:
    """``agent.get_order`` and ``get_order.__call__`` are the tool ``get_order``."""
    parts = [p for p in name.split(".") if p not in ("__call__", "run", "call", "invoke", "forward", "tool")]
    return parts[-1] if parts else name


def _content(content: str, raw: Any) -> Any:
    """Content blocks that Mistral spans hold as JSON text. Text that the raw request or response holds stays text."""
    blocks = strict_parts(content)
    if blocks is content or not isinstance(raw, str):
        return blocks
    is_text = any(json.dumps(content, ensure_ascii=ascii)[1:-1] in raw for ascii in (True, False))
    return content if is_text else blocks


def _message(m: Any, raw: Any) -> Any:
    if not isinstance(m, dict):
        return m
    if isinstance(m.get("message"), dict):  # AutoGen puts results beside the message
        m = {**{k: v for k, v in m.items() if k != "message"}, **m["message"]}
    if isinstance(m.get("contents"), list):
        parts = [c.get("message_content", c) if isinstance(c, dict) else c for c in m["contents"]]
        content = m.get("content")
        if content and not any(isinstance(p, dict) and p.get("text") for p in parts):
            parts = [{"type": "text", "text": content}, *parts]
        m = {**m, "content": parts}
        del m["contents"]
    if isinstance(m.get("content"), str) and m["content"][:2] == "[{":
        m = {**m, "content": _content(m["content"], raw)}
    if isinstance(m.get("function"), list):  # autogen: results as JSON under function.N
        results = [parse(f) for f in m["function"]]
        parts = [{"type": "function_result", **r} for r in results if isinstance(r, dict)]
        m = {**{k: v for k, v in m.items() if k != "function"}, "role": "tool", "content": parts}
    if "function_call_name" in m:
        call = {"name": m["function_call_name"], "arguments": m.get("function_call_arguments_json")}
        m = {**m, "function_call": call}
    return m


MAPPING = Mapping(
    name="openinference",
    detect=either(has("openinference.span.kind"), has_prefix("llm.input_messages.", "llm.output_messages.")),
    kind_of=_kind,
    flattened=("llm.input_messages", "llm.output_messages", "llm.tools"),
    input=("llm.input_messages", "input.value"),
    output=("llm.output_messages", "output.value"),
    tools=("llm.tools", "input.value"),
    agent=("agent.name",),
    model=("llm.model_name",),
    response_id=("llm.response.id",),
    tool_name=("tool.name", "tool_call.function.name"),
    display_name=("span.name",),
    call_id=("tool.id", "tool_call.id"),
    arguments=("input.value", "tool_call.function.arguments"),
    result=("output.value",),
    prepare=_prepare,
)
