"""A file that cannot be read says what it seems to be and what to do, and is called cut only where it is."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
import zstandard

from ingest.errors import UserError
from ingest.lake import IngestSummary, Lake

GOOD: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}]}
OTHER: dict[str, Any] = {"messages": [{"role": "user", "content": "bye"}, {"role": "assistant", "content": "Bye."}]}
READABLE = '{"messages": [{"role": "user", "content": "..."}'


def ingest(tmp_path: Path, content: Any, name: str = "data.jsonl") -> IngestSummary:
    data = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    path = tmp_path / name
    path.write_bytes(data)
    return Lake.create(tmp_path / "lake").ingest([path])


CONSOLE = {
    "name": "chat",
    "context": {"trace_id": "0x1", "span_id": "0x2"},
    "kind": "SpanKind.CLIENT",
    "attributes": {},
}
SEEN: dict[str, tuple[Any, str, str]] = {
    "csv": ("id,prompt,answer\n1,hi,yo\n2,a,b\n", "CSV", "duckdb"),
    "tsv": ("id\tprompt\n1\thi\n", "TSV", "duckdb"),
    "html": ("<!DOCTYPE html>\n<html><body>Log in</body></html>\n", "HTML", "login"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\n1 0 obj\n", "PDF", "JSON"),
    "zip": (b"PK\x03\x04\x14\0\0\0\x08\0", "ZIP", "unpack"),
    "sqlite": (b"SQLite format 3\0\x10\0", "SQLite", "export"),
    "xml": ('<?xml version="1.0"?>\n<a/>\n', "XML", "JSON"),
    "log": ("2026-09-14 05:02:14,123 INFO started\n" * 3, "log in plain text", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    "prometheus": ("# HELP up Whether\n# TYPE up gauge\nup 1\n", "Prometheus", "metrics hold no conversation"),
    "json log": ('{"level":"info","msg":"x","ts":1}\n' * 3, "log in JSON", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    "container log": ('{"log":"x\\n","stream":"stdout","time":"t"}\n', "container's log", "OTLP"),
    "claude code": ({"type": "summary", "summary": "x", "leafUuid": "u"}, "Claude Code without", "leave it out"),
    "codex": ({"timestamp": "t", "type": "session_meta", "payload": {"id": "x"}}, "Codex CLI without", "leave it out"),
    "codex exec": ({"type": "thread.started", "thread_id": "t"}, "codex exec --json", "rollout-*.jsonl"),
    "prompts": ({"display": "hi", "timestamp": 1, "project": "/x", "sessionId": "s"}, "list of prompts", "~/.claude"),
    "openhands": ([{"id": 0, "source": "user", "action": "message", "args": {}, "message": "x"}], "OpenHands", "OTLP"),
    "gemini outfile": ({"hrTime": [1, 2], "attributes": {"event.name": "gemini_cli.user_prompt"}}, "JavaScript",
                       "OTEL_EXPORTER_OTLP_ENDPOINT"),
    "jaeger": ({"data": [{"traceID": "a", "spans": []}]}, "Jaeger", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    "zipkin": ([{"traceId": "a", "id": "b", "name": "x", "timestamp": 1, "duration": 2}], "Zipkin", "OTLP"),
    "langfuse": ([{"id": "o", "traceId": "t", "type": "GENERATION", "input": [{"role": "user", "content": "hi"}],
                   "output": {"role": "assistant", "content": "yo"}}], "Langfuse", "OTLP"),
    "langsmith": ({"id": "r", "run_type": "llm", "inputs": {"messages": GOOD["messages"]}, "outputs": {}}, "LangSmith",
                  "LANGSMITH_OTEL_ENABLED"),
    "console exporter": ((json.dumps(CONSOLE, indent=4) + "\n") * 2, "console exporter", "rehearsal receive"),
    "snake case": ({"resource_spans": [{"scope_spans": []}]}, "snake_case", "MessageToJson"),
    "a span": ({"traceId": "a", "spanId": "b", "startTimeUnixNano": "1"}, "span by itself", '{"resourceSpans"'),
    "profiles": ({"resourceProfiles": []}, "profiles", "traces or logs"),
    "mlflow": ({"info": {"request_id": "r"}, "data": {"spans": []}}, "MLflow", "OTLP"),
    "openai agents": ({"object": "trace.span", "id": "s"}, "Agents SDK", "OTLP"),
    "chunks": ({"object": "chat.completion.chunk", "choices": [{"delta": {}}]}, "chunks", "whole response"),
    "no role": ({"messages": [GOOD["messages"][0], {"content": "yo"}]}, "message 2 has no role", '"role": "user"'),
    "no messages": ({"messages": []}, "without messages", "leave it out"),
    "messages elsewhere": ({"messages": "see attachment"}, 'whose "messages" is no list', "messages"),
    "other keys": ({"foo": 1, "bar": 2}, "other keys (foo, bar)", '{"messages": [...]}'),
    "data set": ({"id": "i", "input": {"messages": [{"role": "user", "content": "x"}]}, "expectedOutput": "y"},
                 "data set for evaluations", "did answer"),
    "atif step": ({"schema_version": "ATIF-v1.7", "steps": [{"source": "user", "message": "hi"}, "oops"]},
                  "step 2 of the trajectory is no object", READABLE),
    "atif without steps": ({"schema_version": "ATIF-v1.7", "steps": []}, "the trajectory has no steps", READABLE),
    "a number": ("12\n", "JSON value by itself (12)", '{"messages": [...]}'),
    "numbers": ("[1, 2]\n", "list without objects", '{"messages": [...]}'),
    "a word": ("hello", "no JSON", READABLE),
    "yaml": ("messages:\n  - role: user\n    content: hi\n", "no JSON", READABLE),
}  # fmt: skip


@pytest.mark.parametrize("kind", SEEN)
def test_an_unreadable_file_is_refused_with_its_kind_and_a_remedy(tmp_path: Path, kind: str) -> None:
    content, seems, step = SEEN[kind]
    done = ingest(tmp_path, content)
    (problem,) = done.problems
    assert done.new == 0 and str(tmp_path / "data.jsonl") in problem and "\n" not in problem
    assert seems in problem and step in problem and READABLE in problem and "docs/files.md" in problem
    assert "truncated" not in problem


def test_metrics_alone_are_refused_with_a_reason(tmp_path: Path) -> None:
    done = ingest(tmp_path, {"resourceMetrics": [{"scopeMetrics": []}]})
    (problem,) = done.problems
    assert "OTLP metrics only" in problem and "export traces" in problem and READABLE in problem
    done = ingest(tmp_path, json.dumps({"resourceMetrics": [{}]}) + "\n" + json.dumps(GOOD) + "\n")
    assert (done.metrics, done.new, done.problems) == (1, 1, [])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_suggested_command_makes_a_readable_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"data.{kind}"
    messages = json.dumps(GOOD["messages"]) if kind == "csv" else GOOD["messages"]
    duckdb.sql(f"COPY (SELECT 's' AS id, $m AS messages, 0.5 AS reward) TO '{path}'", params={"m": messages})
    lake = Lake.create(tmp_path / "lake")
    (problem,) = lake.ingest([path]).problems
    command = re.search(r'python -c "(.*)"; a readable', problem)
    assert command
    subprocess.run([sys.executable, "-c", command[1]], check=True, timeout=60)
    assert not lake.ingest([f"{path}.jsonl"]).problems
    (c,) = lake.conversations()
    assert (c.conversation_id, len(c.messages), c.outcomes[0]["score"]) == ("s", 2, 0.5)


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (json.dumps(GOOD)[:30], 0),
        (json.dumps(GOOD) + "\n" + json.dumps(OTHER)[:30], 1),
        (json.dumps(GOOD, indent=1)[:-8], 0),
        (json.dumps(GOOD, indent=1) + "\n" + json.dumps(OTHER, indent=1)[:40], 1),
        (gzip.compress((json.dumps(GOOD) + "\n").encode())[:-9], 0),
        (zstandard.ZstdCompressor().compress((json.dumps(GOOD) + "\n").encode())[:-3], 0),
    ],
    ids=["first line", "last line", "one value", "second value", "gzip", "zstd"],
)
def test_truncated_files_are_called_truncated(tmp_path: Path, content: Any, kept: int) -> None:
    done = ingest(tmp_path, content)
    assert "truncated" in done.problems[0] and done.new == kept


@pytest.mark.parametrize("last", ["hello", '{"foo": 1}', '{"messages": []}', "{'a': 1}", "[1, 2]"])
def test_a_complete_last_line_without_a_newline_is_not_truncated(tmp_path: Path, last: str) -> None:
    done = ingest(tmp_path, json.dumps(GOOD) + "\n" + last)
    assert done.new == 1 and "truncated" not in done.problems[0] and "line 2" in done.problems[0]


def test_a_damaged_compressed_stream_is_not_called_truncated(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress((json.dumps(GOOD) + "\n").encode()))
    whole[-6] ^= 255  # in the checksum
    (problem,) = ingest(tmp_path, bytes(whole), "data.jsonl.gz").problems
    assert "damaged" in problem and "truncated" not in problem


def test_a_truncated_first_line_loses_no_other(tmp_path: Path) -> None:
    done = ingest(tmp_path, "\n".join([json.dumps(GOOD)[:30], json.dumps(GOOD), json.dumps(OTHER)]) + "\n")
    assert done.new == 2 and "line 1 is no" in done.problems[0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_windows_encodings_and_line_ends_are_read(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    text = mark + "".join(json.dumps(x, ensure_ascii=False) + "\r\n" for x in (GOOD, OTHER))
    done = ingest(tmp_path, text.replace("hi", "h\u00ef").encode(encoding))
    assert (done.new, done.problems) == (2, [])
    assert "h\u00ef" in [c.messages[0]["content"] for c in Lake.open(tmp_path / "lake").conversations()]


def test_consecutive_multi_line_values_are_read(tmp_path: Path) -> None:
    done = ingest(tmp_path, json.dumps(GOOD, indent=2) + "\n" + json.dumps(OTHER, indent=2) + "\n")
    assert (done.new, done.problems) == (2, [])


def test_consecutive_zstd_frames_are_read(tmp_path: Path) -> None:
    pack = zstandard.ZstdCompressor().compress
    done = ingest(tmp_path, b"".join(pack((json.dumps(x) + "\n").encode()) for x in (GOOD, OTHER)), "data.jsonl.zst")
    assert (done.new, done.problems) == (2, [])


SPAN = {
    "traceId": "5b8efff798038103d269b633813fc60c",
    "spanId": "eee19b7ec3c1b174",
    "name": "x",
    "startTimeUnixNano": "1",
}


@pytest.mark.parametrize(
    "value",
    [
        {"batches": [{"resource": {}, "scopeSpans": [{"spans": [SPAN]}]}]},
        {"trace": {"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": [SPAN]}]}]}},
        {"resourceSpans": [
            {"instrumentationLibrarySpans": [{"instrumentationLibrary": {"name": "l"}, "spans": [SPAN]}]}]},
    ],
    ids=["tempo", "tempo 2", "before 2022"],
)  # fmt: skip
def test_other_otlp_forms_are_read(tmp_path: Path, value: Any) -> None:
    done = ingest(tmp_path, value)
    assert (done.spans, done.problems) == (1, [])


def test_a_directory_without_readable_files_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"no file to read: it holds 1 \.csv; .*given by name"):
        Lake.create(tmp_path / "lake").ingest([data])


def test_files_that_were_not_read_are_listed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jsonl").write_text(json.dumps(GOOD) + "\n")
    for name in ("b.csv", "c.csv", "README", ".hidden"):
        (data / name).write_text("x")
    command = [sys.executable, "-m", "ingest", "ingest", "--lake", str(tmp_path / "lake"), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "not read: " in done.stdout
    assert "2 .csv" in done.stdout and "1 without a suffix" in done.stdout and "give it by name" in done.stdout


def test_the_summary_explains_what_was_left_out(tmp_path: Path) -> None:
    nameless, odd = {**SPAN, "traceId": ""}, {**SPAN, "attributes": 5}
    spans = {"resourceSpans": [{"scopeSpans": [{"spans": [SPAN, nameless, odd]}]}], "resourceMetrics": [{}]}
    (tmp_path / "a.json").write_text(json.dumps(spans))
    command = [sys.executable, "-m", "ingest", "ingest", "--lake", str(tmp_path / "lake"), str(tmp_path / "a.json")]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert "left out: metrics 1, unreadable 1, without ids 1" in shown
    assert "spans need a traceId and a spanId that are not zero" in shown
    assert "fields of another type than OTLP defines" in shown
    assert "metrics hold no conversation: export traces or logs as well" in shown


def test_a_bad_file_is_one_line_on_stderr_and_exit_status_2(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,prompt\n1,hi\n")
    command = [sys.executable, "-m", "ingest", "ingest", "--lake", str(tmp_path / "lake"), str(tmp_path / "a.csv")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("rehearsal: ") and done.stderr.count("\n") == 1
    assert "CSV" in done.stderr and READABLE in done.stderr


def test_an_unreadable_line_is_reported_with_its_number(tmp_path: Path) -> None:
    done = ingest(tmp_path, "\n".join([json.dumps(GOOD), json.dumps(CONSOLE), json.dumps(OTHER)]) + "\n")
    assert done.new == 2
    assert "line 2 is no" in done.problems[0] and "console exporter" in done.problems[0]
    assert "the 2 good ones were ingested" in done.problems[0]
