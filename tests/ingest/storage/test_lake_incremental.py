"""`rehearsal ingest` reads what is new in the journal: nothing is lost or doubled, whenever it is killed."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ingest_samples import conversation
from lake_samples import killed_at_every_step, loose_files, row_hashes, send, tables, talks

from ingest.errors import UserError
from ingest.journal import segments as journal
from ingest.journal.blocks import Stage
from ingest.lake import Lake
from ingest.storage import catalog


def rows_of(tmp_path: Path, *numbers: int) -> set[bytes]:
    lake = Lake.create(tmp_path / "expected")
    send(lake, *talks(*numbers))
    lake.ingest()
    return set(row_hashes(lake))


def test_a_segment_that_was_read_is_not_read_again(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    send(lake, *talks(1, 2))
    first = lake.ingest()
    send(lake, *talks(3))
    second, third = lake.ingest(), lake.ingest()
    assert (first.files, first.new) == (1, 12)
    assert (second.files, second.read_before, second.rows, second.new) == (1, 1, 6, 6)
    assert (third.files, third.read_before, third.rows) == (0, 2, 0)
    again = lake.ingest(again=True)
    assert (again.files, again.rows, again.duplicates) == (2, 18, 18)


def test_an_open_segment_is_continued_after_its_last_complete_entry(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    writer = journal.JournalWriter(lake.journal_path)
    one, two = (journal.record("traces_json", 7, json.dumps(t).encode()) for t in talks(1, 2))
    writer.append([one])
    assert lake.ingest().new == 6
    stage = Stage()
    two.put(stage)
    written = b"".join(stage.pieces())
    (path,) = journal.segments(lake.journal_path)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(written[:50])  # half an entry: the receiver is at it
    half = lake.ingest()
    assert (half.rows, half.new, half.unreadable) == (0, 0, 0)
    os.truncate(path, size)
    with path.open("ab") as file:
        file.write(written)
    assert (lake.ingest().rows, len(row_hashes(lake))) == (6, 12)
    writer.close()
    assert lake.ingest().read_before == 1, "the sealed segment is the one that was read when it was open"


@pytest.mark.parametrize("change", ["content", "shorter", "longer"])
def test_a_replaced_segment_is_read_from_its_start(tmp_path: Path, change: str) -> None:
    lake = Lake.create(tmp_path / "lake")
    send(lake, *talks(1))
    lake.ingest()
    (path,) = journal.segments(lake.journal_path)
    new = {"content": talks(2), "shorter": [conversation(2, None, None, None)], "longer": talks(2, 3)}[change]
    other = Lake.create(tmp_path / "other")
    send(other, *new)
    (written,) = journal.segments(other.journal_path)
    path.write_bytes(written.read_bytes())
    assert lake.ingest().new == 6 * len(new)


def test_a_lost_read_position_changes_no_table(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    send(lake, *talks(1, 2))
    lake.ingest()
    before, made = tables(lake), (lake.path / "tables" / "state.json").stat().st_mtime_ns
    (lake.path / catalog.FILE).unlink()
    assert tables(lake) == before, "reading works without it"
    (lake.path / catalog.FILE).unlink()
    again = lake.ingest()
    assert (again.rows, again.new) == (12, 0) and tables(lake) == before
    assert (lake.path / "tables" / "state.json").stat().st_mtime_ns == made, "nothing had to be rebuilt"


def test_a_damaged_read_position_is_refused_in_one_line(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    send(lake, *talks(1))
    lake.ingest()
    (lake.path / catalog.FILE).write_text("{")
    with pytest.raises(UserError, match="is damaged; remove it"):
        lake.ingest()


def test_a_kill_at_any_step_neither_loses_nor_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rows_of(tmp_path, 1, 2, 3)
    number = itertools.count()

    def make() -> Lake:
        lake = Lake.create(tmp_path / f"lake-{next(number)}")
        send(lake, *talks(1))
        lake.ingest()
        send(lake, *talks(2))
        send(lake, *talks(3))
        return lake

    lakes = 0
    for lake in killed_at_every_step(monkeypatch, make, Lake.ingest):
        lakes += 1
        seen = row_hashes(lake)
        assert set(seen) <= expected and max(seen.values()) == 1, "what a reader sees in between"
        lake.ingest()
        assert row_hashes(lake) == dict.fromkeys(expected, 1)
        assert not loose_files(lake), "the next one cleans up"
        assert lake.ingest().rows == 0
    assert lakes >= 3


@pytest.mark.parametrize("when", ["before", "after"])
def test_sigkill_between_rows_and_read_position_loses_nothing(tmp_path: Path, when: str) -> None:
    """A real one, in a process of its own, just before or after the rows are committed."""
    lake = Lake.create(tmp_path / "lake")
    send(lake, *talks(1, 2))
    program = f"""
import os, signal, sys
from ingest.storage import catalog
from ingest.lake import Lake
save = catalog.save
def die(*arguments):
    if {when!r} == "after":
        save(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
catalog.save = die
Lake.open({str(lake.path)!r}).ingest()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == -9
    assert max(row_hashes(lake).values()) == 1, "what a reader sees in between"
    lake.ingest()
    assert row_hashes(lake) == dict.fromkeys(rows_of(tmp_path, 1, 2), 1) and not loose_files(lake)


def test_a_killed_ingest_without_read_position_duplicates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows twice in parts that nobody lists: only one of each is taken."""
    lake = Lake.create(tmp_path / "lake")
    send(lake, *talks(1, 2))
    lake.ingest()
    (part,) = catalog.parts(lake.path, "spans")
    copy = part.with_name("part-copy.parquet")
    copy.write_bytes(part.read_bytes())
    send(lake, *talks(3))
    lake.ingest()
    assert set(row_hashes(lake).values()) == {1} and not copy.exists()
    (lake.path / catalog.FILE).unlink()
    copy.write_bytes(part.read_bytes())
    lake.ingest()
    assert row_hashes(lake) == dict.fromkeys(rows_of(tmp_path, 1, 2, 3), 1) and not loose_files(lake)
