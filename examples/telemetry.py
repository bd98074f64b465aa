"""Emits the conversations of an example agent as OpenTelemetry spans in the current GenAI conventions.

One trace per turn: `invoke_agent` with children `chat` and `execute_tool`, joined by `gen_ai.conversation.id`, with
content. Start and end times are set explicitly, so durations show the simulated latencies without a sleep. Ids are
drawn from the conversation's seed, so a repeated export sends the same spans.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from .shared import dumps

Message = Mapping[str, Any]
MS = 1_000_000


class SeededIds(IdGenerator):
    """Trace and span ids from a seed that is set before each conversation."""

    def __init__(self) -> None:
        self._rng = random.Random(0)

    def reseed(self, seed: str) -> None:
        self._rng = random.Random(seed)

    def generate_span_id(self) -> int:
        return self._rng.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._rng.getrandbits(128) or 1

    def is_trace_id_random(self) -> bool:
        return True


@dataclass(frozen=True)
class Names:
    """The names under which an agent appears in its spans."""

    agent: str
    """`gen_ai.agent.name`, and the resource's `service.name`."""
    model: str
    provider: str
    tracer: str
    """The instrumentation scope."""


@dataclass(frozen=True)
class Recorded:
    """One finished conversation to emit as spans. `score` is None if it has no evaluation."""

    conversation_id: str
    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]]
    started_at_ns: int
    score: float | None = None
    explanation: str = ""


def make_provider(names: Names, ids: SeededIds) -> TracerProvider:
    """The SDK's provider with the agent's resource; the caller adds span processors."""
    resource = Resource.create({"service.name": names.agent, "service.version": "1.0.0"})
    return TracerProvider(
        resource=resource, id_generator=ids, span_limits=SpanLimits(), shutdown_on_exit=False
    )


class Instrumentation:
    """Emits an agent's conversations through one tracer. `spans` counts ended spans."""

    def __init__(self, names: Names, provider: TracerProvider, ids: SeededIds) -> None:
        self.names = names
        self._tracer = provider.get_tracer(names.tracer, "1.0.0")
        self._ids = ids
        self.spans = 0

    def emit(self, conversation: Recorded) -> None:
        """Emit one conversation, turn by turn, with simulated times."""
        self._ids.reseed(f"ids {conversation.conversation_id}")
        _Emitter(self, conversation).tell()

    def start(
        self, name: str, kind: SpanKind, at: int, parent: Span | None, attributes: dict[str, Any]
    ) -> Span:
        context = trace.set_span_in_context(parent or trace.INVALID_SPAN)
        return self._tracer.start_span(name, context=context, kind=kind, attributes=attributes, start_time=at)

    def end(self, span: Span, at: int) -> None:
        span.end(end_time=at)
        self.spans += 1


class _Emitter:
    """Emits one conversation: holds the current time and the history that every chat span repeats."""

    def __init__(self, out: Instrumentation, conversation: Recorded) -> None:
        self._out, self._told = out, conversation
        self._names = out.names
        self._rng = random.Random(f"clock {conversation.conversation_id}")
        self._now = conversation.started_at_ns
        self._system = dumps([{"type": "text", "content": conversation.messages[0]["content"]}])
        self._tools = dumps(conversation.tools)
        self._history: list[dict[str, Any]] = []
        self._responses = 0

    def tell(self) -> None:
        turns = _turns(self._told.messages)
        for number, turn in enumerate(turns):
            self._turn(turn, last=number == len(turns) - 1)
            self._now += round(self._rng.lognormvariate(0, 0.5) * 9000 * MS)

    def _turn(self, turn: Sequence[Message], last: bool) -> None:
        attributes = self._common("invoke_agent") | {"gen_ai.agent.name": self._names.agent}
        agent = self._out.start(f"invoke_agent {self._names.agent}", SpanKind.INTERNAL, self._now, None, attributes)
        self._history.append(message_parts(turn[0]))
        for k, message in enumerate(turn[1:]):
            if message["role"] == "assistant":
                self._chat(agent, message, first=k == 0)
            else:
                self._tool(agent, message)
        self._now += 2 * MS
        if last and self._told.score is not None:
            self._evaluate(agent, self._told.score)
        self._out.end(agent, self._now)

    def _common(self, operation: str) -> dict[str, Any]:
        return {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": self._names.provider,
            "gen_ai.request.model": self._names.model,
            "gen_ai.conversation.id": self._told.conversation_id,
        }

    def _chat(self, agent: Span, message: Message, first: bool) -> None:
        """Emit one model call. Only a turn's first call carries the tool definitions."""
        self._responses += 1
        reason = "tool_call" if message.get("tool_calls") else "stop"
        given, said = dumps(self._history), message_parts(message)
        attributes = self._common("chat") | {
            "gen_ai.agent.name": self._names.agent,
            "gen_ai.system_instructions": self._system,
            "gen_ai.input.messages": given,
            "gen_ai.output.messages": dumps([said | {"finish_reason": reason}]),
            "gen_ai.response.model": self._names.model,
            "gen_ai.response.id": f"resp-{self._told.conversation_id}-{self._responses}",
            "gen_ai.response.finish_reasons": [reason],
            "gen_ai.usage.input_tokens": (len(self._system) + len(given)) // 4,
            "gen_ai.usage.output_tokens": max(1, len(dumps(said)) // 4),
        }
        if first:
            attributes["gen_ai.tool.definitions"] = self._tools
        span = self._out.start(f"chat {self._names.model}", SpanKind.CLIENT, self._now, agent, attributes)
        self._now += round(self._rng.lognormvariate(0, 0.3) * 700 * MS)
        self._out.end(span, self._now)
        self._history.append(said)

    def _tool(self, agent: Span, result: Message) -> None:
        call = next(p for p in self._history[-1]["parts"] if p.get("id") == result["tool_call_id"])
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.conversation.id": self._told.conversation_id,
            "gen_ai.agent.name": self._names.agent,
            "gen_ai.tool.name": result["name"],
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": result["tool_call_id"],
            "gen_ai.tool.call.arguments": dumps(call["arguments"]),
            "gen_ai.tool.call.result": result["content"],
        }
        if result["is_error"]:
            attributes["error.type"] = result["error_class"]
        span = self._out.start(
            f"execute_tool {result['name']}", SpanKind.INTERNAL, self._now, agent, attributes
        )
        if result["is_error"]:
            span.set_status(Status(StatusCode.ERROR, result["error_class"]))
        self._now += round(result["latency_ms"] * MS)
        self._out.end(span, self._now)
        self._history.append(message_parts(result))

    def _evaluate(self, agent: Span, score: float) -> None:
        attributes: dict[str, Any] = {
            "gen_ai.evaluation.name": "task_success",
            "gen_ai.evaluation.score.value": score,
            "gen_ai.evaluation.score.label": "pass" if score else "fail",
        }
        if self._told.explanation:
            attributes["gen_ai.evaluation.explanation"] = self._told.explanation
        agent.add_event("gen_ai.evaluation.result", attributes, timestamp=self._now)


def message_parts(message: Message) -> dict[str, Any]:
    """A message in the form of the GenAI conventions: a role and parts."""
    if message["role"] == "tool":
        part = {
            "type": "tool_call_response",
            "id": message["tool_call_id"],
            "response": message["content"],
        }
        return {"role": "tool", "parts": [part]}
    parts: list[dict[str, Any]] = []
    if message.get("content"):
        parts.append({"type": "text", "content": message["content"]})
    for call in message.get("tool_calls") or ():
        parts.append({"type": "tool_call", **{k: call[k] for k in ("id", "name", "arguments")}})
    return {"role": message["role"], "parts": parts}


def _turns(messages: Sequence[Message]) -> list[list[Message]]:
    """The messages after the system prompt, split before each user message. Trailing user messages without an answer
    are dropped, since no span would carry them."""
    turns: list[list[Message]] = []
    for message in messages[1:]:
        if message["role"] == "user":
            turns.append([])
        turns[-1].append(message)
    return [t for t in turns if len(t) > 1]
