"""A lake that encrypts or drops its originals can be kept in order like any other, and nothing comes back."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from lake_samples import (
    ARRIVED,
    DAY,
    NOW,
    ever_came,
    ids,
    killed_at_every_step,
    loose_files,
    run,
    sample,
    send,
    tables,
    talks,
)
from test_ingest_privacy import planted

from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from ingest.journal import segments as journal
from ingest.lake import Lake
from ingest.storage import catalog, encrypted, kept

MODES = ("encrypt", "drop")


def with_settings(lake: Lake, raw: str) -> Lake:
    (lake.path / "privacy.toml").write_text(f'raw = "{raw}"\n')
    return lake


def landed(lake: Lake) -> Lake:
    lake.ingest()
    lake.build_tables()
    return lake


def lake_of(path: Path, raw: str, *numbers: int) -> Lake:
    """Each conversation arrived by itself, in one hour."""
    lake = with_settings(Lake.create(path), raw)
    for n in numbers:
        send(lake, *talks(n))
        landed(lake)
    return lake


def plain_files(lake: Lake) -> list[Path]:
    return [p for p in (lake.path / "raw").glob("*/**/*") if p.suffix in (".parquet", ".tmp")]


@pytest.mark.parametrize("raw", MODES)
def test_encrypted_rows_are_recognised_as_duplicates(tmp_path: Path, raw: str) -> None:
    lake, file = with_settings(Lake.create(tmp_path / "lake"), raw), tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in (*talks(1, 2), planted("c-3", 3))))
    first = lake.ingest([file])
    lake.build_tables()
    before, state = tables(lake), (lake.path / "tables" / "state.json").read_bytes()
    for forgotten in (False, True):
        if forgotten:
            (lake.path / catalog.FILE).unlink()
        again = lake.ingest([file])
        assert (first.new, again.new, again.duplicates) == (14, 0, 14)
        lake.build_tables()
        assert tables(lake) == before and not plain_files(lake) and not loose_files(lake)
        assert (lake.path / "tables" / "state.json").read_bytes() == state, "nothing had to be made again"
    assert len(ever_came(lake)) == 14


@pytest.mark.parametrize("raw", MODES)
def test_ingested_segments_are_deleted(tmp_path: Path, raw: str) -> None:
    lake = lake_of(tmp_path / "lake", raw, 1)
    writer = journal.JournalWriter(lake.journal_path)
    writer.append([journal.record("traces_json", ARRIVED, b"{ no JSON")])
    writer.close()
    send(lake, *talks(2))
    summary = lake.ingest()
    assert (summary.unreadable, summary.new) == (1, 6)
    lake.build_tables()
    (left,) = journal.segments(lake.journal_path)
    known = catalog.read(lake.path)
    assert known and list(known.journal) == [left.stem], "only what was not understood stays"
    assert lake.ingest().files == 0 and ids(lake) == ["c-1", "c-2"]
    arrived = Loop(Settings(home=tmp_path / "home", lake_dir=lake.path)).arrived()
    assert (arrived.requests, arrived.acknowledged, arrived.landed) == (1, 0, 0), "the one that nothing can read"


def test_compaction_skips_and_reports_encrypted_files(tmp_path: Path) -> None:
    lake = lake_of(tmp_path / "lake", "encrypt", 1, 2, 3)
    before, parts = tables(lake), catalog.parts(lake.path, "spans")
    assert all(map(encrypted.is_encrypted, parts)) and len(parts) == 3
    told = run("compact", "--lake", str(lake.path))
    assert "18 rows in 3 → 3 files" in told and "3 encrypted files stay as they are" in told
    with_settings(lake, "keep")
    for n in (4, 5):
        send(lake, *talks(n))
        lake.ingest()
    spans = lake.compact()[0]
    assert (spans.parts_before, spans.parts_after, spans.encrypted, spans.rows) == (5, 4, 3, 30)
    assert ids(lake) == [f"c-{n}" for n in range(1, 6)] and len(plain_files(lake)) == 1
    with_settings(lake, "encrypt").build_tables()
    assert not plain_files(lake) and tables(lake)[0][:3] == before[0]


def test_compaction_restores_no_dropped_row(tmp_path: Path) -> None:
    lake = lake_of(tmp_path / "lake", "drop", 1, 2)
    before = tables(lake)
    assert [(c.rows, c.parts_after) for c in lake.compact()] == [(0, 0), (0, 0)]
    lake.build_tables(force=True)
    assert tables(lake) == before and len(before[0]) == 2


@pytest.mark.parametrize("raw", MODES)
def test_retention_drops_old_encrypted_rows(tmp_path: Path, raw: str) -> None:
    plain, lake = landed(sample(tmp_path / "plain")), with_settings(sample(tmp_path / "lake"), raw)
    landed(lake)
    told = lake.retain(30, dry_run=True, now_ns=NOW)
    done, expected = lake.retain(30, now_ns=NOW), plain.retain(30, now_ns=NOW)
    assert (done.conversations, done.kept_whole) == (told.conversations, told.kept_whole) == (2, 1)
    assert done.rows == (expected.rows if raw == "encrypt" else {"spans": 0, "log_records": 0})
    assert ids(lake) == ["c-3", "c-4"] and tables(lake) == tables(plain)
    assert not plain_files(lake) and not (lake.path / "compacting").exists()
    lake.build_tables(force=True)
    assert ids(lake) == ["c-3", "c-4"]
    send(lake, *talks(1), at=NOW - 40 * DAY)
    assert lake.ingest().new == 0, "what expired stays expired"
    lake.retain(0, now_ns=NOW)
    assert lake.is_empty()


def test_a_conversation_with_recent_rows_is_kept(tmp_path: Path) -> None:
    lake = with_settings(Lake.create(tmp_path / "lake"), "drop")
    send(lake, *talks(1, 2), at=NOW - 40 * DAY)
    landed(lake)
    send(lake, planted("c-1", 1), at=NOW - DAY)  # the same trace
    landed(lake)
    before = ids(lake)
    lake.retain(30, now_ns=NOW)
    assert ids(lake) == [i for i in before if i != "c-2"]


@pytest.mark.parametrize("raw", MODES)
def test_a_kill_at_any_step_neither_loses_nor_duplicates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: str
) -> None:
    number = itertools.count()

    def make() -> Lake:
        lake = lake_of(tmp_path / f"lake-{next(number)}", raw, 1)
        send(lake, planted("c-2", 2), *talks(3))
        lake.ingest()
        return lake

    done = make()
    done.build_tables()
    lakes = 0
    steps = [1, 16, 17, 18, 19, 20, 21, 23, 26, 30, 999]  # making tables, then putting the originals away
    for lake in killed_at_every_step(monkeypatch, make, Lake.build_tables, steps):
        lakes += 1
        lake.ingest(again=True)
        assert [c.conversation_id for c in lake.conversations()] == ["c-1", "c-2", "c-3"]
        assert len(ever_came(lake)) == 14 and not plain_files(lake)
        assert lake.privacy_report() == done.privacy_report()
        assert lake.query("SELECT sum(spans) n FROM dialects")["n"].to_pylist() == [14], "none is counted twice"
        assert not journal.segments(lake.journal_path)
    assert lakes > 6


@pytest.mark.parametrize("raw", MODES)
def test_killed_retention_is_completed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: str) -> None:
    number = itertools.count()
    steps = [1, 2, 3, 4, 6, 10, 999]
    for lake in killed_at_every_step(
        monkeypatch,
        lambda: landed(with_settings(sample(tmp_path / f"lake-{next(number)}"), raw)),
        lambda lake: lake.retain(30, now_ns=NOW),
        steps,
    ):
        assert ids(lake) in (["c-1", "c-2", "c-3", "c-4"], ["c-3", "c-4"])
        lake.retain(30, now_ns=NOW)
        assert ids(lake) == ["c-3", "c-4"] and not plain_files(lake)


def test_renormalising_keeps_the_privacy_report(tmp_path: Path) -> None:
    lake = with_settings(Lake.create(tmp_path / "lake"), "keep")
    send(lake, planted("c-1", 1))
    landed(lake)
    report = lake.privacy_report()
    (lake.path / "privacy.toml").write_text('detectors = ["email"]\n[fields]\nemail = "email"\n')
    old = (lake.path / "tables" / kept.REPORT).read_bytes()
    changes = lake.renormalise()
    assert changes.privacy_changed and changes.changed == 1
    assert (lake.path / "tables" / kept.REPORT).read_bytes() == old, "nothing is touched unless it is applied"
    assert "privacy's settings or key changed" in run("renormalise", "--lake", str(lake.path), "--apply")
    made = (lake.path / "tables" / "state.json").stat().st_mtime_ns
    assert set(lake.privacy_report()["replaced"]) == {"email", "name"} < set(report["replaced"])
    assert (lake.path / "tables" / "state.json").stat().st_mtime_ns == made
    assert not lake.renormalise().privacy_changed


@pytest.mark.parametrize("raw", MODES)
def test_encrypted_rows_are_renormalised(tmp_path: Path, raw: str) -> None:
    lake = lake_of(tmp_path / "lake", raw, 1, 2)
    before = tables(lake)
    changes = lake.renormalise(apply=True)
    assert (changes.same, changes.changed, changes.rows_changed) == (2, 0, False)
    assert tables(lake) == before
