"""OpenTelemetry GenAI, newest form: message attributes on spans or on the details event (v1.37 and later)."""

from __future__ import annotations

from typing import Any

from ingest.normal import Observed, Span
from ingest.shapes import first, is_cut, parse, read_messages, read_tools, system_parts

NAME = "otel-genai"
INFERENCE = {"chat", "generate_content", "text_completion", "completion"}
AGENT = {"invoke_agent", "create_agent", "invoke_workflow", "plan"}
DETAILS = "gen_ai.client.inference.operation.details"
_CONTENT = ("gen_ai.system_instructions", "gen_ai.input.messages", "gen_ai.output.messages",
            "gen_ai.tool.definitions", "gen_ai.tool.call.arguments", "gen_ai.tool.call.result")  # fmt: skip


def detect(span: Span) -> bool:
    """Any span that names its GenAI operation."""
    return "gen_ai.operation.name" in span.attributes


def observe(span: Span, seen: Observed) -> None:
    """Fills in what the span's attributes, and the details event of the same call, say."""
    a = span.attributes
    for event in span.events:
        if event["name"] == DETAILS:
            a = {**a, **event["attributes"]}
    for record in span.records:
        if record.event_name == DETAILS:
            a = {**a, **record.attributes, **(record.body if isinstance(record.body, dict) else {})}
    operation = a.get("gen_ai.operation.name")
    seen.flags += [f"truncated:{key}" for key in _CONTENT if is_cut(a.get(key))]
    if operation == "execute_tool":
        _execution(a, seen)
    elif operation in INFERENCE or (operation in AGENT and "gen_ai.output.messages" in a):
        _inference(a, seen, "inference" if operation in INFERENCE else "agent")
    elif operation in AGENT:
        seen.kind = "agent"
    seen.agent = first(a, "gen_ai.agent.name") or seen.agent


def _inference(a: dict[str, Any], seen: Observed, kind: str) -> None:
    seen.kind = kind
    seen.model = first(a, "gen_ai.response.model", "gen_ai.request.model")
    seen.response_id = first(a, "gen_ai.response.id")
    seen.input = read_messages(a.get("gen_ai.input.messages"), "user")
    system = system_parts(a.get("gen_ai.system_instructions"))
    if system:
        seen.input = [{"role": "system", "parts": system}, *seen.input]
    seen.output = read_messages(a.get("gen_ai.output.messages"), "assistant")
    seen.tools = read_tools(a.get("gen_ai.tool.definitions"))


def _execution(a: dict[str, Any], seen: Observed) -> None:
    seen.kind = "execution"
    seen.tool_name = first(a, "gen_ai.tool.name")
    seen.call_id = first(a, "gen_ai.tool.call.id")
    seen.arguments = parse(a.get("gen_ai.tool.call.arguments"))
    seen.result = a.get("gen_ai.tool.call.result")
