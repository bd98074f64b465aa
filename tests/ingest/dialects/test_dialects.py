"""Every dialect gives the same conversation, and none of its parts is lost, invented or told twice."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dialect_samples import (
    ARGUMENTS,
    FACTS,
    FAILED,
    OPENAI_ANSWER,
    OPENAI_ASKED,
    OPENAI_CALLED,
    OPENAI_HISTORY,
    OPENAI_TOOLS,
    SAMPLES,
    SCHEMA,
    facts,
    turn,
)

from ingest import dialects
from ingest.lake import Lake
from ingest.records import Conversation

Recover = Callable[..., list[Conversation]]


@pytest.mark.parametrize("name", SAMPLES)
def test_every_dialect_gives_the_same_conversation(name: str, recover: Recover, lake: Lake) -> None:
    (c,) = recover(SAMPLES[name]())
    assert facts(c) == FACTS
    assert [x["id"] for m in c.messages for x in m.get("tool_calls", ())] == ["c1"]
    dialects = lake.query("SELECT DISTINCT unnest(dialects) d FROM conversations").to_pydict()["d"]
    assert dialects == [name.split()[0]]


@pytest.mark.parametrize("name", ["otel-genai", "openinference", "vercel-ai", "langfuse", "mlflow", "inferred"])
def test_call_span_and_result_are_linked(name: str, recover: Recover, lake: Lake) -> None:
    recover(SAMPLES[name]())
    (call,) = lake.query("SELECT * FROM tool_calls").to_pylist()
    assert (call["tool"], json.loads(call["arguments"]), call["content"]) == ("cancel", ARGUMENTS, FAILED)
    assert call["latency_ms"] == pytest.approx(40) and call["execution_span_id"] == f"{3:016x}"
    assert call["is_error"] and call["error_class"] in ("no_reason_given", "ToolError")


@pytest.mark.parametrize("name", ["otel-genai", "openinference", "openllmetry", "vercel-ai", "langfuse", "langsmith",
                                  "mlflow", "pydantic-ai logfire", "google-adk", "inferred"])  # fmt: skip
def test_tool_definitions_are_flat_in_every_dialect(name: str, recover: Recover) -> None:
    (c,) = recover(SAMPLES[name]())
    assert c.tools == [{"name": "cancel", "parameters": SCHEMA}]


def test_the_worked_example_of_the_documentation_works(recover: Recover, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[3] / "docs" / "dialects.md").read_text()
    code = textwrap.dedent(text.split("   ```python\n")[1].split("   ```")[0])
    made: dict[str, Any] = {}
    exec(code, made)
    monkeypatch.setattr(dialects, "DIALECTS", (*dialects.DIALECTS, made["MAPPING"]))
    asked, answered = {"messages": OPENAI_ASKED, "tools": OPENAI_TOOLS}, {"choices": [{"message": OPENAI_ANSWER}]}
    calls = [
        {"acme.kind": "llm", "acme.chat": "c-17", "acme.in": json.dumps(request), "acme.out": json.dumps(response)}
        for request, response in (
            (asked, {"choices": [{"message": OPENAI_CALLED}]}),
            ({**asked, "messages": OPENAI_HISTORY}, answered),
        )
    ]
    ran = {"acme.kind": "tool", "acme.fn": "cancel", "acme.in": json.dumps(ARGUMENTS), "acme.out": FAILED}
    (c,) = recover(turn(calls[0], ran, calls[1]))
    assert facts(c) == FACTS and c.conversation_id == "c-17" and c.tools[0]["parameters"] == SCHEMA
