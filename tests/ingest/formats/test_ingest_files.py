"""Files as the Collector's exporters, Kafka and others leave them; read twice they are in the lake once."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard
from google.protobuf import json_format
from ingest_samples import conversation, request, span
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ingest.formats import files
from ingest.lake import IngestSummary, Lake

pack = zstandard.ZstdCompressor().compress


def traces(number: int = 1) -> bytes:
    """The sample conversation as protobuf; generic converters write ids in base64."""
    sample = conversation(number, f"c-{number}")
    request = ExportTraceServiceRequest()
    for part in sample["resourceSpans"]:
        for scope in part["scopeSpans"]:
            for told in scope["spans"]:
                for key in ("traceId", "spanId", "parentSpanId"):
                    told[key] = base64.b64encode(bytes.fromhex(told[key])).decode()
    return json_format.ParseDict(sample, request).SerializeToString()


def logs() -> bytes:
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add(event_name="e", time_unix_nano=5)
    record.body.string_value = "said"
    return request.SerializeToString()


def metrics() -> bytes:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="sixteen bytes ok", unit="s")
    metric.gauge.data_points.add(as_double=1.5, time_unix_nano=1)
    return request.SerializeToString()


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(m)) + m for m in messages)


def ingest(tmp_path: Path, *paths: Path) -> IngestSummary:
    return Lake.create(tmp_path / "lake").ingest(list(paths))


def test_framed_files_of_the_collector_are_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "traces.proto").write_bytes(framed(traces(1), traces(2), logs(), metrics()))
    (data / "traces-2026-09-14T05-02-14.173.proto").write_bytes(framed(pack(traces(1)), pack(traces(3))))
    text = [json.dumps(conversation(n, f"c-{n}")).encode() for n in (4, 5)]
    (data / "traces.json.zst").write_bytes(framed(*map(pack, text)))
    (data / "traces-2026-09-14T05-02-14.174.jsonl.gz").write_bytes(gzip.compress(b"\n".join(text) + b"\n"))
    done = ingest(tmp_path, data)
    assert not done.problems
    assert (done.spans, done.log_records, done.metrics) == (done.spans, 1, 1)
    assert len(Lake.open(tmp_path / "lake").conversations()) == 5
    again = ingest(tmp_path, data)
    assert (again.new, again.duplicates, again.rows) == (0, done.rows, done.rows)


def test_s3_objects_and_kafka_messages_are_read(tmp_path: Path) -> None:
    hour = tmp_path / "bucket" / "year=2026" / "month=09" / "day=14" / "hour=05" / "minute=02"
    hour.mkdir(parents=True)
    (hour / "traces_123.binpb").write_bytes(traces(1))
    (hour / "traces_124.binpb.gz").write_bytes(gzip.compress(traces(2)))
    (hour / "traces_125.json").write_bytes(json.dumps(conversation(3, "c-3")).encode())
    (hour / "logs_126.binpb").write_bytes(logs())
    (hour / "metrics_127.binpb").write_bytes(metrics())
    (tmp_path / "bucket" / "otlp_spans-0-17.bin").write_bytes(traces(4))
    done = ingest(tmp_path, tmp_path / "bucket")
    assert not done.problems and (done.log_records, done.metrics) == (1, 1)
    assert len(Lake.open(tmp_path / "lake").conversations()) == 4


def test_objects_in_a_store_are_read_where_they_are(tmp_path: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for number, name in enumerate(("hour=05/traces_1.json", "hour=05/traces_2.binpb.gz", "hour=06/traces_3.binpb"), 1):
        data = json.dumps(conversation(number, f"c-{number}")).encode() if name.endswith("json") else traces(number)
        store.pipe(f"/bucket/{name}", gzip.compress(data) if name.endswith("gz") else data)
    lake = Lake.create(tmp_path / "lake")
    done = lake.ingest(["memory://bucket"])
    assert (done.files, done.problems, done.new) == (3, [], 18) and lake.ingest(["memory://bucket/"]).new == 0


@pytest.mark.parametrize("form", ["lines", "frames"])
def test_a_growing_file_is_read_up_to_its_last_complete_message(tmp_path: Path, form: str) -> None:
    if form == "lines":
        parts = [json.dumps(conversation(n, f"c-{n}")).encode() + b"\n" for n in range(1, 4)]
    else:
        parts = [framed(pack(traces(n))) for n in range(1, 4)]
    path = tmp_path / "live.json"
    whole, seen = b"".join(parts), 0
    for end in (len(parts[0]) + 2, len(parts[0]) + len(parts[1]) + 300, len(whole)):
        path.write_bytes(whole[:end])
        done = ingest(tmp_path, path)
        seen += 1
        assert bool(done.problems) == (end < len(whole))
        assert not done.problems or f"truncated after {seen} whole" in done.problems[0]
        assert len(Lake.open(tmp_path / "lake").conversations()) == seen


def test_a_bad_line_loses_no_other(tmp_path: Path) -> None:
    good = json.dumps(conversation())
    path = tmp_path / "a.jsonl"
    path.write_text(f'{good}\n{{"resourceSpans": 5}}\nnot json\n[[1]]\n{json.dumps(conversation(2, "c-2"))}\n')
    done = ingest(tmp_path, path)
    assert done.new == 12
    (problem,) = done.problems
    assert "line 2 is no OTLP/JSON request" in problem and "nor are 2 more; the 2 good ones" in problem
    frames = tmp_path / "b.proto"
    frames.write_bytes(framed(traces(3), b"\x0a\xff\xff", traces(4)))
    done = ingest(tmp_path, frames)
    assert done.new == 12 and "message 2 is no" in done.problems[0]


def test_reading_a_file_of_another_kind_stops_early(tmp_path: Path) -> None:
    path = tmp_path / "server.log.json"
    path.write_text("something\n" * 100_000)
    with pytest.raises(files.BadFile, match="nor are 99 more"):
        list(files.read(path, 0))


MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "cancel W1"},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "cancel", "arguments": '{"id": "W1"}'}}]},
    {"role": "tool", "tool_call_id": "a", "content": '{"status": "cancelled"}'},
    {"role": "assistant", "content": "Done."},
]  # fmt: skip
TOOL = {"type": "function", "function": {"name": "cancel", "parameters": {"type": "object"}}}
ATIF = {
    "schema_version": "ATIF-v1.4", "session_id": "s-1",
    "agent": {"name": "desk", "version": "1", "model_name": "m", "tool_definitions": [TOOL]},
    "steps": [
        {"step_id": 1, "timestamp": "2026-09-14T05:02:14Z", "source": "system", "message": "Be kind."},
        {"step_id": 2, "timestamp": "2026-09-14T05:02:15Z", "source": "user", "message": "cancel W1"},
        {"step_id": 3, "timestamp": "2026-09-14T05:02:16Z", "source": "agent", "message": "",
         "tool_calls": [{"tool_call_id": "a", "function_name": "cancel", "arguments": {"id": "W1"}}],
         "observation": {"results": [{"source_call_id": "a", "content": '{"status": "cancelled"}'}]}},
        {"step_id": 4, "timestamp": "2026-09-14T05:02:17Z", "source": "agent", "message": "Done."},
    ],
    "final_metrics": {"total_steps": 4}, "extra": {"reward": 1.0},
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "conversation_id"),
    [
        (json.dumps({"id": "m-1", "messages": MESSAGES, "tools": [TOOL], "reward": 1.0, "split": "train"}), "m-1"),
        (json.dumps(ATIF), "s-1"),
        (json.dumps(ATIF, indent=2), "s-1"),
        (json.dumps([ATIF]), "s-1"),
    ],
    ids=["messages", "atif", "pretty", "list"],
)
def test_conversations_without_telemetry_are_read(tmp_path: Path, text: str, conversation_id: str) -> None:
    path = tmp_path / "conversations.jsonl"
    path.write_text(text + "\n")
    assert ingest(tmp_path, path).new == 1 and ingest(tmp_path, path).new == 0
    lake = Lake.open(tmp_path / "lake")
    (c,) = lake.conversations()
    assert c.conversation_id == conversation_id
    assert [m["role"] for m in c.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert c.messages[2]["tool_calls"] == [{"id": "a", "name": "cancel", "arguments": {"id": "W1"}}]
    assert c.tools[0]["name"] == "cancel" and c.outcomes[0]["score"] == 1.0
    (t,) = lake.transitions()
    assert (t.tool, t.arguments, t.content) == ("cancel", {"id": "W1"}, '{"status": "cancelled"}')
    kept = json.loads(lake.query("SELECT attributes FROM spans").to_pylist()[0]["attributes"])["rehearsal.record"]
    assert json.loads(kept) == ({"split": "train"} if conversation_id == "m-1" else ATIF)


def test_message_lists_without_ids_are_identified_by_content(tmp_path: Path) -> None:
    path = tmp_path / "lists.jsonl"
    other = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hi."}]
    path.write_text("".join(json.dumps(x) + "\n" for x in (MESSAGES, other, MESSAGES)))
    done = ingest(tmp_path, path)
    assert (done.rows, done.new, done.duplicates) == (3, 2, 1)
    assert len(Lake.open(tmp_path / "lake").conversations()) == 2


def test_the_summary_counts_what_was_ingested(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(conversation()) + "\n")
    command = [sys.executable, "-m", "ingest", "ingest", "--lake", str(tmp_path / "lake"), str(path)]
    told = [subprocess.run(command, capture_output=True, text=True, timeout=120).stdout for _ in range(2)]
    assert "1 files: 6 rows in, 6 new" in told[0] and "0 duplicates" in told[0]
    assert "6 rows in, 0 new" in told[1] and "6 duplicates" in told[1]
    assert "spans by dialect:" in told[0] and "flagged:" in told[0]


def test_a_broken_character_loses_only_itself(tmp_path: Path) -> None:
    """JavaScript writes half of a surrogate pair where it cut a text within a character."""
    sample = request(span(1, 1, "chat", {"input.value": "smile \ud83d"}))
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(sample) + "\n")
    (rows,) = files.read(path, 1)
    assert len(rows) == 1
    assert "smile \ufffd" in str(rows.spans)
