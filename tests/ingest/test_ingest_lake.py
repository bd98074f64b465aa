"""The lake: what comes in is kept, twice is once, bad input costs nothing good and is told in one line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from ingest_samples import conversation, request, span

from ingest.errors import UserError
from ingest.formats import files
from ingest.lake import Lake


def write(path: Path, *requests: dict) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in requests))
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ingest", *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_a_file_of_many_batches_is_read_whole(tmp_path: Path, batch: int) -> None:
    path = write(tmp_path / "a.jsonl", *(request(span(1, n, "chat", {})) for n in range(1, 11)))
    read = [row for rows in files.read(path, 0, batch) for row in rows.spans]
    assert len(read) == len(set(read)) == 10


def test_a_conversation_is_recovered_completely(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.ingest([write(tmp_path / "a.jsonl", conversation())])
    (c,) = lake.conversations()
    assert (c.conversation_id, c.agent, c.flags) == ("c-1", "desk", [])
    assert [m["role"] for m in c.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
    ]
    failed, repaired = c.messages[3], c.messages[4]
    assert failed["is_error"] and failed["error_class"] == "order_needs_a_reason"
    assert (
        failed["name"] == "cancel"
        and failed["tool_call_id"] == "a"
        and failed["latency_ms"] == pytest.approx(40)
    )
    assert repaired["tool_calls"] == [
        {"id": "b", "name": "cancel", "arguments": {"id": "W1", "why": "mistake"}}
    ]
    assert not c.messages[5]["is_error"] and json.loads(c.messages[5]["content"])["status"] == "cancelled"
    assert [t["name"] for t in c.tools] == ["cancel", "find"] and c.tools[0]["parameters"] == {
        "type": "object"
    }
    assert c.outcomes == [{"name": "ok", "score": 1.0, "label": None, "explanation": None}]


def test_transitions_scenarios_and_profiles(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.ingest(
        [write(tmp_path / "a.jsonl", conversation(1, "c-1"), conversation(2, "c-2", None, tools=None))]
    )
    one, two = lake.transitions()[:2]
    assert (one.index, one.tool, one.arguments, one.is_error) == (0, "cancel", {"id": "W1"}, True)
    assert (two.index, two.error_class, two.latency_ms) == (1, "", pytest.approx(40))
    judged, unjudged = lake.scenarios()
    assert judged.system == "Be kind." and judged.goal == ("cancel W1 please",) and judged.outcome == 1.0
    assert unjudged.outcome is None and len(unjudged.facts) == 2
    assert [t["name"] for t in unjudged.tools] == ["cancel", "find"], "the agent's known definitions"
    profile = lake.tool_profiles()["cancel"]
    assert (profile.calls, profile.errors) == (4, 2) and profile.error_classes == {"order_needs_a_reason": 2}
    assert profile.argument_keys == {"id": 4, "why": 2} and profile.latency_ms_quantiles[
        "p50"
    ] == pytest.approx(40)


@pytest.mark.parametrize("how", ["jsonl", "gz", "zst", "pretty"])
def test_every_file_form_gives_the_same_rows_once(tmp_path: Path, how: str) -> None:
    text = json.dumps(conversation(), indent=2 if how == "pretty" else None) + "\n"
    path = tmp_path / ("a.json" if how == "pretty" else "a.jsonl" if how == "jsonl" else f"a.jsonl.{how}")
    pack = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}.get(how, bytes)
    path.write_bytes(pack(text.encode()))
    lake = Lake.create(tmp_path / "lake")
    assert lake.ingest([path]).new == 6
    again = lake.ingest([path])
    assert (again.rows, again.new, again.duplicates) == (6, 0, 6)
    assert len(lake.conversations()) == 1


def test_tables_follow_late_spans(tmp_path: Path) -> None:
    whole = conversation()
    spans = whole["resourceSpans"][0]["scopeSpans"][0]["spans"]
    lake = Lake.create(tmp_path / "lake")
    lake.ingest([write(tmp_path / "late.jsonl", request(*spans[3:]))])
    before = lake.conversations()
    lake.ingest([write(tmp_path / "early.jsonl", request(*spans[:3]))])
    assert len(before) == 1 and before[0].messages[3].get("latency_ms") is None
    direct = Lake.create(tmp_path / "direct")
    direct.ingest([write(tmp_path / "all.jsonl", whole)])
    assert lake.conversations() == direct.conversations()


def test_a_truncated_file_keeps_its_good_lines(tmp_path: Path) -> None:
    good = json.dumps(conversation()) + "\n"
    cut = tmp_path / "cut.jsonl"
    cut.write_text(good + good[:200])
    packed = tmp_path / "cut.jsonl.gz"
    packed.write_bytes(gzip.compress(good.encode() * 50, mtime=0)[:-100])
    done = run("ingest", "--lake", str(tmp_path / "lake"), str(cut), str(packed))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert (
        "cut.jsonl is truncated after 1 whole lines" in done.stderr and "fetch the file again" in done.stderr
    )
    assert len(Lake.open(tmp_path / "lake").conversations()) == 1


def test_files_that_are_not_otlp_are_reported_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"hello": 1}\n')
    (tmp_path / "bad.pb").write_bytes(b"\x00\x01nonsense")
    good = write(tmp_path / "good.jsonl", conversation())
    lake = Lake.create(tmp_path / "lake")
    summary = lake.ingest([tmp_path / "bad.jsonl", tmp_path / "bad.pb", good])
    assert summary.new == 6 and len(summary.problems) == 2
    assert "no OTLP/JSON request" in summary.problems[0] and "no OTLP protobuf" in summary.problems[1]


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (None, "no lake at"),
        ('{"format": "rehearsal-lake", "version": 99}', "upgrade with"),
        ("{", "no manifest"),
    ],
)
def test_an_invalid_lake_is_refused(tmp_path: Path, manifest: str | None, said: str) -> None:
    if manifest:
        (tmp_path / "lake.json").write_text(manifest)
    done = run("conversations", "--lake", str(tmp_path))
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_an_empty_lake_says_how_to_fill_it(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    with pytest.raises(UserError, match="is empty; fill it with: rehearsal ingest"):
        lake.transitions()


def test_a_directory_with_other_files_is_not_a_lake(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is no lake"):
        Lake.create(tmp_path)


def test_sql_sees_raw_and_derived_tables(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", conversation(), request(span(7, 7, "GET /", {"http.route": "/"}, parent=7)))
    assert run("ingest", "--lake", str(tmp_path / "lake"), str(tmp_path / "a.jsonl")).returncode == 0
    query = (
        "SELECT (SELECT count(*) FROM spans) spans, (SELECT count(*) FROM tool_calls WHERE is_error) errors"
    )
    done = run("sql", "--lake", str(tmp_path / "lake"), query, "--json")
    assert json.loads(done.stdout) == {"spans": 7, "errors": 1}
    bad = run("sql", "--lake", str(tmp_path / "lake"), "SELECT nothing FROM nowhere")
    assert bad.returncode == 2 and "the query failed" in bad.stderr
