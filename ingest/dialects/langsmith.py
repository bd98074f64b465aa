"""LangSmith's OpenTelemetry export: whole inputs and outputs as JSON in ``gen_ai.prompt`` and
``gen_ai.completion``."""

from __future__ import annotations

from typing import Any

from ingest.dialects.mapping import Mapping, either, has, looks
from ingest.messages.normal import Span
from ingest.messages.parts import parse


def _prepare(span: Span, values: dict[str, Any]) -> dict[str, Any]:
    output = parse(values.get("gen_ai.completion"))
    if isinstance(output, dict) and set(output) == {"output"}:
        output = output["output"]
    request = parse(values.get("gen_ai.prompt"))
    if isinstance(request, dict):  # a list is messages, or texts (Spring AI)
        values = {**values, "request": request}
    return {**values, "result": output, "name": span.name}


MAPPING = Mapping(
    name="langsmith",
    detect=either(
        has("langsmith.span.kind"),
        has("gen_ai.completion"),
        looks(lambda s: isinstance(s.attributes["gen_ai.prompt"], str), at="gen_ai.prompt"),
    ),
    kind="langsmith.span.kind",
    kinds={"llm": "inference", "tool": "execution", "chain": "agent", "agent": "agent"},
    input=("gen_ai.prompt",),
    output=("gen_ai.completion",),
    tools=("request", "langsmith.metadata.ls_invocation_params"),
    model=("gen_ai.response.model", "gen_ai.request.model"),
    response_id=("gen_ai.response.id",),
    conversation=("langsmith.metadata.session_id", "langsmith.metadata.thread_id",
                  "langsmith.metadata.conversation_id"),
    display_name=("langsmith.trace.name", "name"),
    arguments=("gen_ai.prompt",),
    result=("result",),
    prepare=_prepare,
)  # fmt: skip
