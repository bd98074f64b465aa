"""What today's trace products get wrong (one test a defect), and what limits and exporters do to traces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dialect_samples import (
    ANSWER,
    ARGUMENTS,
    ASK,
    FACTS,
    FAILED,
    OPENAI_ANSWER,
    OPENAI_ASKED,
    OPENAI_CALLED,
    OPENAI_HISTORY,
    OTEL_ANSWER,
    OTEL_ASKED,
    OTEL_CALLED,
    OTEL_HISTORY,
    SAMPLES,
    SYSTEM,
    facts,
    log,
    logs,
    spans,
    turn,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingest_samples import attributes, chat, event, request, span, text, tool

from ingest import dialects
from ingest.lake import Lake
from ingest.messages.normal import Span
from ingest.messages.shapes import read_messages
from ingest.records import Conversation

Recover = Callable[..., list[Conversation]]


def change(sample: dict[str, Any], number: int, **values: Any) -> None:
    """Adds attributes to the span with that number; dots in names are written as ``__``."""
    (s,) = [s for s in spans(sample) if s["spanId"] == f"{number:016x}"]
    s["attributes"] += attributes({k.replace("__", "."): v for k, v in values.items()})


# ------------------------------------------------------------------------------- one test a defect


def test_structured_attributes_read_like_json_text(recover: Recover) -> None:
    """1, 2: Langfuse shows raw OTLP, Phoenix an empty list."""
    first, second = (
        chat(1, 2, 1, OTEL_ASKED, [OTEL_CALLED], None, True),
        chat(1, 4, 3, OTEL_HISTORY, [OTEL_ANSWER], None, True),
    )
    (c,) = recover(request(first, second))
    assert facts(c) == FACTS[1:]


def test_a_bad_message_or_part_loses_no_other(recover: Recover) -> None:
    """2: Phoenix drops the whole list."""
    bad = [7, None, {"role": "user"}, {"parts": "?"}, {"role": "assistant", "parts": [None, {"type": "tool_call"}]}]
    (c,) = recover(request(chat(1, 2, 1, [*bad, *OTEL_HISTORY], [OTEL_ANSWER], None)))
    assert facts(c) == FACTS[1:]


@pytest.mark.parametrize("part", [
    {"type": "blob", "mime_type": "image/png", "data": "aGk="}, {"type": "uri", "uri": "s3://b/x.png"},
    {"type": "file", "modality": "image", "file_id": "f1"}, {"type": "compaction", "content": "short"},
    {"type": "new", "x": 1},
])  # fmt: skip
def test_parts_of_older_drafts_and_unknown_ones_survive(part: dict[str, Any], recover: Recover, lake: Lake) -> None:
    """3: Phoenix drops blobs and URIs without a modality."""
    asked = [{"role": "user", "parts": [{"type": "text", "content": ASK}, part]}]
    (c,) = recover(request(chat(1, 2, 1, asked, [OTEL_ANSWER], None)))
    parts = json.loads(lake.query("SELECT parts FROM message_bodies WHERE role = 'user'").to_pylist()[0]["parts"])
    assert facts(c) == [("user", ASK), ("assistant", ANSWER)] and parts[1] == part


def test_events_keep_tool_messages_and_tool_calls(recover: Recover) -> None:
    """5: MLflow keeps only the content of system, user and assistant."""
    (c,) = recover(SAMPLES["otel-genai span events"]())
    assert facts(c) == FACTS


def test_what_pydantic_ai_writes_instead_of_the_standard(recover: Recover) -> None:
    """6: ``result``, ``thinking``, tool results from the user, arguments as JSON text."""
    call = {"type": "tool_call", "id": "c1", "name": "cancel", "arguments": json.dumps(ARGUMENTS)}
    called = {"role": "assistant", "parts": [{"type": "thinking", "content": "hm"}, call]}
    result = {"type": "tool_call_response", "id": "c1", "name": "cancel", "result": FAILED}
    history = [*OTEL_ASKED, called, {"role": "user", "parts": [result]}]
    (c,) = recover(request(chat(1, 2, 1, OTEL_ASKED, [called], None), chat(1, 4, 3, history, [OTEL_ANSWER], None)))
    assert facts(c) == FACTS[1:]


@pytest.mark.parametrize("other_id", ["c1", "fc_9"])
def test_double_instrumentation_gives_one_call(other_id: str, recover: Recover) -> None:
    """7, 8: two spans a call, which may disagree on the call's id."""
    sample = SAMPLES["otel-genai"]()
    again = json.loads(json.dumps(SAMPLES["openinference"]()).replace('"c1"', f'"{other_id}"'))
    for s in spans(again)[1:]:
        number = int(s["spanId"], 16)
        s["spanId"], s["parentSpanId"] = f"{number + 16:016x}", f"{number:016x}"
    spans(sample).extend(spans(again)[1:])
    (c,) = recover(sample)
    assert facts(c) == FACTS
    assert len([x for m in c.messages for x in m.get("tool_calls", ())]) == 1


def test_openinference_of_openai_agents(recover: Recover) -> None:
    """9: sparse index, no call id on the tool's span, ``tool.parameters`` is a schema, content told twice."""
    sample = SAMPLES["openinference"]()
    for s in spans(sample):
        dropped = [a for a in s["attributes"] if a["key"].startswith("llm.input_messages.0.")]
        s["attributes"] = [a for a in s["attributes"] if a not in dropped]
    at = "llm__input_messages__1__message__contents__0__message_content__"
    change(sample, 2, **{f"{at}type": "text", f"{at}text": ASK})
    (c,) = recover(sample)
    assert facts(c) == FACTS[1:] and {"missing_system", "sparse_index"} <= set(c.flags)


def test_a_history_whose_oldest_attributes_were_evicted_still_continues(recover: Recover) -> None:
    """10: at the SDK's 128 attributes the oldest go first, the span's kind among them."""
    sample = SAMPLES["openinference"]()
    last = spans(sample)[2]
    cut = next(n for n, a in enumerate(last["attributes"]) if a["key"].startswith("llm.input_messages.2."))
    last["attributes"], last["droppedAttributesCount"] = last["attributes"][cut + 1 :], cut + 1
    (c,) = recover(sample)
    assert facts(c) == FACTS and "dropped_attributes" in c.flags


def test_dropped_events_are_flagged(recover: Recover) -> None:
    """11: the oldest message events are lost."""
    sample = SAMPLES["otel-genai span events"]()
    for s in spans(sample)[1:3]:
        s["events"], s["droppedEventsCount"] = s["events"][1:], 1
    (c,) = recover(sample)
    assert facts(c) == FACTS[1:] and "dropped_attributes" in c.flags


@pytest.mark.parametrize("length", [150, 220, 300])
def test_a_history_truncated_by_a_length_limit_is_flagged(length: int, recover: Recover) -> None:
    """12: cut in the middle of the JSON, counted nowhere; what was whole before the cut is kept."""
    history = json.dumps(OTEL_HISTORY)
    second = chat(1, 4, 3, OTEL_HISTORY, [OTEL_ANSWER], None, **{"gen_ai.input.messages": history[:length]})
    ran = tool(1, 3, 2, "c1", "cancel", ARGUMENTS, FAILED, "ToolError")
    (c,) = recover(request(chat(1, 2, 1, OTEL_ASKED, [OTEL_CALLED], None), ran, second))
    assert facts(c) == FACTS[1:] and "truncated:gen_ai.input.messages" in c.flags


def test_adk_placeholders_are_not_content(recover: Recover, lake: Lake) -> None:
    """13: ``<not specified>``, ``N/A``, ``{}``, ``<not serializable>`` and a made-up span for parallel calls."""
    (c,) = recover(SAMPLES["google-adk"]())
    (call,) = lake.query("SELECT * FROM tool_calls").to_pylist()
    assert facts(c) == FACTS and call["execution_span_id"] == f"{3:016x}"


def test_list_indices_in_attribute_names_are_bounded(recover: Recover) -> None:
    """16: ``gen_ai.prompt.9999999.content`` sorts and sizes nothing; odd names do no harm."""
    sample = SAMPLES["openllmetry"]()
    change(sample, 2, gen_ai__prompt__9999999__role="user", gen_ai__prompt__9999999__content="More.",
           __proto____x="y", gen_ai__prompt__0__role__x="z", **{"gen_ai__prompt__" + "1__" * 500: "deep"})  # fmt: skip
    assert ("user", "More.") in [f for c in recover(sample) for f in facts(c)]


def test_message_json_inside_a_choice_event_is_parsed(recover: Recover) -> None:
    """17: the Java Gemini instrumentation; Langfuse leaves it as text."""
    said = {"index": 0, "message": json.dumps({"role": "model", "parts": [{"text": ANSWER}]})}
    values = {"gen_ai.system": "gemini", "gen_ai.operation.name": "chat"}
    asked = event("gen_ai.user.message", {"content": ASK})
    (c,) = recover(request(span(1, 2, "chat", values, events=[asked, event("gen_ai.choice", said)])))
    assert facts(c) == [("user", ASK), ("assistant", ANSWER)]


def test_history_is_stored_once(recover: Recover, lake: Lake) -> None:
    """19: every call repeats it."""
    recover(SAMPLES["otel-genai"]())
    assert lake.query("SELECT count(*) n FROM message_bodies").to_pydict()["n"] == [len(FACTS)]


# --------------------------------------------------------------------------- what exporters leave out


def test_runs_without_model_calls_are_rebuilt_from_their_tools(recover: Recover) -> None:
    calls = [tool(1, n, n, "", "find", {"n": n}, f"found {n}") for n in (2, 3)]
    (c,) = recover(request(span(1, 1, "run", {"gen_ai.operation.name": "invoke_agent"}, took=9), *calls))
    told = [("call", "find", {"n": 2}), ("result", "find", "found 2", False)]
    assert facts(c) == [*told, ("call", "find", {"n": 3}), ("result", "find", "found 3", False)]
    assert "rebuilt" in c.flags


def test_an_execution_without_a_call_adds_no_call(recover: Recover) -> None:
    """MCP servers export neither arguments nor results: the fact that a call was made, with what, is not there."""
    values = {"mcp.method.name": "tools/call", "gen_ai.tool.name": "find", "error.type": "tool_error"}
    (c,) = recover(request(span(1, 2, "tools/call find", values)))
    assert facts(c) == [("result", "find", None, True)] and {"rebuilt", "missing_system"} <= set(c.flags)


def test_spans_within_spans_of_the_same_tool_are_one_execution(recover: Recover, lake: Lake) -> None:
    sample = SAMPLES["otel-genai"]()
    client = span(1, 5, "MCP send tools/call cancel", {"mcp.method.name": "tools/call"}, at=2.01, parent=3)
    server = {"mcp.method.name": "tools/call", "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "cancel"}
    spans(sample).extend([client, span(1, 6, "tools/call cancel", server, at=2.02, parent=5)])
    (c,) = recover(sample)
    assert facts(c) == FACTS and lake.query("SELECT count(*) n FROM tool_calls").to_pydict()["n"] == [1]


def test_calls_that_repeat_only_the_first_request_are_one_run(recover: Recover) -> None:
    """opentelemetry-instrumentation-openai-agents-v2 gives every call the agent's first input."""
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.input.messages": json.dumps(OTEL_ASKED),
             "gen_ai.output.messages": json.dumps([OTEL_ANSWER])}  # fmt: skip
    shown = "ResponseFunctionToolCall(arguments='{\"id\": \"W1\"}', call_id='c1', name='cancel', type='function_call')"
    (c,) = recover(request(
        span(1, 1, "invoke_agent", agent, took=9), chat(1, 2, 1, OTEL_ASKED, [text("assistant", shown)], None),
        tool(1, 3, 2, "", "cancel", ARGUMENTS, FAILED, "ToolError"), chat(1, 4, 3, OTEL_ASKED, [OTEL_ANSWER], None),
    ))  # fmt: skip
    assert facts(c) == FACTS[1:] and "rebuilt" in c.flags


def test_a_tool_result_in_another_trace_joins_the_call_that_it_answers(recover: Recover) -> None:
    """Stateful calls send only what is new."""
    first, second = chat(1, 2, 1, OTEL_ASKED, [OTEL_CALLED], None), chat(2, 4, 3, OTEL_HISTORY[2:], [OTEL_ANSWER], None)
    (c,) = recover(request(first, second))
    assert facts(c) == FACTS[1:]


def test_an_ambiguous_hidden_history_is_flagged(recover: Recover) -> None:
    """A new user message in stateful mode names no earlier response: what it continues is not in the traces.
    Its token count shows that there was something; the conversation says so and repeats no system prompt."""
    system = {"gen_ai.system_instructions": json.dumps([{"type": "text", "content": SYSTEM}])}
    first, second, third = (
        chat(1, 2, 1, OTEL_ASKED, [OTEL_CALLED], None, **system, **{"gen_ai.usage.input_tokens": 30}),
        chat(2, 4, 3, OTEL_HISTORY[2:], [OTEL_ANSWER], None, **system, **{"gen_ai.usage.input_tokens": 60}),
        chat(3, 5, 5, [text("user", "Ok.")], [text("assistant", "Bye.")], None, **system,
             **{"gen_ai.usage.input_tokens": 80}),
    )  # fmt: skip
    whole, rest = recover(request(first, second, third))
    assert facts(whole) == FACTS and facts(rest) == [("user", "Ok."), ("assistant", "Bye.")]
    assert {"hidden_history", "missing_system"} <= set(rest.flags) and "hidden_history" not in whole.flags


def test_a_new_conversation_id_per_turn_does_not_split_a_conversation_joined_by_call_ids(recover: Recover) -> None:
    """AG2 gives each run a conversation id of its own."""
    again = [*OTEL_HISTORY, OTEL_ANSWER, text("user", "Ok.")]
    (c,) = recover(request(
        chat(1, 2, 1, OTEL_ASKED, [OTEL_CALLED], "run-1"), chat(1, 4, 3, OTEL_HISTORY, [OTEL_ANSWER], "run-1"),
        chat(2, 5, 9, again, [text("assistant", "Bye.")], "run-2"),
    ))  # fmt: skip
    assert facts(c) == [*FACTS[1:], ("user", "Ok."), ("assistant", "Bye.")] and c.conversation_id == "run-1"


def test_conversations_with_equal_content_and_different_ids_are_not_joined(recover: Recover) -> None:
    said = [text("user", "Hi."), text("assistant", "Hello.")]
    found = recover(request(
        chat(1, 2, 1, said[:1], said[1:], "a"), chat(2, 3, 5, [*said, text("user", "Bye.")], said[1:], "b"),
    ))  # fmt: skip
    assert [c.conversation_id for c in found] == ["a", "b"]


def test_an_agent_within_a_tool_has_a_conversation_of_its_own(recover: Recover) -> None:
    inner = [text("user", "Look up W1."), text("assistant", "It is open.")]
    named = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "desk"}
    sample = SAMPLES["otel-genai"]()
    spans(sample)[0]["attributes"] += attributes(named)
    within = chat(1, 6, 2.01, inner[:1], inner[1:], None)
    within["parentSpanId"] = f"{5:016x}"
    sub = span(1, 5, "invoke_agent sub", named | {"gen_ai.agent.name": "sub"}, at=2.005, took=0.02, parent=3)
    spans(sample).extend([sub, within])
    main, other = recover(sample)
    assert facts(main) == FACTS and main.agent == "desk"
    assert facts(other) == [("user", "Look up W1."), ("assistant", "It is open.")] and other.agent == "sub"


def test_redacted_content_is_flagged_and_no_message(recover: Recover) -> None:
    hidden = [{"role": "user", "parts": [{"type": "text", "content": "__REDACTED__"}]}]
    (c,) = recover(request(chat(1, 2, 1, hidden, [OTEL_ANSWER], None)))
    assert facts(c) == [("assistant", ANSWER)] and "redacted" in c.flags


def test_an_answer_without_a_call_is_flagged(recover: Recover) -> None:
    (c,) = recover(request(chat(1, 2, 1, OTEL_HISTORY[2:], [OTEL_ANSWER], None)))
    assert "orphan_result" in c.flags and c.messages[0]["is_error"]


def test_no_content_is_no_conversation(recover: Recover) -> None:
    values = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 5}
    assert recover(request(span(1, 2, "chat m", values))) == []


def test_log_records_whose_span_never_came_are_read(recover: Recover) -> None:
    told = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": OTEL_ASKED,
        "gen_ai.output.messages": [OTEL_ANSWER],
    }
    (c,) = recover(logs(log(2, "gen_ai.client.inference.operation.details", None, **told)))
    assert facts(c) == [("user", ASK), ("assistant", ANSWER)]


# ------------------------------------------------------------------------------------- references


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_referenced_content_is_read_beside_the_traces(form: str, recover: Recover, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    lines = [json.dumps(m) for m in OTEL_ASKED]
    (tmp_path / "blobs" / f"in.{form}").write_text(f"[{','.join(lines)}]" if form == "json" else "\n".join(lines))
    values = {"gen_ai.operation.name": "chat", "gen_ai.input.messages_ref": f"s3://bucket/run/blobs/in.{form}",
              "gen_ai.output.messages": json.dumps([OTEL_ANSWER])}  # fmt: skip
    (c,) = recover(request(span(1, 2, "chat", values)))
    assert facts(c) == [("user", ASK), ("assistant", ANSWER)] and "external_content" not in c.flags


@pytest.mark.parametrize("uri", ["s3://bucket/gone.json", "file:///etc/passwd", "../../outside.json", "file:///"])
def test_a_reference_opens_nothing_elsewhere_and_is_flagged(uri: str, recover: Recover, tmp_path: Path) -> None:
    (tmp_path.parent / "outside.json").write_text(json.dumps(OTEL_ASKED))
    values = {"gen_ai.operation.name": "chat", "gen_ai.input.messages_ref": uri,
              "gen_ai.output.messages": json.dumps([OTEL_ANSWER])}  # fmt: skip
    (c,) = recover(request(span(1, 2, "chat", values)))
    assert facts(c) == [("assistant", ANSWER)] and "external_content" in c.flags


# ---------------------------------------------------------------------------------- unmapped dialects


@pytest.mark.parametrize("keys", [("acme.prompt", "acme.completion"), ("x.history", "x.reply"), ("in", "output")])
def test_messages_are_recognised_under_any_name(keys: tuple[str, str], recover: Recover) -> None:
    first = {keys[0]: json.dumps(OPENAI_ASKED), keys[1]: json.dumps(OPENAI_CALLED)}
    second = {keys[0]: json.dumps(OPENAI_HISTORY), keys[1]: json.dumps(OPENAI_ANSWER)}
    (c,) = recover(turn(first, None, second, {keys[0]: json.dumps(OPENAI_ASKED), keys[1]: ANSWER}))
    assert facts(c) == FACTS


def test_spans_that_hold_no_messages_are_left_alone(recover: Recover) -> None:
    values = {"http.request.body": '{"q": "x"}', "db.statement": "SELECT 1", "input": "2", "tags": ["a"], "role": "db"}
    assert recover(request(span(1, 2, "GET /", values, events=[event("exception", {"exception.message": "no"})]))) == []


# ------------------------------------------------------------------------------------------ anything

_leaf = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.text(max_size=9)
    | st.sampled_from(["user", "tool", "text", "{", "[{"])
)
_key = st.sampled_from(["role", "type", "content", "parts", "tool_calls", "id", "name", "arguments", "message",
                        "function",
                        "response", "input", "output", "messages", "text", "kwargs", "data"])  # fmt: skip
_any = st.recursive(_leaf, lambda x: st.lists(x, max_size=4) | st.dictionaries(_key, x, max_size=4), max_leaves=20)
_NAMES = ["gen_ai.operation.name", "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.tool.call.arguments",
          "gen_ai.prompt", "gen_ai.prompt.0.role", "llm.input_messages.0.message.role", "openinference.span.kind",
          "input.value", "output.value", "ai.operationId", "ai.prompt.messages", "langfuse.observation.type",
          "langfuse.observation.input", "mlflow.spanType", "mlflow.spanInputs", "traceloop.entity.input", "events",
          "traceloop.span.kind", "gcp.vertex.agent.llm_request", "mcp.method.name", "span.type", "x.y"]  # fmt: skip


@given(_any, st.booleans())
def test_any_json_reads_as_messages_with_roles_and_typed_parts(value: Any, as_text: bool) -> None:
    for m in read_messages(json.dumps(value) if as_text else value):
        assert m["role"] in ("system", "user", "assistant", "tool")
        assert all(isinstance(p["type"], str) and ("name" in p) >= (p["type"] == "tool_call") for p in m["parts"])


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(_NAMES), _any | _any.map(json.dumps), max_size=6))
def test_no_attributes_make_a_dialect_fail(values: dict[str, Any]) -> None:
    said = {"name": "gen_ai.choice", "time_ns": 1, "attributes": values}
    dialects.observe(Span("t", "s", "", "n", 1, 1, 2, values, [said], 0, "", "", "", {}))
