"""Recognises JSON exports of other systems by their keys. Used only for error messages (``recognise``)."""

from __future__ import annotations

from typing import Any, NamedTuple


class Guess(NamedTuple):
    """What an input seems to be, and what the user can do."""

    what: str
    then: str


class Mark(NamedTuple):
    """Keys by which one system's JSON is recognised (``a b|c d``: a and b, or c and d), and values that a key must
    have."""

    keys: str
    guess: Guess
    among: dict[str, tuple[Any, ...]] = {}

    def fits(self, value: dict[str, Any]) -> bool:
        """Whether an object has these keys and values."""
        has_keys = any(set(keys.split()) <= value.keys() for keys in self.keys.split("|"))
        return has_keys and all(value.get(k) in wanted for k, wanted in self.among.items())


SEND_OTLP = (
    "send its spans as OTLP to `rehearsal receive` (OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318), or write them "
    "with the Collector's file exporter"
)
AS_MESSAGES = 'write each conversation as {"messages": [...]}'
_JAEGER = Guess("Jaeger's JSON", SEND_OTLP)
_LANGFUSE = Guess(
    "a trace or an observation exported from Langfuse",
    f"let Langfuse's SDK (version 3 or later) send OTLP as well, or {AS_MESSAGES}",
)
_LANGSMITH = Guess(
    "a run exported from LangSmith", f"let its SDK send OTLP (LANGSMITH_OTEL_ENABLED=true), or {AS_MESSAGES}"
)
_OBSERVATIONS = ("GENERATION", "SPAN", "EVENT", "AGENT", "TOOL", "CHAIN", "RETRIEVER", "EVALUATOR", "EMBEDDING",
                 "GUARDRAIL")  # fmt: skip
_JAVASCRIPT = Guess(
    "records as the OpenTelemetry SDK for JavaScript prints them (Gemini CLI's outfile is such a file)", SEND_OTLP
)
_NO_CHAT = ("/v1/embeddings", "/v1/moderations", "/v1/images/generations", "/v1/images/edits")
TRACES = (
    Mark("input expectedOutput|input expected_output",
         Guess("an item of a data set for evaluations (an input and what is expected)",
               "give recorded conversations: what an agent did answer")),
    Mark("custom_id url", Guess("a request of a batch that is no chat", "give batches of chats or responses"),
         {"url": _NO_CHAT}),
    Mark("resource_spans|resource_logs|scope_spans",
         Guess("OTLP with names in snake_case", "write it with protobuf's MessageToJson, which writes camelCase")),
    Mark("resourceProfiles", Guess("OTLP profiles", "profiles hold no conversation: give traces or logs")),
    Mark("scopeSpans|scopeLogs|scopeMetrics",
         Guess("a part of an OTLP request", 'put it into {"resourceSpans": [...]} or {"resourceLogs": [...]}')),
    Mark("traceId spanId startTimeUnixNano",
         Guess("an OTLP span by itself", 'put it into {"resourceSpans": [{"scopeSpans": [{"spans": [...]}]}]}')),
    Mark("traceID spans|traceID operationName|traceID spanID", _JAEGER),
    Mark("instrumentationScope|hrTime|hrTimeObserved", _JAVASCRIPT),
    Mark("run_type inputs|dotted_order trace_id|run_type outputs", _LANGSMITH),
    Mark("type traceId|type trace_id", _LANGFUSE, {"type": _OBSERVATIONS}),
    Mark("observations|projectId htmlPath|trace observations", _LANGFUSE),
    Mark("traceId id duration|traceId id localEndpoint|traceId id timestamp|traceId id parentId",
         Guess("Zipkin's JSON", SEND_OTLP)),
    Mark("context.trace_id|context.span_id", Guess("spans exported from Phoenix as a table", SEND_OTLP)),
    Mark("span_attributes root_span_id", Guess("a span exported from Braintrust", AS_MESSAGES)),
    Mark("op_name trace_id", Guess("a call exported from Weights & Biases Weave", AS_MESSAGES)),
    Mark("trace_id span_id resource|trace_id span_id service", Guess("Datadog's JSON", SEND_OTLP)),
    Mark("Segments Id|Document Id|trace_id subsegments", Guess("segments of AWS X-Ray", SEND_OTLP)),
    Mark("object", Guess("a trace of the OpenAI Agents SDK's own tracing",
                         "add an instrumentation that sends OTLP (openinference-instrumentation-openai-agents)"),
         {"object": ("trace", "trace.span")}),
    Mark("object", Guess("a streamed response in its chunks", "write the whole response, with its request's messages"),
         {"object": ("chat.completion.chunk",)}),
)  # fmt: skip
OTHERS = (
    Mark("source action args|source action message|source observation content|source observation extras",
         Guess("events of OpenHands (an agent's own log)", f"send its traces as OTLP, or {AS_MESSAGES}")),
    Mark("type thread_id|type item|type usage", Guess("what `codex exec --json` prints",
                                                      "give the session's file, ~/.codex/sessions/*/rollout-*.jsonl"),
         {"type": ("thread.started", "turn.started", "turn.completed", "item.started", "item.updated",
                   "item.completed")}),
    Mark("display project timestamp|session_id ts text|sessionId messageId message",
         Guess("an agent's list of prompts, without its answers",
               "give the sessions themselves: ~/.claude/projects/*/*.jsonl, ~/.codex/sessions/*/rollout-*.jsonl or "
               "~/.gemini/tmp/*/chats/*.json")),
    Mark("steps agent", Guess("an ATIF trajectory without its version", 'add "schema_version": "ATIF-v1.7"')),
    Mark("traceEvents", Guess("a trace of Chrome's profiler", AS_MESSAGES)),
    Mark("cells nbformat", Guess("a Jupyter notebook", AS_MESSAGES)),
    Mark("log stream", Guess("a container's log", f"such lines hold no conversation; {SEND_OTLP}")),
    Mark("level message|level msg|level event|severity message|severity textPayload|severity jsonPayload|@timestamp"
         "|levelname message",
         Guess("an application's log in JSON", f"such lines hold no conversation; {SEND_OTLP}")),
    Mark("error", Guess("an error answer of an API", "fetch the data again")),
)  # fmt: skip


def guess(value: dict[str, Any], marks: tuple[Mark, ...]) -> Guess | None:
    """The guess for an object, by its keys."""
    found = next((mark.guess for mark in marks if mark.fits(value)), None)
    return found or _by_its_parts(value)


def _by_its_parts(value: dict[str, Any]) -> Guess | None:
    """The guess for an object, by the keys of its inner objects."""
    data, context = value.get("data"), value.get("context")
    if isinstance(data, list) and data and isinstance(data[0], dict) and "traceID" in data[0]:
        return _JAEGER
    if isinstance(context, dict) and {"trace_id", "span_id"} <= context.keys():
        return Guess("spans as the OpenTelemetry SDK's console exporter prints them", SEND_OTLP)
    if isinstance(value.get("info"), dict) and isinstance(data, dict) and "spans" in data:
        return Guess("a trace exported from MLflow", "let MLflow send OTLP (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)")
    return None
