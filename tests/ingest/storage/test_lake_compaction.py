"""`rehearsal compact` merges files and changes nothing else, whenever it is killed and whoever is reading."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ingest_samples import request, span
from lake_samples import ARRIVED, HOUR, killed_at_every_step, loose_files, row_hashes, run, send, tables, talks

from ingest.formats.otlp import SPAN_SCHEMA
from ingest.lake import Lake
from ingest.storage import catalog, compaction
from ingest.storage.known import HASH, Known


def lake_of_small_parts(path: Path, numbers: range = range(1, 7), hours: int = 2) -> Lake:
    lake = Lake.create(path)
    for n in numbers:
        send(lake, *talks(n), at=ARRIVED + (n % hours) * HOUR)
        lake.ingest()
    return lake


def test_parts_of_an_hour_become_one_and_rows_and_tables_stay(tmp_path: Path) -> None:
    lake = lake_of_small_parts(tmp_path / "lake")
    rows, before = row_hashes(lake), tables(lake)
    made = (lake.path / "tables" / "state.json").stat().st_mtime_ns
    spans, logs = lake.compact()
    assert (spans.rows, spans.parts_before, spans.parts_after, logs.parts_after) == (36, 6, 2, 0)
    assert row_hashes(lake) == rows and tables(lake) == before and not loose_files(lake)
    assert (lake.path / "tables" / "state.json").stat().st_mtime_ns == made, "nothing had to be made again"
    lake.build_tables(force=True)
    assert tables(lake) == before, "in their new order the rows say the same"
    assert lake.compact()[0].parts_before == 2, "nothing is left to do"
    lake.ingest(again=True)
    assert row_hashes(lake) == rows


def test_a_query_for_a_time_or_a_trace_can_skip_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "ROW_GROUP", 16)
    lake = Lake.create(tmp_path / "lake")
    numbers = list(range(1, 65))
    random.Random(0).shuffle(numbers)
    for n in range(0, 64, 16):
        send(lake, *(request(*(span(k, s, "s", {}, at=k * 10 + s) for s in (1, 2, 3))) for k in numbers[n : n + 16]))
        lake.ingest()
    lake.compact()
    (part,) = catalog.parts(lake.path, "spans")
    meta = pq.ParquetFile(part).metadata
    assert pq.read_schema(part).equals(SPAN_SCHEMA) and meta.num_row_groups == 12
    at = pq.read_schema(part).get_field_index("start_ns")
    ranges = [meta.row_group(i).column(at).statistics for i in range(meta.num_row_groups)]
    assert all(a.max <= b.min for a, b in itertools.pairwise(ranges)), "row groups cover times that do not overlap"
    traces = pq.read_table(part, columns=["trace_id"])["trace_id"].to_pylist()
    assert len([key for key, _ in itertools.groupby(traces)]) == 64, "a trace lies in one piece"
    assert meta.row_group(0).column(0).compression == "ZSTD"


def test_large_hours_become_several_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "ROW_GROUP", 4)
    lake, rng = Lake.create(tmp_path / "lake"), random.Random(0)
    for trace in range(1, 5):
        send(lake, request(*(span(trace, s, "s", {"a": rng.randbytes(20_000).hex()}) for s in range(1, 9))))
        lake.ingest()
    rows = row_hashes(lake)
    known = catalog.load(lake.path)
    largest = max(p.stat().st_size for p in catalog.parts(lake.path, "spans"))
    compaction.compact(lake.path, known, 2 * largest + 2)
    assert len(catalog.parts(lake.path, "spans")) > 1 and row_hashes(lake) == rows


def test_a_kill_at_any_step_neither_loses_nor_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = itertools.count()
    expected = row_hashes(lake_of_small_parts(tmp_path / "expected", range(1, 5)))
    lakes = 0
    for lake in killed_at_every_step(
        monkeypatch, lambda: lake_of_small_parts(tmp_path / f"lake-{next(number)}", range(1, 5)), Lake.compact
    ):
        lakes += 1
        assert row_hashes(lake) == expected, "what a reader sees in between"
        lake.compact()
        assert row_hashes(lake) == expected and len(catalog.parts(lake.path, "spans")) == 2
        assert not loose_files(lake) and not (lake.path / "compacting").exists()
    assert lakes >= 8


def test_readers_keep_reading_the_old_parts(tmp_path: Path) -> None:
    lake = lake_of_small_parts(tmp_path / "lake")
    old = catalog.parts(lake.path, "spans")
    with lake._ready(raw=True) as db:
        lake.compact()
        assert db.execute("SELECT count(DISTINCT row_hash), count(*) FROM spans").fetchall() == [(36, 36)]
        assert lake.query("SELECT count(*) n FROM spans")["n"].to_pylist() == [36], "another sees the new ones"
        assert all(part.exists() for part in old)
    lake.compact()
    assert not any(part.exists() for part in old) and not loose_files(lake)


def test_rows_that_differ_are_never_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = lake_of_small_parts(tmp_path / "lake")
    rows = row_hashes(lake)
    monkeypatch.setattr(compaction, "write_sorted", lambda *_: [])
    with pytest.raises(RuntimeError, match="would have changed its rows"):
        lake.compact()
    assert row_hashes(lake) == rows


def test_a_set_of_hashes_answers_as_a_python_set_does() -> None:
    rng, known, mine = random.Random(1), Known(), set()
    for _ in range(60):
        some = range(rng.randrange(1, 40))
        batch = [bytes([rng.randrange(3)]) + bytes(14) + bytes([rng.randrange(200)]) for _ in some]
        new = []
        for i, h in enumerate(batch):
            if h not in mine:
                mine.add(h)
                new.append(i)
        assert known.add(np.array(batch, HASH)).tolist() == new
    assert len(known) == len(mine)


def test_the_command_prints_its_result(tmp_path: Path) -> None:
    lake = lake_of_small_parts(tmp_path / "lake")
    assert "spans: 36 rows in 6 → 2 files, 0.1 MB" in run("compact", "--lake", str(lake.path))
    assert json.loads(run("compact", "--lake", str(lake.path), "--json"))[0]["parts_after"] == 2
