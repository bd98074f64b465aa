"""OpenTelemetry GenAI, all three generations: message attributes on spans or on the details event (v1.37 and
later), one event a message (v1.28 to 1.36; as log records, span events or a list in ``events``), and the
content events before that. Source: semantic-conventions-genai, docs/gen-ai; semantic-conventions v1.36."""

from __future__ import annotations

from typing import Any

from ingest.dialects.mapping import Mapping, either, has_prefix, looks
from ingest.messages.normal import Span
from ingest.messages.parts import parse
from ingest.messages.shapes import role_of, strict_parts

INFERENCE = {"chat", "generate_content", "text_completion", "completion"}
AGENT = {"invoke_agent", "create_agent", "invoke_workflow", "plan"}
DETAILS = "gen_ai.client.inference.operation.details"
_ROLE_OF = {f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")}
_CONTENT = {"gen_ai.content.prompt": "gen_ai.prompt", "gen_ai.content.completion": "gen_ai.completion"}
_CHOICE = "gen_ai.choice"
_MESSAGES = ("gen_ai.input.messages", "gen_ai.output.messages")
_EXECUTION = ("gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "gen_ai.tool.call.id")


def occurrences(span: Span) -> list[tuple[str, dict[str, Any]]]:
    """The events of a span as (name, fields): span events, else log records that name the span."""
    if not span.events and not span.records:
        return []
    events = [(e["name"], _with_blocks(e["attributes"])) for e in span.events]
    if any(name.startswith("gen_ai.") and name != "gen_ai.evaluation.result" for name, _ in events):
        return events
    records = sorted(span.records, key=lambda r: r.time_ns)
    return [*events, *((r.event_name, _fields(r.attributes, r.body)) for r in records)]


def _with_blocks(fields: dict[str, Any]) -> dict[str, Any]:
    """Parses content blocks in event attributes. Attributes cannot hold lists of objects, so Strands writes JSON text.
    """
    told: dict[str, Any] = {k: strict_parts(fields[k], bare=True) for k in ("content", "message") if k in fields}
    return {**fields, **told} if told else fields


def _happens(span: Span) -> bool:
    """Whether the span has an event or a log record of the GenAI conventions."""
    return bool(span.events or span.records) and any(name.startswith("gen_ai.") for name, _ in occurrences(span))


def _fields(attributes: dict[str, Any], body: Any) -> dict[str, Any]:
    body = parse(body)
    return {**attributes, **body} if isinstance(body, dict) else {**attributes, "content": body}


def message_of_event(name: str, fields: dict[str, Any]) -> tuple[bool, dict[str, Any]] | None:
    """The message of a per-message event, and whether it is an answer of the model; None for other events."""
    content = parse(fields.get("gen_ai.event.content"))  # Azure puts the body there, as JSON text
    fields = {**fields, **content} if isinstance(content, dict) else fields
    if name in _ROLE_OF:
        return False, {**fields, "role": fields.get("role") or _ROLE_OF[name]}
    if name != _CHOICE:
        return None
    message = fields.get("message")
    shown = parse(message)
    if isinstance(shown, dict) and (shown is message or role_of(shown) or _SAID & set(shown)):
        inner = shown
    elif message is not None:
        inner = {"content": message}
    else:
        inner = {k: v for k, v in fields.items() if k not in ("index", "finish_reason", "event.name")}
    told = {"role": "assistant", **inner}
    return True, told | {"finish_reason": fields["finish_reason"]} if fields.get("finish_reason") else told


_SAID = {"content", "tool_calls", "parts"}


def split_events(
    events: list[tuple[str, dict[str, Any]]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The input messages and the output messages of per-message events, in order."""
    told = [found for name, fields in events if (found := message_of_event(name, fields))]
    asked = [m for said, m in told if not said]
    if answered := {m.get("id") or m.get("tool_call_id") for m in asked if m["role"] == "tool"} - {None}:
        asked = [left for m in asked if (left := _without_results(m, answered))]
    return asked, [m for said, m in told if said]


def _without_results(message: dict[str, Any], answered: set[Any]) -> dict[str, Any] | None:
    """A user's message without tool results that also have an event of their own, as the botocore instrumentation
    writes them; None if nothing is left."""
    blocks = message.get("content")
    if message["role"] != "user" or not isinstance(blocks, list):
        return message
    left = [b for b in blocks if not (isinstance(b, dict) and _answered_call(b) in answered)]
    return message if len(left) == len(blocks) else {**message, "content": left} if left else None


def _answered_call(block: dict[str, Any]) -> Any:
    """The id of the call that a content block answers (Bedrock, Anthropic); None for other blocks."""
    inner = block.get("toolResult")
    if isinstance(inner, dict):
        return inner.get("toolUseId")
    return block.get("tool_use_id") if block.get("type") == "tool_result" else None


def _prepare(span: Span, values: dict[str, Any]) -> dict[str, Any]:
    events = occurrences(span)
    if not events:
        return values
    out = {**values}
    for name, fields in events:
        if name == DETAILS:
            out |= fields
        elif name in _CONTENT and _CONTENT[name] in fields:
            out["told" + name] = fields[_CONTENT[name]]
    for e in span.records:  # details may come as log records beside span events of other kinds
        if e.event_name == DETAILS:
            out = {**_fields(e.attributes, e.body), **out}
    inputs, outputs = split_events(events)
    if out.get("gen_ai.operation.name") == "execute_tool":
        return {**_tool_events(inputs, outputs), **out}
    numbers = {fields["index"] for name, fields in events if name == _CHOICE and isinstance(fields.get("index"), int)}
    if len(numbers) > 1:
        out["told.choices"] = len(numbers)
    return {**out, "told.input": inputs, "told.output": outputs}


def _tool_events(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> dict[str, Any]:
    """On a tool span of Strands the tool message holds the arguments and the choice holds the result."""
    told: dict[str, Any] = {}
    if inputs:
        told["told.arguments"], told["told.id"] = inputs[0].get("content"), inputs[0].get("id")
    if outputs:
        told["told.result"] = outputs[-1].get("content")
    return told


def _kind(span: Span, values: dict[str, Any]) -> str:
    named = values.get("gen_ai.operation.name")
    operation = named if isinstance(named, str) else None
    if operation == "execute_tool" or (operation is None and any(k in values for k in _EXECUTION)):
        return "execution"
    if operation in INFERENCE:
        return "inference"
    if operation in AGENT:
        return "agent"
    has_messages = any(values.get(k) for k in (*_MESSAGES, "told.input", "told.output"))
    if operation is None and has_messages:
        return "inference"
    return "agent" if has_messages else "other"


MAPPING = Mapping(
    name="otel-genai",
    detect=either(has_prefix("gen_ai."), looks(_happens)),
    kind_of=_kind,
    system=("gen_ai.system_instructions",),
    input=("gen_ai.input.messages", "told.input", "toldgen_ai.content.prompt"),
    output=("gen_ai.output.messages", "told.output", "toldgen_ai.content.completion"),
    tools=("gen_ai.tool.definitions", "gen_ai.agent.tools"),
    agent=("gen_ai.agent.name",),
    model=("gen_ai.response.model", "gen_ai.request.model"),
    response_id=("gen_ai.response.id",),
    conversation=("gen_ai.conversation.id",),
    tool_name=("gen_ai.tool.name",),
    call_id=("gen_ai.tool.call.id", "told.id"),
    arguments=("gen_ai.tool.call.arguments", "told.arguments"),
    result=("gen_ai.tool.call.result", "told.result"),
    prepare=_prepare,
)
