"""`rehearsal retain` drops what arrived long ago, no conversation in part, and what it dropped stays dropped."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from ingest_samples import START, attributes
from lake_samples import (
    DAY,
    NOW,
    ids,
    killed_at_every_step,
    loose_files,
    row_hashes,
    run,
    sample,
    send,
    tables,
    talks,
)

from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from ingest.errors import UserError
from ingest.journal import segments as journal
from ingest.lake import Lake
from ingest.storage import catalog


def test_old_conversations_are_dropped_and_straddling_ones_are_kept(tmp_path: Path) -> None:
    lake, rest = sample(tmp_path / "lake"), Lake.create(tmp_path / "rest")
    send(rest, *talks(3, 4))
    rest.ingest()
    done = lake.retain(30, now_ns=NOW)
    assert (done.rows, done.of) == ({"spans": 12, "log_records": 0}, {"spans": 24, "log_records": 0})
    assert (done.conversations, done.kept_whole, done.segments, done.not_landed) == (2, 1, 1, 0)
    assert done.bytes > 0 and done.segment_bytes > 0
    assert ids(lake) == ["c-3", "c-4"] and tables(lake) == tables(rest) and not loose_files(lake)
    assert len(journal.segments(lake.journal_path)) == 2
    assert lake.retain(30, now_ns=NOW).rows == {"spans": 0, "log_records": 0}


def test_a_dry_run_says_the_same_and_drops_nothing(tmp_path: Path) -> None:
    lake = sample(tmp_path / "lake")
    lake.ingest()
    rows, segments = row_hashes(lake), journal.segments(lake.journal_path)
    told = lake.retain(30, dry_run=True, now_ns=NOW)
    assert row_hashes(lake) == rows and journal.segments(lake.journal_path) == segments and lake.rows_from_ns == 0
    done = lake.retain(30, now_ns=NOW)
    assert told.dry_run and not done.dry_run
    done.dry_run = True
    assert told == done


def test_dropped_rows_are_not_ingested_again(tmp_path: Path) -> None:
    """A segment with old and young requests stays; read again, without any memory, it brings nothing back."""
    lake = Lake.create(tmp_path / "lake")
    writer = journal.JournalWriter(lake.journal_path)
    for n, at in ((1, NOW - 40 * DAY), (2, NOW - DAY)):
        writer.append([journal.record("traces_json", at, json.dumps(*talks(n)).encode())])
    writer.close()
    assert lake.retain(30, now_ns=NOW).segments == 0
    (lake.path / catalog.FILE).unlink()
    again = lake.ingest()
    assert (again.rows, again.new, again.duplicates, again.expired) == (12, 0, 6, 6)
    assert ids(lake) == ["c-2"]
    arrived = Loop(Settings(home=tmp_path / "home", lake_dir=lake.path)).arrived()
    assert (arrived.acknowledged, arrived.landed) == (6, 6), "the check does not miss what expired"


def test_unread_segments_are_ingested_first_and_an_open_segment_is_kept(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    send(lake, *talks(1), at=NOW - DAY)
    writer = journal.JournalWriter(lake.journal_path)
    writer.append([journal.record("traces_json", NOW - 40 * DAY, json.dumps(*talks(2)).encode())])
    told = lake.retain(30, dry_run=True, now_ns=NOW) if lake.ingest(lake.journal_path.glob("*.rjl")) else None
    assert told is not None and told.not_landed == 2
    done = lake.retain(30, now_ns=NOW)
    assert (done.rows["spans"], done.segments, done.not_landed) == (6, 0, 0)
    writer.append([journal.record("traces_json", NOW, json.dumps(*talks(3)).encode())])
    writer.close()
    lake.ingest()
    assert ids(lake) == ["c-1", "c-3"]


def test_a_late_judgement_keeps_the_conversation_it_judges(tmp_path: Path) -> None:
    judged: dict[str, Any] = {"gen_ai.evaluation.name": "late", "gen_ai.evaluation.score.value": 0.0}
    record = {
        "timeUnixNano": str(START), "eventName": "gen_ai.evaluation.result",
        "attributes": attributes({**judged, "gen_ai.conversation.id": "c-1"}),
    }  # fmt: skip
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}
    for name, old, young in (("late", [*talks(1, 2)], [logs]), ("early", [*talks(2), logs], [*talks(1)])):
        lake = Lake.create(tmp_path / name)
        writer = journal.JournalWriter(lake.journal_path)
        for requests, at in ((old, NOW - 40 * DAY), (young, NOW - DAY)):
            for r in requests:
                kind = "logs_json" if "resourceLogs" in r else "traces_json"
                writer.append([journal.record(kind, at, json.dumps(r).encode())])
        writer.close()
        lake.retain(30, now_ns=NOW)
        (c,) = lake.conversations()
        assert c.conversation_id == "c-1" and {"late", "ok"} == {o["name"] for o in c.outcomes}, name


def test_killed_retention_is_completed_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = itertools.count()

    def make() -> Lake:
        lake = sample(tmp_path / f"lake-{next(number)}")
        lake.ingest()
        lake.build_tables()
        return lake

    everything = row_hashes(make())
    expected = None
    lakes = 0
    for lake in killed_at_every_step(monkeypatch, make, lambda lake: lake.retain(30, now_ns=NOW), range(1, 9)):
        lakes += 1
        assert set(row_hashes(lake)) <= set(everything) and max(row_hashes(lake).values()) == 1
        lake.retain(30, now_ns=NOW)
        expected = expected or row_hashes(lake)
        assert row_hashes(lake) == expected and len(expected) == 12
        assert not loose_files(lake) and len(journal.segments(lake.journal_path)) == 2
    assert lakes >= 5


def test_everything_may_expire(tmp_path: Path) -> None:
    lake = sample(tmp_path / "lake")
    assert lake.retain(0, now_ns=NOW).rows["spans"] == 24
    with pytest.raises(UserError, match="is empty"):
        lake.conversations()
    send(lake, *talks(5), at=NOW + DAY)
    lake.ingest()
    assert ids(lake) == ["c-5"]


def test_a_negative_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--days is -1; give how many days to keep"):
        Lake.create(tmp_path / "lake").retain(-1)


def test_the_command_prints_its_result(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    send(lake, *talks(1), at=NOW - 4000 * DAY)
    assert "not landed" in run("retain", "--lake", str(lake.path), "--days", "30", "--dry-run")
    lake.ingest()
    told = run("retain", "--lake", str(lake.path), "--days", "30", "--dry-run")
    assert "would drop what arrived before" in told and "6 of 6 spans" in told and "1 conversations" in told
    assert json.loads(run("retain", "--lake", str(lake.path), "--days", "30", "--json"))["segments"] == 1
