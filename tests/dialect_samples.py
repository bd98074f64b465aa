"""One small conversation as each dialect writes it: a request, a call that fails, an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ingest_samples import START, attributes, event, request, span, value
from lake_samples import assert_same_in_parts

from ingest.lake import Lake
from ingest.records import Conversation

ASK, ANSWER = "Cancel W1.", "I need a reason."
FAILED = "Error: no reason given"
ARGUMENTS = {"id": "W1"}
SYSTEM = "Be kind."
FACTS = [
    ("system", SYSTEM),
    ("user", ASK),
    ("call", "cancel", ARGUMENTS),
    ("result", "cancel", FAILED, True),
    ("assistant", ANSWER),
]
SCHEMA = {"type": "object", "properties": {"id": {"type": "string"}}}

# The same in the wire formats of the model vendors.
OPENAI_CALL = {"id": "c1", "type": "function", "function": {"name": "cancel", "arguments": json.dumps(ARGUMENTS)}}
OPENAI_ASKED = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ASK}]
OPENAI_CALLED = {"role": "assistant", "content": None, "tool_calls": [OPENAI_CALL]}
OPENAI_HISTORY = [*OPENAI_ASKED, OPENAI_CALLED, {"role": "tool", "tool_call_id": "c1", "content": FAILED}]
OPENAI_ANSWER = {"role": "assistant", "content": ANSWER}
OPENAI_TOOLS = [{"type": "function", "function": {"name": "cancel", "parameters": SCHEMA}}]
OTEL_CALL = {"type": "tool_call", "id": "c1", "name": "cancel", "arguments": ARGUMENTS}
OTEL_ASKED = [{"role": "user", "parts": [{"type": "text", "content": ASK}]}]
OTEL_CALLED = {"role": "assistant", "parts": [OTEL_CALL], "finish_reason": "tool_call"}
OTEL_RESULT = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": FAILED}]}
OTEL_HISTORY = [*OTEL_ASKED, OTEL_CALLED, OTEL_RESULT]
OTEL_ANSWER = {"role": "assistant", "parts": [{"type": "text", "content": ANSWER}], "finish_reason": "stop"}
OTEL_SYSTEM = [{"type": "text", "content": SYSTEM}]

Values = dict[str, Any]


def conversations(lake: Lake, path: Path, *requests: Values) -> list[Conversation]:
    """The conversations of a lake after these OTLP/JSON requests."""
    path.write_text("".join(json.dumps(r) + "\n" for r in requests))
    lake.ingest([path])
    found = lake.conversations()
    if found:
        assert_same_in_parts(lake, path.with_suffix(".parts"))
    return found


def facts(c: Conversation) -> list[tuple[Any, ...]]:
    """A conversation as comparable facts, in order."""
    out: list[tuple[Any, ...]] = []
    for m in c.messages:
        out += [("call", x["name"], x.get("arguments")) for x in m.get("tool_calls", ())]
        if m["role"] == "tool":
            content = m.get("content")
            text = json.loads(content).get("result", content) if content and content[:1] == "{" else content
            out.append(("result", m["name"], text, m["is_error"]))
        elif m.get("content"):
            out.append((m["role"], m["content"]))
    return out


def spans(sample: Values) -> list[Values]:
    """The spans of a request, to change or to take from."""
    return sample["resourceSpans"][0]["scopeSpans"][0]["spans"]


def turn(first: Values, tool: Values | None, second: Values, agent: Values | None = None, **more: Any) -> Values:
    """Spans of a model call, a failing tool and a model call within an agent's span; ``more`` to ``request``."""
    made = [
        span(1, 1, "agent run", agent or {}, took=9),
        span(1, 2, "model call", first, at=1),
        span(1, 4, "model call", second, at=3),
    ]
    if tool is not None:
        made.append(span(1, 3, "tool cancel", tool, at=2, took=0.04))
    return request(*made, **more)


def otel() -> Values:
    def call(inputs: Any, output: Any) -> Values:
        return {
            "gen_ai.operation.name": "chat", "gen_ai.system_instructions": json.dumps(OTEL_SYSTEM),
            "gen_ai.input.messages": json.dumps(inputs), "gen_ai.output.messages": json.dumps([output]),
            "gen_ai.tool.definitions": json.dumps(OPENAI_TOOLS),
        }  # fmt: skip

    tool = {
        "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "cancel", "gen_ai.tool.call.id": "c1",
        "gen_ai.tool.call.arguments": json.dumps(ARGUMENTS), "error.type": "ToolError",
    }  # fmt: skip
    return turn(call(OTEL_ASKED, OTEL_CALLED), tool, call(OTEL_HISTORY, OTEL_ANSWER))


def openinference() -> Values:
    def flat(prefix: str, messages: list[Values]) -> Values:
        out: Values = {}
        for n, m in enumerate(messages):
            at = f"{prefix}.{n}.message"
            out[f"{at}.role"] = m["role"]
            for key in ("content", "tool_call_id"):
                if m.get(key):
                    out[f"{at}.{key}"] = m[key]
            for k, c in enumerate(m.get("tool_calls", ())):
                out[f"{at}.tool_calls.{k}.tool_call.id"] = c["id"]
                out[f"{at}.tool_calls.{k}.tool_call.function.name"] = c["function"]["name"]
                out[f"{at}.tool_calls.{k}.tool_call.function.arguments"] = c["function"]["arguments"]
        return out

    def call(inputs: list[Values], output: Values) -> Values:
        told = flat("llm.input_messages", inputs) | flat("llm.output_messages", [output])
        return {"openinference.span.kind": "LLM", "llm.tools.0.tool.json_schema": json.dumps(OPENAI_TOOLS[0]), **told}

    tool = {
        "openinference.span.kind": "TOOL", "tool.name": "cancel", "input.value": json.dumps(ARGUMENTS),
        "tool.parameters": json.dumps(SCHEMA), "output.value": FAILED,
    }  # fmt: skip
    return turn(call(OPENAI_ASKED, OPENAI_CALLED), tool, call(OPENAI_HISTORY, OPENAI_ANSWER))


def openllmetry_flat() -> Values:
    def flat(prefix: str, messages: list[Values]) -> Values:
        out: Values = {}
        for n, m in enumerate(messages):
            out |= {f"{prefix}.{n}.{k}": m[k] for k in ("role", "content", "tool_call_id") if m.get(k)}
            for k, c in enumerate(m.get("tool_calls", ())):
                out |= {f"{prefix}.{n}.tool_calls.{k}.id": c["id"]}
                out |= {f"{prefix}.{n}.tool_calls.{k}.{key}": v for key, v in c["function"].items()}
        return out

    def call(inputs: list[Values], output: Values) -> Values:
        named = {"llm.request.type": "chat", "llm.request.functions.0.name": "cancel",
                 "llm.request.functions.0.parameters": json.dumps(SCHEMA)}  # fmt: skip
        return named | flat("gen_ai.prompt", inputs) | flat("gen_ai.completion", [output])

    tool = {
        "traceloop.span.kind": "tool", "traceloop.entity.name": "cancel",
        "traceloop.entity.input": json.dumps({"args": [], "kwargs": ARGUMENTS}),
        "traceloop.entity.output": json.dumps(FAILED),
    }  # fmt: skip
    return turn(call(OPENAI_ASKED, OPENAI_CALLED), tool, call(OPENAI_HISTORY, OPENAI_ANSWER))


def vercel() -> Values:
    asked = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": [{"type": "text", "text": ASK}]}]
    call = {"type": "tool-call", "toolCallId": "c1", "toolName": "cancel", "input": ARGUMENTS}
    result = {"type": "tool-result", "toolCallId": "c1", "toolName": "cancel",
              "output": {"type": "error-text", "value": FAILED}}  # fmt: skip
    history = [*asked, {"role": "assistant", "content": [call]}, {"role": "tool", "content": [result]}]
    named = {"ai.operationId": "ai.generateText.doGenerate", "ai.prompt.tools": [json.dumps(OPENAI_TOOLS[0])]}
    first = named | {
        "ai.prompt.messages": json.dumps(asked),
        "ai.response.toolCalls": json.dumps([{**call, "input": json.dumps(ARGUMENTS)}]),
    }
    tool = {"ai.operationId": "ai.toolCall", "ai.toolCall.name": "cancel", "ai.toolCall.id": "c1",
            "ai.toolCall.args": json.dumps(ARGUMENTS)}  # fmt: skip
    second = named | {"ai.prompt.messages": json.dumps(history), "ai.response.text": ANSWER}
    agent = {"ai.operationId": "ai.generateText", "ai.prompt": json.dumps({"system": SYSTEM, "messages": asked[1:]}),
             "ai.response.text": ANSWER}  # fmt: skip
    return turn(first, tool, second, agent, scope="ai")


def _in_out(kind: str, kinds: tuple[str, str], sent: str, said: str) -> Values:
    first = {kind: kinds[0], sent: json.dumps({"messages": OPENAI_ASKED, "tools": OPENAI_TOOLS}),
             said: json.dumps({"choices": [{"message": OPENAI_CALLED}]})}  # fmt: skip
    tool = {kind: kinds[1], sent: json.dumps(ARGUMENTS), said: json.dumps(FAILED)}
    second = {**first, sent: json.dumps({"messages": OPENAI_HISTORY}), said: json.dumps(OPENAI_ANSWER)}
    out = turn(first, tool, second)
    spans(out)[3]["name"] = "cancel"
    return out


def langfuse() -> Values:
    at = "langfuse.observation."
    return _in_out(f"{at}type", ("generation", "tool"), f"{at}input", f"{at}output")


def langsmith() -> Values:
    return _in_out("langsmith.span.kind", ("llm", "tool"), "gen_ai.prompt", "gen_ai.completion")


def mlflow() -> Values:
    return _in_out("mlflow.spanType", ('"CHAT_MODEL"', '"TOOL"'), "mlflow.spanInputs", "mlflow.spanOutputs")


def _message_events(messages: list[Values]) -> list[Values]:
    return [event(f"gen_ai.{m['role']}.message", {"event.name": f"gen_ai.{m['role']}.message", **m}) for m in messages]


def span_events() -> Values:
    """v1.28 to 1.36, as span events with the body's fields as attributes."""
    named = {"gen_ai.system": "openai", "gen_ai.operation.name": "chat"}
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "cancel", "gen_ai.tool.call.id": "c1"}
    out = turn(named, tool, named)
    _, first, second, _ = spans(out)
    called = {"index": 0, "finish_reason": "tool_calls", "message": json.dumps(OPENAI_CALLED)}
    first["events"] = [*_message_events(OPENAI_ASKED), event("gen_ai.choice", called)]
    last = event("gen_ai.choice", {"index": 0, "message": OPENAI_ANSWER})
    second["events"] = [*_message_events([{**m, "id": m.get("tool_call_id", "")} for m in OPENAI_HISTORY]), last]
    return out


def log(number: int, name: str, body: Any, at: int = 0, **values: Any) -> Values:
    """A log record that names one of the spans of ``turn``."""
    return {
        "traceId": f"{1:032x}", "spanId": f"{number:016x}", "timeUnixNano": str(START + at), "eventName": name,
        "body": value(body), "attributes": attributes(values),
    }  # fmt: skip


def logs(*records: Values) -> Values:
    return {"resourceLogs": [{"resource": {}, "scopeLogs": [{"scope": {"name": "s"}, "logRecords": list(records)}]}]}


def log_events() -> Values:
    """v1.28 to 1.36, as the specification has it: log records joined to their span."""
    named = {"gen_ai.system": "openai", "gen_ai.operation.name": "chat"}
    records = []
    for number, messages, said in ((2, OPENAI_ASKED, OPENAI_CALLED), (4, OPENAI_HISTORY, OPENAI_ANSWER)):
        for at, m in enumerate(messages):
            body = {("id" if k == "tool_call_id" else k): v for k, v in m.items() if k != "role" and v is not None}
            records.append(log(number, f"gen_ai.{m['role']}.message", body, at))
        choice = {"index": 0, "finish_reason": "stop", "message": {k: v for k, v in said.items() if v is not None}}
        records.append(log(number, "gen_ai.choice", choice, 99))
    return turn(named, None, named) | logs(*reversed(records))


def details_event() -> Values:
    """v1.37 and later with EVENT_ONLY: everything in one log record a call."""

    def told(inputs: Any, output: Any) -> Values:
        return {"gen_ai.system_instructions": OTEL_SYSTEM, "gen_ai.input.messages": inputs,
                "gen_ai.output.messages": [output]}  # fmt: skip

    name = "gen_ai.client.inference.operation.details"
    named = {"gen_ai.operation.name": "chat"}
    records = (
        log(2, name, None, **told(OTEL_ASKED, OTEL_CALLED)),
        log(4, name, None, **told(OTEL_HISTORY, OTEL_ANSWER)),
    )
    return turn(named, None, named) | logs(*records)


def pydantic_events() -> Values:
    """Pydantic AI v1 and Logfire: the events as one JSON attribute."""

    def told(messages: list[Values], said: Values) -> Values:
        events = [{"event.name": f"gen_ai.{m['role']}.message", **m} for m in messages]
        return {"events": json.dumps([*events, {"event.name": "gen_ai.choice", "index": 0, "message": said}]),
                "gen_ai.operation.name": "chat"}  # fmt: skip

    history = [{**m, "id": m.get("tool_call_id")} for m in OPENAI_HISTORY]
    tool = {"gen_ai.tool.name": "cancel", "gen_ai.tool.call.id": "c1", "tool_arguments": json.dumps(ARGUMENTS),
            "tool_response": FAILED}  # fmt: skip
    return turn(told(OPENAI_ASKED, OPENAI_CALLED), tool, told(history, OPENAI_ANSWER), scope="pydantic-ai")


def logfire() -> Values:
    def told(messages: list[Values], said: Values) -> Values:
        return {"request_data": json.dumps({"messages": messages, "tools": OPENAI_TOOLS}),
                "response_data": json.dumps({"message": said, "usage": {}})}  # fmt: skip

    return turn(told(OPENAI_ASKED, OPENAI_CALLED), None, told(OPENAI_HISTORY, OPENAI_ANSWER), scope="logfire.openai")


def adk() -> Values:
    at = "gcp.vertex.agent."
    asked = {"role": "user", "parts": [{"text": ASK}]}
    call = {"role": "model", "parts": [{"function_call": {"id": "c1", "name": "cancel", "args": ARGUMENTS}}]}
    result = {"function_response": {"id": "c1", "name": "cancel", "response": {"result": FAILED}}}
    config = {
        "system_instruction": SYSTEM,
        "tools": [{"function_declarations": [{"name": "cancel", "parameters": SCHEMA}]}],
    }
    first = {"gen_ai.system": "gcp.vertex.agent",
             f"{at}llm_request": json.dumps({"model": "m", "config": config, "contents": [asked]}),
             f"{at}llm_response": json.dumps({"content": call, "partial": False})}  # fmt: skip
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "cancel",
            "gen_ai.tool.call.id": "<not specified>",
            f"{at}llm_request": "{}", f"{at}llm_response": "{}", f"{at}tool_call_args": json.dumps(ARGUMENTS),
            f"{at}tool_response": "<not serializable>"}  # fmt: skip
    history = [asked, call, {"role": "user", "parts": [result]}]
    second = first | {
        f"{at}llm_request": json.dumps({"model": "m", "config": config, "contents": history}),
        f"{at}llm_response": json.dumps({"content": {"role": "model", "parts": [{"text": ANSWER}]}}),
    }
    out = turn(first, tool, second)
    merged = span(1, 5, "execute_tool (merged tools)", {
        "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "(merged tools)",
        f"{at}tool_call_args": "N/A", f"{at}tool_response": json.dumps({"result": FAILED})}, at=2.1)  # fmt: skip
    spans(out).append(merged)
    return out


def strands() -> Values:
    named = {"gen_ai.system": "strands-agents", "gen_ai.operation.name": "chat"}
    tool = {"gen_ai.system": "strands-agents", "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "cancel",
            "gen_ai.tool.call.id": "c1", "gen_ai.tool.status": "error"}  # fmt: skip
    out = turn(named, tool, named)
    _, first, second, ran = spans(out)
    system = event("gen_ai.system.message", {"content": json.dumps([{"text": SYSTEM}])})
    asked = event("gen_ai.user.message", {"content": json.dumps([{"text": ASK}])})
    call = json.dumps([{"toolUse": {"toolUseId": "c1", "name": "cancel", "input": ARGUMENTS}}])
    result = [{"toolResult": {"toolUseId": "c1", "status": "error", "content": [{"text": FAILED}]}}]
    first["events"] = [system, asked, event("gen_ai.choice", {"finish_reason": "tool_use", "message": call})]
    ran["events"] = [
        event("gen_ai.tool.message", {"role": "tool", "content": json.dumps(ARGUMENTS), "id": "c1"}),
        event("gen_ai.choice", {"message": json.dumps([{"text": FAILED}]), "id": "c1"}),
    ]
    second["events"] = [
        system, asked, event("gen_ai.assistant.message", {"content": call}),
        event("gen_ai.tool.message", {"content": json.dumps(result)}),
        event("gen_ai.choice", {"finish_reason": "end_turn", "message": json.dumps([{"text": ANSWER}])}),
    ]  # fmt: skip
    return out


def anthropic_shapes() -> Values:
    """OpenLLMetry and others keep Anthropic's blocks; the system prompt is a field of its own."""
    said = {"type": "text", "text": ANSWER}
    use = {"type": "tool_use", "id": "c1", "name": "cancel", "input": ARGUMENTS}
    result = {
        "type": "tool_result",
        "tool_use_id": "c1",
        "is_error": True,
        "content": [{"type": "text", "text": FAILED}],
    }
    history = [{"role": "user", "content": ASK}, {"role": "assistant", "content": [use]},
               {"role": "user", "content": [result]}]  # fmt: skip
    first = {"openinference.span.kind": "LLM",
             "input.value": json.dumps({"system": SYSTEM, "messages": history[:1]}),
             "output.value": json.dumps({"role": "assistant", "content": [use]})}  # fmt: skip
    second = first | {"input.value": json.dumps({"system": SYSTEM, "messages": history}),
                      "output.value": json.dumps({"role": "assistant", "content": [said]})}  # fmt: skip
    return turn(first, None, second)


def reprs() -> Values:
    """Python reprs where JSON was meant (Haystack's dataclasses)."""
    call = f"ToolCall(tool_name='cancel', arguments={ARGUMENTS}, id='c1', extra=None)"
    asked = [f"ChatMessage(_role=<ChatRole.SYSTEM: 'system'>, _content=[TextContent(text='{SYSTEM}')], _meta={{}})",
             f"ChatMessage(_role=<ChatRole.USER: 'user'>, _content=[TextContent(text='{ASK}')])"]  # fmt: skip
    called = f"ChatMessage(_role=<ChatRole.ASSISTANT: 'assistant'>, _content=[{call}], _meta={{}})"
    result = ("ChatMessage(_role=<ChatRole.TOOL: 'tool'>, _content=[ToolCallResult("
              f"result='{FAILED}', origin={call}, error=True)], _meta={{}})")  # fmt: skip
    answered = f"ChatMessage(_role=<ChatRole.ASSISTANT: 'assistant'>, _content=[TextContent(text='{ANSWER}')])"

    def told(messages: list[str], said: str) -> Values:
        return {"openinference.span.kind": "LLM", "input.value": json.dumps({"messages": messages}),
                "output.value": json.dumps({"replies": [said]})}  # fmt: skip

    return turn(told(asked, called), None, told([*asked, called, result], answered))


def claude_code() -> Values:
    named = {"span.type": "claude_code.llm_request", "system_prompt": SYSTEM}
    history = json.dumps(OPENAI_HISTORY[1:])
    first = named | {"new_context": json.dumps(OPENAI_ASKED[1:]), "response.model_output": json.dumps([OPENAI_CALLED])}
    tool = {
        "span.type": "claude_code.tool",
        "tool_name": "cancel",
        "tool_input": json.dumps(ARGUMENTS),
        "success": False,
    }
    second = named | {"new_context": history, "response.model_output": ANSWER}
    out = turn(first, tool, second, {"span.type": "claude_code.interaction", "user_prompt": "<REDACTED>"})
    spans(out)[3]["events"] = [event("tool.output", {"output": FAILED})]
    return out


def unmapped() -> Values:
    """A vendor that nobody has mapped."""

    def told(messages: list[Values], said: Values) -> Values:
        return {"acme.model": "m-1", "acme.request": json.dumps({"messages": messages, "tools": OPENAI_TOOLS}),
                "acme.response": json.dumps({"choices": [{"message": said}]})}  # fmt: skip

    tool = {"acme.tool.name": "cancel", "acme.tool.callId": "c1", "acme.tool.args": json.dumps(ARGUMENTS),
            "acme.tool.result": FAILED}  # fmt: skip
    return turn(told(OPENAI_ASKED, OPENAI_CALLED), tool, told(OPENAI_HISTORY, OPENAI_ANSWER), scope="acme")


SAMPLES = {
    "otel-genai": otel, "otel-genai span events": span_events, "otel-genai log events": log_events,
    "otel-genai details event": details_event, "otel-genai strands": strands, "openinference": openinference,
    "openinference anthropic": anthropic_shapes, "openinference reprs": reprs, "openllmetry": openllmetry_flat,
    "vercel-ai": vercel, "langfuse": langfuse, "langsmith": langsmith, "mlflow": mlflow,
    "pydantic-ai events": pydantic_events, "pydantic-ai logfire": logfire, "google-adk": adk,
    "claude-code": claude_code, "inferred": unmapped,
}  # fmt: skip
