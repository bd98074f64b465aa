"""Traces are read where they lie; those of several stretches, or that log records tell of, are put aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
from dialect_samples import log, logs
from ingest_samples import conversation, request
from lake_samples import assert_same_in_parts, send

from ingest.lake import Lake
from ingest.storage import catalog
from ingest.tables import shards
from ingest.tables.shards import Stretch


def spans_of(number: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = conversation(number, f"c-{number}")["resourceSpans"][0]["scopeSpans"][0]["spans"]
    return found


def landed(lake: Lake, *parts: list[dict[str, Any]]) -> list[Path]:
    """The raw files of spans, one for each of some lists of spans."""
    for spans in parts:
        send(lake, request(*spans))
        lake.ingest()
    return catalog.parts(lake.path, "spans")


def traces(stretch: Stretch) -> tuple[set[str], set[str]]:
    """The traces that are read in a stretch, and those that are not."""
    here: set[str] = set()
    apart: set[str] = set()
    for read, others in stretch.divided(["trace_id", "name"]):
        here.update(read["trace_id"].to_pylist())
        apart.update(others["trace_id"].to_pylist())
    return here, apart


def ids(*numbers: int) -> set[str]:
    return {f"{n:032x}" for n in numbers}


def test_a_trace_in_two_files_is_read_from_its_shard(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    whole = [spans_of(n) for n in range(1, 12)]
    files = landed(lake, sum(whole[:5], whole[10][:2]), sum(whole[5:10], whole[10][2:]))
    with duckdb.connect() as db:
        found = [traces(stretch) for stretch in shards.stretches(db, files, [], 2)]
    assert found == [(ids(*range(1, 6)), ids(11)), (ids(*range(6, 11)), ids(11))]
    assert_same_in_parts(lake, tmp_path / "made", 3)
    assert len(lake.conversations()) == 11


def test_a_trace_with_log_records_is_read_with_them(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    files = landed(lake, sum((spans_of(n) for n in range(1, 9)), []))
    told = tmp_path / "logs.json"
    told.write_text(json.dumps(logs({**log(2, "gen_ai.user.message", {"content": "hello"}), "traceId": f"{3:032x}"})))
    lake.ingest([told])
    with duckdb.connect() as db:
        (stretch,) = shards.stretches(db, files, catalog.parts(lake.path, "log_records"), 2)
    assert traces(stretch) == (ids(1, 2, *range(4, 9)), ids(3))
    assert_same_in_parts(lake, tmp_path / "made", 3)


def test_without_local_traces_all_rows_are_shuffled(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    whole = [spans_of(n) for n in range(1, 7)]
    files = landed(lake, sum((spans[:3] for spans in whole), []), sum((spans[3:] for spans in whole), []))
    with duckdb.connect() as db:
        assert shards.stretches(db, files, [], 2) == []
    assert_same_in_parts(lake, tmp_path / "made", 3)
    assert len(lake.conversations()) == 6
