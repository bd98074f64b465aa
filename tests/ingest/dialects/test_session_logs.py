"""Log records of command-line agents, without spans: what they tell of a session is a conversation, what is left over
is counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ingest_samples import START, answer, attributes, call, chat, request, text, value

from ingest.journal import segments as journal
from ingest.lake import IngestSummary, Lake
from ingest.records import Conversation
from ingest.tables import build as lake_tables

SECOND = 1_000_000_000


def record(name: str, values: dict[str, Any], at: float, **more: Any) -> dict[str, Any]:
    """A log record as the agents' SDKs send it: the name in an attribute, no trace."""
    return {
        "timeUnixNano": str(START + int(at * SECOND)),
        "attributes": attributes({"event.name": name, **values}),
        **more,
    }


def logs(*records: dict[str, Any], service: str = "agent", **resource: Any) -> dict[str, Any]:
    told = {"resource": {"attributes": attributes({"service.name": service, **resource})},
            "scopeLogs": [{"scope": {"name": "events"}, "logRecords": list(records)}]}  # fmt: skip
    return {"resourceLogs": [told]}


def read(tmp_path: Path, *requests: dict[str, Any]) -> tuple[list[Conversation], IngestSummary]:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in requests))
    lake = Lake.create(tmp_path / "lake")
    done = lake.ingest([path])
    assert not done.problems
    lake.describe(done)
    balance = lake.conservation()
    assert balance.holds, balance.lines()
    return lake.conversations(), done


def told(c: Conversation) -> list[tuple[Any, ...]]:
    out: list[tuple[Any, ...]] = []
    for m in c.messages:
        if m["role"] == "tool":
            out.append(("tool", m.get("content"), m["name"], m["is_error"]))
        else:
            out.append(
                (m["role"], m.get("content"), *((x["name"], x.get("arguments")) for x in m.get("tool_calls") or ()))
            )
    return out


def codex(session: str = "c-1") -> list[dict[str, Any]]:
    """As codex-rs writes them: all values are texts; ``event_name`` is a place in the source."""
    own = {"conversation.id": session, "model": "gpt-5", "app.version": "0.60"}
    place = {"eventName": "event otel/src/events/session_telemetry.rs:884"}
    return [
        record("codex.conversation_starts", {**own, "approval_policy": "never"}, 0, **place),
        record("codex.user_prompt", {**own, "prompt_length": "9", "prompt": "list files"}, 1, **place),
        record("codex.sse_event", {**own, "event.kind": "response.completed", "input_token_count": "5"}, 2, **place),
        record("codex.tool_decision", {**own, "tool_name": "shell", "call_id": "x1", "decision": "approved"}, 2.5),
        record("codex.tool_result", {**own, "tool_name": "shell", "call_id": "x1", "arguments": '{"command":["ls"]}',
                                     "duration_ms": "40", "success": "true", "output": "a.py"}, 3, **place),
        record("codex.tool_result", {**own, "tool_name": "shell", "call_id": "x2", "arguments": '{"command":["rm"]}',
                                     "duration_ms": "7", "success": "false", "output": "denied"}, 4, **place),
        record("codex.agent_response", {**own, "response": "There is a.py.", "agent.type": "main"}, 5, **place),
        record("codex.user_prompt", {**own, "prompt": "thanks"}, 6, **place),
    ]  # fmt: skip


CODEX = [
    ("user", "list files"), ("assistant", None, ("shell", {"command": ["ls"]})), ("tool", "a.py", "shell", False),
    ("assistant", None, ("shell", {"command": ["rm"]})), ("tool", "denied", "shell", True),
    ("assistant", "There is a.py."), ("user", "thanks"),
]  # fmt: skip


def test_codex_sessions_are_read(tmp_path: Path) -> None:
    (c,), done = read(tmp_path, logs(*codex(), service="codex_cli_rs"))
    assert (c.conversation_id, c.agent) == ("c-1", "codex_cli_rs") and told(c) == CODEX
    assert [t.latency_ms for t in Lake.open(tmp_path / "lake").transitions()] == [40.0, 7.0]
    assert not done.unread_log_records


def test_the_order_of_arrival_changes_nothing(tmp_path: Path) -> None:
    (c,), _ = read(tmp_path, *(logs(r, service="codex_cli_rs") for r in reversed(codex())))
    assert told(c) == CODEX


def test_sessions_are_not_joined(tmp_path: Path) -> None:
    both = [r for pair in zip(codex("c-1"), codex("c-2"), strict=True) for r in pair]
    found, _ = read(tmp_path, logs(*both))
    assert {c.conversation_id: told(c) for c in found} == {"c-1": CODEX, "c-2": CODEX}


def test_turns_in_traces_of_their_own_are_one_session(tmp_path: Path) -> None:
    records = codex()
    for number, r in enumerate(records):
        r |= {"traceId": f"{1 + (number > 6):032x}", "spanId": f"{number + 1:016x}"}
    (c,), _ = read(tmp_path, logs(*records))
    assert told(c) == CODEX


def claude(name: str, at: float, **values: Any) -> dict[str, Any]:
    own = {"session.id": "s-1", "user.id": "u", "terminal.type": "vscode", "prompt.id": "p"}
    return record(name, {**own, **values}, at, body=value(f"claude_code.{name}"))


def test_claude_code_sessions_without_bodies_are_read(tmp_path: Path) -> None:
    events = [
        claude("user_prompt", 1, prompt="fix it", prompt_length=6, **{"event.sequence": 1}),
        claude("api_request", 2, model="claude-sonnet-4-6", cost_usd=0.1, input_tokens=5, **{"event.sequence": 2}),
        claude("assistant_response", 2, response="I look.", **{"event.sequence": 3}),
        claude("tool_decision", 3, tool_name="Bash", decision="accept"),
        claude("tool_result", 4, tool_name="Bash", tool_use_id="t1", success="true", duration_ms="12",
               tool_parameters=json.dumps({"full_command": "ls"})),
        claude("tool_result", 5, tool_name="Edit", tool_use_id="t2", success="false", duration_ms="3",
               error="File not found", tool_input=json.dumps({"file_path": "a.py"})),
        claude("assistant_response", 6, response="Done."),
    ]  # fmt: skip
    (c,), done = read(tmp_path, logs(*events, service="claude-code"))
    assert told(c) == [
        ("user", "fix it"), ("assistant", "I look."), ("assistant", None, ("Bash", {"full_command": "ls"})),
        ("tool", None, "Bash", False), ("assistant", None, ("Edit", {"file_path": "a.py"})),
        ("tool", "File not found", "Edit", True), ("assistant", "Done."),
    ]  # fmt: skip
    assert not done.unread_log_records


def test_claude_code_sessions_with_bodies_are_read(tmp_path: Path) -> None:
    system, tool = [{"type": "text", "text": "You code."}], {"name": "Bash", "input_schema": {"type": "object"}}
    asked = [{"role": "user", "content": "fix it"}]
    use = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"c": "ls"}}
    used = {"role": "assistant", "content": [{"type": "text", "text": "I look."}, use]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "a.py"}]}
    done_ = {"role": "assistant", "content": [{"type": "text", "text": "Done."}]}

    def pair(at: float, messages: list[Any], answer_: dict[str, Any]) -> list[dict[str, Any]]:
        body = {"model": "m", "system": system, "tools": [tool], "messages": messages}
        response = {"id": f"msg_{at}", "type": "message", **answer_}
        return [claude("api_request_body", at, body=json.dumps(body)),
                claude("api_response_body", at + 0.5, body=json.dumps(response))]  # fmt: skip

    events = [
        claude("user_prompt", 1, prompt="fix it"), *pair(2, asked, used),
        claude("tool_result", 3, tool_name="Bash", tool_use_id="t1", success="true", duration_ms="12"),
        *pair(4, [*asked, used, result], done_), claude("assistant_response", 5, response="Done."),
    ]  # fmt: skip
    (c,), done = read(tmp_path, logs(*events, service="claude-code"))
    assert told(c) == [
        ("system", "You code."), ("user", "fix it"), ("assistant", "I look.", ("Bash", {"c": "ls"})),
        ("tool", "a.py", "Bash", False), ("assistant", "Done."),
    ]  # fmt: skip
    assert [t["name"] for t in c.tools] == ["Bash"] and not done.unread_log_records
    assert Lake.open(tmp_path / "lake").transitions()[0].latency_ms == 12.0


def test_calls_of_a_sub_agent_are_in_its_own_conversation(tmp_path: Path) -> None:
    events = [
        claude("user_prompt", 1, prompt="fix it"),
        claude("tool_result", 2, tool_name="Grep", tool_use_id="t2", success="true", **{"agent.name": "explorer"}),
        claude("tool_result", 3, tool_name="Task", tool_use_id="t1", success="true"),
        claude("assistant_response", 4, response="Done."),
    ]  # fmt: skip
    found, _ = read(tmp_path, logs(*events, service="claude-code"))
    assert {c.agent: [m[0] if m[0] != "tool" else m[2] for m in told(c)] for c in found} == {
        "claude-code": ["user", "assistant", "Task", "assistant"], "explorer": ["assistant", "Grep"],
    }  # fmt: skip


def test_content_that_the_agent_does_not_log_is_not_invented(tmp_path: Path) -> None:
    events = [claude("user_prompt", 1, prompt="<REDACTED>"),
              claude("tool_result", 2, tool_name="Read", success="true", duration_ms="1"),
              claude("assistant_response", 3, response="<REDACTED>")]  # fmt: skip
    (c,), _ = read(tmp_path, logs(*events))
    assert told(c) == [("assistant", None, ("Read", None)), ("tool", None, "Read", False)]
    assert "redacted" in c.flags and "session_log" in c.flags


def gemini(name: str, at: float, **values: Any) -> dict[str, Any]:
    return record(f"gemini_cli.{name}", {"session.id": "g-1", "prompt_id": "p1", "model": "gemini-3", **values}, at,
                  body=value("a sentence for people"))  # fmt: skip


def test_gemini_requests_and_streamed_responses_are_read(tmp_path: Path) -> None:
    asked = [{"role": "user", "parts": [{"text": "list files"}]}]
    called = {"role": "model", "parts": [{"functionCall": {"name": "ls", "args": {"path": "."}}}]}
    answered = {"role": "user", "parts": [{"functionResponse": {"name": "ls", "response": {"output": "a.py"}}}]}
    said = [{"candidates": [{"content": {"role": "model", "parts": [{"text": t}]}}]} for t in ("There is ", "a.py.")]
    events = [
        gemini("config", 0, core_tools_enabled="ls"),
        gemini("user_prompt", 1, prompt="list files", prompt_length=10),
        gemini("api_request", 2, request_text=json.dumps(asked)),
        gemini("api_response", 3, response_text=json.dumps([{"candidates": [{"content": called}]}]), status_code=200),
        gemini("tool_call", 4, function_name="ls", function_args='{"path": "."}', success=True, duration_ms=5),
        gemini("api_request", 5, request_text=json.dumps([*asked, called, answered])),
        gemini("api_response", 6, response_text=json.dumps(said)),
    ]  # fmt: skip
    (c,), done = read(tmp_path, logs(*events, service="gemini-cli"))
    assert told(c) == [
        ("user", "list files"), ("assistant", None, ("ls", {"path": "."})), ("tool", '{"output":"a.py"}', "ls", False),
        ("assistant", "There is a.py."),
    ]  # fmt: skip
    assert not done.unread_log_records


def test_gemini_responses_without_requests_are_read(tmp_path: Path) -> None:
    called = {"role": "model", "parts": [{"text": "I look."}, {"functionCall": {"name": "ls", "args": {}}}]}
    events = [
        gemini("user_prompt", 1, prompt="list files"), gemini("api_request", 2),
        gemini("api_response", 3, response_text=json.dumps({"candidates": [{"content": called}]})),
        gemini("tool_call", 4, function_name="ls", function_args="{}", success=True),
        gemini("api_response", 5, response_text="There is a.py."),
    ]  # fmt: skip
    (c,), _ = read(tmp_path, logs(*events))
    assert told(c) == [("user", "list files"), ("assistant", "I look."), ("assistant", None, ("ls", {})),
                       ("tool", None, "ls", False), ("assistant", "There is a.py.")]  # fmt: skip
    assert [t.latency_ms for t in Lake.open(tmp_path / "lake").transitions()] in ([None], [])


def test_the_history_is_read_from_requests_alone(tmp_path: Path) -> None:
    asked = [{"role": "user", "parts": [{"text": "hi"}]}, {"role": "model", "parts": [{"text": "yo"}]},
             {"role": "user", "parts": [{"text": "more"}]}]  # fmt: skip
    (c,), _ = read(tmp_path, logs(*(gemini("api_request", n, request_text=json.dumps(asked[:n])) for n in (1, 3))))
    assert told(c) == [("user", "hi"), ("assistant", "yo"), ("user", "more")]


def test_gemini_sessions_without_texts_are_read(tmp_path: Path) -> None:
    events = [
        gemini("user_prompt", 1, prompt_length=10), gemini("api_request", 2), gemini("api_response", 3),
        gemini("tool_call", 4, function_name="ls", function_args="{}", success=False, error="no", error_type="X"),
    ]  # fmt: skip
    (c,), _ = read(tmp_path, logs(*events))
    assert told(c) == [("assistant", None, ("ls", {})), ("tool", "no", "ls", True)]
    assert Lake.open(tmp_path / "lake").transitions()[0].error_class == "X"


def test_an_unknown_agent_with_the_same_events_is_read(tmp_path: Path) -> None:
    events = [record("acme-code.user_prompt", {"session.id": "q", "prompt": "hi"}, 1),
              record("acme-code.tool_call", {"session.id": "q", "function_name": "f", "function_args": "{}",
                                             "success": True, "output": "1"}, 2)]  # fmt: skip
    (c,), _ = read(tmp_path, logs(*events))
    assert told(c) == [("user", "hi"), ("assistant", None, ("f", {})), ("tool", "1", "f", False)]


def test_the_standards_events_without_traces(tmp_path: Path) -> None:
    details = {"gen_ai.operation.name": "chat", "gen_ai.input.messages": json.dumps([text("user", "hi")]),
               "gen_ai.output.messages": json.dumps([text("assistant", "yo")])}  # fmt: skip
    name = "gen_ai.client.inference.operation.details"
    (c,), done = read(tmp_path, logs(record(name, {**details, "gen_ai.conversation.id": "d-1"}, 1)))
    assert (c.conversation_id, told(c)) == ("d-1", [("user", "hi"), ("assistant", "yo")])
    assert not done.unread_log_records


def test_log_records_that_are_not_understood_are_reported(tmp_path: Path) -> None:
    strange = [record("acme.started", {"host": "h"}, n) for n in range(4)]
    plain = [
        {"timeUnixNano": "1", "body": {"stringValue": "GET / 200"}},
        {"timeUnixNano": "2", "body": {"stringValue": "x"}},
    ]
    _, done = read(tmp_path, logs(*codex(), *strange, *plain))
    assert done.unread_log_records == {"acme.started": 4, "": 2}
    command = [sys.executable, "-m", "ingest", "ingest", "--lake", str(tmp_path / "lake"), str(tmp_path / "in.jsonl")]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert "6 log records were not understood (acme.started 4, without an event name 2)" in shown
    assert "rehearsal sql" in shown and "docs/files.md" in shown


def test_records_of_spans_that_were_read_are_understood(tmp_path: Path) -> None:
    history = [text("user", "hi"), call("a", "f", {}), answer("a", "1")]
    spans = request(chat(1, 2, 1.0, history, [text("assistant", "ok")], "s-1"))
    of_span = record("noise", {}, 1, traceId=f"{1:032x}", spanId=f"{2:016x}")
    beside = record("tool_result", {"session.id": "s-1", "tool_name": "f"}, 1, traceId=f"{1:032x}", spanId=f"{9:016x}")
    (c,), done = read(tmp_path, spans, logs(of_span, beside))
    assert told(c) == [("user", "hi"), ("assistant", None, ("f", {})), ("tool", "1", "f", False), ("assistant", "ok")]
    assert not done.unread_log_records


@pytest.mark.parametrize("shards", [2, 5])
def test_reading_in_parts_gives_the_same_sessions(tmp_path: Path, shards: int) -> None:
    requests = [logs(*codex(f"c-{n}")) for n in range(4)] + [logs(record("acme.started", {}, 1))]
    whole, done = read(tmp_path, *requests)
    lake = Lake.open(tmp_path / "lake")
    rows = {name: lake.query(f"SELECT * FROM {name} ORDER BY ALL").to_pylist() for name in ("messages", "tool_calls")}
    lake_tables.build(lake.path, shards=shards)
    assert rows == {name: lake.query(f"SELECT * FROM {name} ORDER BY ALL").to_pylist() for name in rows}
    again = IngestSummary()
    lake.describe(again)
    assert again.unread_log_records == done.unread_log_records == {"acme.started": 1}


def test_retention_keeps_a_session_whose_raw_rows_were_dropped(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    (lake.path / "privacy.toml").write_text('raw = "drop"\n')
    day = 86_400 * SECOND
    for session, arrived in (("old", 1), ("young", 99)):
        writer = journal.JournalWriter(lake.journal_path)
        told_logs = json.dumps(logs(*codex(session))).encode()
        writer.append([journal.record("logs_json", arrived * day, told_logs)])
        writer.close()
        lake.ingest()
        lake.build_tables()
    assert not list((lake.path / "raw").rglob("*.parquet"))
    assert lake.retain(30, now_ns=100 * day).conversations == 1
    assert {c.conversation_id: told(c) for c in lake.conversations()} == {"young": CODEX}


def test_retention_keeps_or_drops_a_whole_session(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    day = 86_400 * SECOND
    writer = journal.JournalWriter(lake.journal_path)
    old, young = codex("old"), codex("young")
    sent = [(logs(*old), 1), (logs(*young[:3]), 1), (logs(*young[3:]), 99)]
    writer.append([journal.record("logs_json", n * day, json.dumps(r).encode()) for r, n in sent])
    writer.close()
    done = lake.retain(30, now_ns=100 * day)
    assert (done.conversations, done.kept_whole, done.rows["log_records"]) == (1, 1, len(old))
    assert {c.conversation_id: told(c) for c in lake.conversations()} == {"young": CODEX}
