"""The balance of a lake that keeps only what was made of its raw rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ingest_samples import answer, call, chat, request, text
from lake_samples import ARRIVED, HOUR, send, talks

from ingest.lake import Lake
from ingest.tables.conservation import Balance

DAY = 24 * HOUR


def balance(lake: Lake) -> Balance:
    lake.ingest()
    return lake.conservation()


@pytest.fixture
def dropping(tmp_path: Path) -> Lake:
    lake = Lake.create(tmp_path / "lake")
    (lake.path / "privacy.toml").write_text('raw = "drop"\n')
    return lake


def test_the_balance_holds_while_rows_are_added_dropped_and_expire(dropping: Lake) -> None:
    send(dropping, *talks(1, 2), at=ARRIVED - 40 * DAY)
    first = balance(dropping)
    assert first.holds and (first.inference.raw, first.execution.raw, first.judgement.raw) == (6, 4, 2)
    send(dropping, *talks(3))
    more = balance(dropping)
    assert more.holds and (more.inference.raw, more.execution.raw, more.judgement.raw) == (9, 6, 3)
    dropping.retain(30, now_ns=ARRIVED)
    left = balance(dropping)
    assert left.holds and (left.inference.raw, left.execution.raw, left.judgement.raw) == (3, 2, 1)


def test_a_longer_export_of_a_conversation_is_kept_once(dropping: Lake) -> None:
    ask, made = text("user", "Do it."), call("call_7c21aa90", "look", {"id": 1})
    send(dropping, request(chat(1, 2, 1, [ask], [made], "c")))
    assert balance(dropping).holds
    history = [ask, made, answer("call_7c21aa90", "open")]
    send(dropping, request(chat(1, 3, 2, history, [text("assistant", "Done.")], "c")))
    found = balance(dropping)
    assert found.holds and found.inference.placed == 2 and len(dropping.conversations()) == 1


def test_rows_that_an_older_version_kept_are_read(dropping: Lake) -> None:
    """It knew no placements, no counts, and not by what a judgement was attributed."""
    send(dropping, *talks(1))
    assert balance(dropping).holds
    (now,) = (dropping.path / "kept").glob("now-*")
    for name in ("placements", "read_counts"):
        (now / f"{name}.parquet").unlink()
    table = pq.read_table(now / "evaluations.parquet")
    pq.write_table(table.drop_columns(["attributed_by"]), now / "evaluations.parquet")
    send(dropping, *talks(2))
    found = balance(dropping)
    assert found.holds and [len(c.outcomes) for c in dropping.conversations()] == [1, 1]
