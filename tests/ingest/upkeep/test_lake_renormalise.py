"""`rehearsal renormalise` says what today's mapping changes, and changes nothing unless it is told to."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from ingest_samples import text
from lake_samples import killed_at_every_step, run, send, tables, talks

from ingest import dialects, lake
from ingest.errors import UserError
from ingest.lake import Lake
from ingest.messages import normal
from ingest.tables import normalise


def files(lake: Lake) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for d in ("normalised", "tables") for p in sorted((lake.path / d).iterdir())}


def lake_of_an_older_mapping(path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """An older version that did not understand c-3, heard something else in c-1 and flagged c-2."""
    observe = dialects.observe

    def older(span: normal.Span) -> normal.Observed:
        seen = observe(span)
        if int(seen.trace_id, 16) == 3:
            seen.kind, seen.conversation_id = "other", None
        if seen.conversation_id == "c-1" and seen.output == [text("assistant", "Done.")]:
            seen.output = [text("assistant", "D o n e")]
        if seen.conversation_id == "c-2":
            seen.flags.append("dropped_attributes")
        return seen

    made = Lake.create(path)
    send(made, *talks(1, 2, 3, 4))
    made.ingest()
    with monkeypatch.context() as patch:
        patch.setattr(dialects, "observe", older)
        patch.setattr(lake, "MAPPING_VERSION", 1)
        patch.setattr(normalise, "MAPPING_VERSION", 1)
        made.build_tables()
    return made


def test_the_difference_is_shown_and_nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = lake_of_an_older_mapping(tmp_path / "lake", monkeypatch)
    before = files(old)
    found = old.renormalise()
    assert files(old) == before and not (old.path / "renormalised").exists()
    assert (found.mapping_before, found.mapping_after) == (1, normal.MAPPING_VERSION)
    assert (found.same, found.added, found.removed, found.changed) == (1, 1, 0, 2)
    assert found.by_dialect == {
        "otel-genai": {
            "same": 1, "added": 1, "removed": 0, "changed": 2,
            "messages": 1, "tool_calls": 0, "outcomes": 0, "flags": 1, "tools": 0, "agent": 0,
        }
    }  # fmt: skip
    one, two, three = found.examples
    assert one["conversation_id"] == "c-1" and one["aspects"] == {
        "messages": {"rows_before": 7, "rows_now": 7, "place": 6, "before": {"content": "D o n e"},
                     "now": {"content": "Done."}}
    }  # fmt: skip
    assert two["aspects"]["flags"]["before"] == {"flags": ["dropped_attributes"]}
    assert (three["conversation_id"], three["kind"]) == ("c-3", "added")


def test_applying_gives_the_tables_of_the_current_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = lake_of_an_older_mapping(tmp_path / "lake", monkeypatch)
    direct = Lake.create(tmp_path / "direct")
    send(direct, *talks(1, 2, 3, 4))
    direct.ingest()
    assert old.renormalise(apply=True).applied
    made = files(old)
    assert tables(old) == tables(direct)
    assert files(old) == made, "they are up to date: reading does not make them again"
    versions = old.query("SELECT DISTINCT mapping_version FROM conversations")["mapping_version"].to_pylist()
    assert versions == [normal.MAPPING_VERSION]
    again = old.renormalise()
    assert (again.same, again.added + again.removed + again.changed) == (4, 0)


def test_a_kill_during_applying_leaves_the_current_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = itertools.count()
    expected: Any = None
    for lake_ in killed_at_every_step(
        monkeypatch,
        lambda: lake_of_an_older_mapping(tmp_path / f"lake-{next(number)}", monkeypatch),
        lambda made: made.renormalise(apply=True),
        (1, 15, 20, 999),  # building the tables, then replacing them
    ):
        expected = expected or tables(lake_)
        assert tables(lake_) == expected


def test_rows_added_since_are_reported(tmp_path: Path) -> None:
    made = Lake.create(tmp_path / "lake")
    send(made, *talks(1))
    made.ingest()
    made.build_tables()
    send(made, *talks(2))
    made.ingest()
    found = made.renormalise()
    assert (found.same, found.added, found.rows_changed) == (1, 1, True)


def test_without_tables_the_user_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no tables yet to compare with; make them with: rehearsal ingest"):
        Lake.create(tmp_path / "lake").renormalise()


def test_the_command_prints_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = lake_of_an_older_mapping(tmp_path / "lake", monkeypatch)
    told = run("renormalise", "--lake", str(old.path))
    assert f"mapping version 1 → {normal.MAPPING_VERSION}: 1 conversations as before" in told
    assert "1 added, 0 removed, 2 changed" in told
    assert 'messages at 6: {"content": "D o n e"} → {"content": "Done."}' in told and "--apply" in told
    assert json.loads(run("renormalise", "--lake", str(old.path), "--json"))["changed"] == 2
    assert "the new tables are in place" in run("renormalise", "--lake", str(old.path), "--apply")
