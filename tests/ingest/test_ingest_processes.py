"""Processes that ingest starts do what they are told, once, and none is waited for that is dead."""

from __future__ import annotations

import json
import operator
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lake_samples import ARRIVED, HOUR, row_hashes, send, talks

from ingest.errors import UserError
from ingest.journal import segments as journal
from ingest.lake import Lake
from ingest.processes import Processes, kept, some
from ingest.storage import catalog, landing


def test_results_come_back_in_order_and_failures_as_they_were() -> None:
    with Processes(2) as processes:
        asked = [processes.submit(operator.mul, n, n) for n in range(20)]
        assert [done.result() for done in asked] == [n * n for n in range(20)]
        with pytest.raises(ZeroDivisionError):
            processes.submit(operator.truediv, 1, 0).result()
        assert len({processes.submit(os.getpid).result() for _ in range(9)} - {os.getpid()}) in (1, 2)
        assert processes.submit(print, "no result of anybody's").result() is None


def test_kept_processes_are_reused_and_end_with_the_block() -> None:
    with kept():
        with some(1) as first:
            worker = first.submit(os.getpid).result()
        with some(1) as second, some(2) as others:
            assert second.submit(os.getpid).result() == worker
            assert others.submit(os.getpid).result() != worker
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    with some(1) as alone:
        assert alone.submit(os.getpid).result() != worker


def test_a_killed_process_is_reported_and_not_waited_for() -> None:
    with Processes(1) as processes:
        processes.submit(os.getpid).result()
        for _ in range(2):
            with pytest.raises(UserError, match="killed for memory"):
                processes.submit(_die).result()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


SCRIPT = """
from ingest.storage import landing
from ingest.lake import Lake

landing.PARALLEL_FROM = 1
print("ran", Lake.open({lake!r}).ingest().new)
"""


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    send(lake, *talks(1, 2))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(lake=str(lake.path)))
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ran 12\n"), done.stderr


def test_segments_read_by_processes_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lakes = [Lake.create(tmp_path / name) for name in ("here", "there")]
    for lake in lakes:
        for numbers in (range(1, 4), range(3, 6), range(6, 9)):  # a conversation comes twice
            send(lake, *talks(*numbers))
        send(lake, *talks(9), at=ARRIVED + HOUR)
    here = lakes[0].ingest()
    monkeypatch.setattr(landing, "PARALLEL_FROM", 1)
    there = lakes[1].ingest()
    assert there == here and here.duplicates == 6
    assert row_hashes(lakes[1]) == row_hashes(lakes[0])
    hours = [{p.parent.name for p in catalog.parts(lake.path, "spans")} for lake in lakes]
    assert hours[0] == hours[1] and len(hours[0]) == 2
    assert lakes[1].ingest(again=True).new == 0, "nothing is new that was read before"
    assert not list((lakes[1].path / "raw").rglob("*.tmp")), "no draft is left"


@pytest.mark.parametrize("damaged", [False, True])
def test_one_segment_read_by_several_processes_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    """A record that is damaged ends what is read, also where another process reads behind it."""
    here, there = (Lake.create(tmp_path / name) for name in ("here", "there"))
    writer = journal.JournalWriter(here.journal_path)
    for n in range(1, 41):
        told = [journal.record("traces_json", ARRIVED + n, json.dumps(*talks(n)).encode())]
        writer.append([*told, journal.record("traces_json", ARRIVED + n, b"no request")] if n % 8 == 0 else told)
    writer.close()
    (segment,) = journal.segments(here.journal_path)
    if damaged:
        data = bytearray(segment.read_bytes())
        data[data.find(b'"c-11"') + 2] ^= 1
        segment.write_bytes(data)
    there.journal_path.mkdir(exist_ok=True)
    (there.journal_path / segment.name).write_bytes(segment.read_bytes())
    one = here.ingest()
    assert (one.new, one.unreadable) == ((60, 1) if damaged else (240, 5))
    asked: list[tuple[object, ...]] = []
    submit = Processes.submit
    monkeypatch.setattr(Processes, "submit", lambda self, *task: asked.append(task) or submit(self, *task))
    monkeypatch.setattr(landing, "PARALLEL_FROM", 1)
    monkeypatch.setattr(landing, "MIN_PIECE", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert there.ingest() == one and len(asked) == 3
    assert row_hashes(there) == row_hashes(here)
    read = [catalog.read(lake.path) for lake in (here, there)]
    assert read[0] and read[1] and read[0].journal == read[1].journal
    assert there.ingest().new == 0 and not list((there.path / "raw").rglob("*.tmp"))


def test_drafts_of_a_killed_ingest_are_removed(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    send(lake, *talks(1, 2))
    (segment,) = journal.segments(lake.journal_path)
    landing.draft_segment(lake.path, segment, None)
    assert list((lake.path / "raw").rglob("*.tmp"))
    assert lake.ingest().new == 12
    assert not list((lake.path / "raw").rglob("*.tmp"))


def test_a_segment_that_grows_during_ingest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "PARALLEL_FROM", 1)
    lake = Lake.create(tmp_path / "lake")
    writer = journal.JournalWriter(lake.journal_path)
    writer.append([journal.record("traces_json", 7, json.dumps(*talks(1)).encode())])
    lake.ingest()
    (path,) = journal.segments(lake.journal_path)
    known = catalog.read(lake.path)
    assert known
    send(lake, *talks(2))
    new = journal.segments(lake.journal_path)[-1]
    segments = [(new, None), (path, known.journal[path.stem])]
    with landing.reading(lake.path, segments) as reader:
        first = list(reader.read(*segments[0]))
        writer.append([journal.record("traces_json", 7, json.dumps(*talks(3)).encode())])
        second = list(reader.read(*segments[1]))
    assert [len(batch) for found in (first, second) for batch, _ in found] == [6, 6]
    writer.close()
