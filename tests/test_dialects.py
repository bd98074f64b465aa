"""Every dialect gives the same conversation, and none of its parts is lost, invented or told twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from dialect_samples import ARGUMENTS, FACTS, FAILED, SAMPLES, SCHEMA, conversations, facts

from ingest.lake import Lake
from ingest.records import Conversation

Recover = Callable[..., list[Conversation]]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.create(tmp_path / "lake")


@pytest.fixture
def recover(tmp_path: Path, lake: Lake) -> Recover:
    return lambda *requests: conversations(lake, tmp_path / "in.jsonl", *requests)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_dialect_tells_the_same_conversation(name: str, recover: Recover, lake: Lake) -> None:
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
def test_tool_definitions_are_flat_whatever_they_came_as(name: str, recover: Recover) -> None:
    (c,) = recover(SAMPLES[name]())
    assert c.tools == [{"name": "cancel", "parameters": SCHEMA}]
