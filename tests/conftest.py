"""What every test shares: few threads, no machine state, and, in CI, no quiet skips."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from dialect_samples import conversations

from ingest.lake import Lake
from ingest.records import Conversation

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# No test fails because a machine is busy, nor by chance. New examples are drawn by ``--hypothesis-profile random``.
hypothesis.settings.register_profile("counted", deadline=None, derandomize=True)
hypothesis.settings.register_profile("random", deadline=None)
hypothesis.settings.load_profile("counted")
for name in list(os.environ):
    if name.startswith(("OTEL_", "REHEARSAL_")) and name != "REHEARSAL_NO_SKIPS":
        del os.environ[name]


@pytest.fixture(autouse=True, scope="session")
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep Dagster's history out of the developer's own."""
    before = os.environ.get("DAGSTER_HOME")
    os.environ["DAGSTER_HOME"] = str(tmp_path_factory.mktemp("dagster_home"))
    yield
    if before is None:
        del os.environ["DAGSTER_HOME"]
    else:
        os.environ["DAGSTER_HOME"] = before


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    """With REHEARSAL_NO_SKIPS set, what was skipped has failed: CI has everything that a test may ask for."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("REHEARSAL_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where nothing may be: {call.excinfo}"


def _span(trace: int, span: int, name: str, parent: int = 0, **attributes: Any) -> dict[str, Any]:
    values = [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]
    start = 1_760_000_000_000_000_000 + 60_000_000_000 * trace + 1_000_000_000 * span
    return {
        "traceId": f"{trace + 1:032x}",
        "spanId": f"{100 * trace + span + 1:016x}",
        "parentSpanId": f"{100 * trace + parent + 1:016x}" if span else "",
        "name": name,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + 40_000_000),
        "attributes": values,
    }


def conversation_request(k: int) -> dict[str, Any]:
    """One conversation as an agent's exporter sends it: an OTLP request with three GenAI spans."""
    order = f"W{4000 + k}"
    call = {"type": "tool_call", "id": f"c{k}", "name": "get_order", "arguments": {"order_id": order}}
    result = {"order_id": order, "status": "shipped" if k % 2 else "pending"}
    asked = {"role": "user", "parts": [{"type": "text", "content": f"Where is my order {order}?"}]}
    answered = {"type": "tool_call_response", "id": f"c{k}", "response": result}
    told = {"type": "text", "content": f"It is {result['status']}."}
    history = [
        asked,
        {"role": "assistant", "parts": [call]},
        {"role": "tool", "parts": [answered]},
    ]
    common = {"gen_ai.conversation.id": f"talk-{k}", "gen_ai.agent.name": "desk"}
    spans = [
        _span(k, 0, "invoke_agent desk", **common, **{"gen_ai.operation.name": "invoke_agent"}),
        _span(
            k,
            1,
            "execute_tool get_order",
            **common,
            **{
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": "get_order",
                "gen_ai.tool.call.id": f"c{k}",
                "gen_ai.tool.call.arguments": json.dumps(call["arguments"]),
                "gen_ai.tool.call.result": json.dumps(result),
            },
        ),
        _span(
            k,
            2,
            "chat tiny",
            **common,
            **{
                "gen_ai.operation.name": "chat",
                "gen_ai.input.messages": json.dumps(history),
                "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [told]}]),
            },
        ),
    ]
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": "desk"}, "spans": spans}]}]}


@pytest.fixture
def traced_home(tmp_path: Path) -> Path:
    """A home whose journal holds twelve conversations in one sealed segment."""
    from ingest.journal import segments as journal

    home = tmp_path / "home"
    writer = journal.JournalWriter(home / "lake" / "journal")
    requests = [json.dumps(conversation_request(k)).encode() for k in range(12)]
    writer.append([journal.record("traces_json", 1_760_000_000_000_000_000, body) for body in requests])
    writer.close()
    return home


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake."""
    return Lake.create(tmp_path / "lake")


@pytest.fixture
def recover(tmp_path: Path, lake: Lake) -> Callable[..., list[Conversation]]:
    """The conversations that a lake makes of OTLP requests."""
    return lambda *requests: conversations(lake, tmp_path / "in.jsonl", *requests)
