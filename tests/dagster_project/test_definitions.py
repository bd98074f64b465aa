"""Dagster's definitions load, are described, and their sensor starts a run when traces arrive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
from ingest_samples import conversation

from dagster_project.defs.landing.sensors import sealed_segments
from dagster_project.defs.resources import LoopResource
from ingest.journal import segments as journal
from ingest.lake import Lake

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    from dagster_project.definitions import defs

    return defs()


@pytest.fixture(scope="module")
def graph(definitions: dg.Definitions) -> dg.AssetGraph:
    return definitions.resolve_asset_graph()


def key(path: str) -> dg.AssetKey:
    return dg.AssetKey(path.split("/"))


def before(graph: dg.AssetGraph, path: str) -> set[str]:
    """All upstream assets of an asset."""
    found: set[str] = set()
    new = {key(path)}
    while new:
        new = {parent for child in new for parent in graph.get(child).parent_keys}
        found |= {parent.to_user_string() for parent in new}
    return found


def test_dagster_s_own_check_passes(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("dg")), "check", "defs"]
    surroundings = os.environ | {"DAGSTER_HOME": str(tmp_path), "REHEARSAL_HOME": str(tmp_path / "home")}
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=surroundings, timeout=500)
    assert found.returncode == 0, found.stdout + found.stderr
    assert not (tmp_path / "home").exists()  # loading makes nothing


def test_every_asset_has_kinds_owners_and_a_description(graph: dg.AssetGraph) -> None:
    keys = graph.get_all_asset_keys()
    assert len(keys) >= 15
    for found in map(graph.get, keys):
        name = found.key.to_user_string()
        assert found.group_name == found.key.path[0], name  # the folder, the group and the key say the same
        assert found.kinds and found.owners, name
        assert len(found.description or "") > 20, name


def test_every_check_has_a_description(definitions: dg.Definitions, graph: dg.AssetGraph) -> None:
    assert len(graph.asset_check_keys) >= 8
    for found in graph.asset_check_keys:
        assert graph.get_check_spec(found).description, found


def test_dependencies_from_the_journal_to_the_report(graph: dg.AssetGraph) -> None:
    assert before(graph, "traces/raw/spans") == {"landing/journal"}
    tables = {f"traces/{name}" for name in ("conversations", "tool_calls", "outcomes", "transitions", "scenarios")}
    for table in tables:
        assert {"traces/raw/spans", "landing/journal"} <= before(graph, table)
    assert before(graph, "world/simulator") >= {"traces/transitions", "traces/conversations"}
    assert "world/simulator" in before(graph, "world/fidelity_card")
    assert before(graph, "policy/candidate") >= {"world/fidelity_card", "policy/clone", "policy/judge"}
    assert "policy/candidate" in before(graph, "policy/champion")
    assert before(graph, "report/page") >= {"landing/journal", "policy/champion", "report/evaluation", *tables}


def test_only_the_journal_is_external(graph: dg.AssetGraph) -> None:
    assert {k.to_user_string() for k in graph.external_asset_keys} == {"landing/journal"}


def test_the_nightly_schedule_runs_all_groups_but_the_report(definitions: dg.Definitions, graph: dg.AssetGraph) -> None:
    schedule = next(s for s in definitions.schedules or () if s.name != "hourly_landing")
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert (schedule.name, schedule.cron_schedule) == ("nightly_retraining", "0 3 * * *")
    job = definitions.resolve_job_def(schedule.job_name)
    made = {k.to_user_string() for k in job.asset_layer.executable_asset_keys}
    groups = {name.split("/")[0] for name in made}
    assert groups == {"traces", "world", "policy"}


def look(home: Path, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    """One evaluation of the sensor."""
    context = dg.build_sensor_context(cursor=cursor, resources={"rehearsal": LoopResource(home=str(home))})
    found = sealed_segments(context)
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


def seal_another(home: Path) -> None:
    writer = journal.JournalWriter(home / "lake" / "journal")
    writer.append([journal.record("traces_json", 1_760_000_000_000_000_000, b'{"resourceSpans": []}')])
    writer.close()


def asked(found: dg.SensorResult | dg.SkipReason) -> tuple[str, str]:
    """The run key and the new cursor; asserts that one run is requested."""
    assert isinstance(found, dg.SensorResult) and found.cursor
    (run,) = found.run_requests or ()
    assert run.run_key
    return run.run_key, found.cursor


def test_the_sensor_requests_one_run_and_then_none(definitions: dg.Definitions, traced_home: Path) -> None:
    assert "sealed_segments" in {sensor.name for sensor in definitions.sensors or ()}
    run, cursor = asked(look(traced_home))
    assert asked(look(traced_home)) == (run, cursor)  # a look that was lost asks for the same run
    skipped = look(traced_home, cursor)
    assert isinstance(skipped, dg.SkipReason) and cursor in str(skipped.skip_message)


def test_a_segment_that_is_sealed_later_gets_its_own_run(traced_home: Path) -> None:
    run, cursor = asked(look(traced_home))
    seal_another(traced_home)
    other, further = asked(look(traced_home, cursor))
    assert other != run and further > cursor
    assert isinstance(look(traced_home, further), dg.SkipReason)


def test_a_segment_that_is_still_written_to_starts_nothing(tmp_path: Path) -> None:
    assert isinstance(look(tmp_path / "nowhere"), dg.SkipReason)
    writer = journal.JournalWriter(tmp_path / "lake" / "journal")
    writer.append([journal.record("traces_json", 1_760_000_000_000_000_000, b'{"resourceSpans": []}')])
    assert isinstance(look(tmp_path), dg.SkipReason)
    writer.close()
    asked(look(tmp_path))


def test_traces_become_tables_through_dagster(definitions: dg.Definitions, traced_home: Path) -> None:
    """The sensor's job with its checks, in this process."""
    job = definitions.resolve_job_def("ingest_traces")
    with dg.DagsterInstance.ephemeral() as instance:
        done = job.execute_in_process(
            instance=instance, resources={"rehearsal": LoopResource(home=str(traced_home))}, raise_on_error=False
        )
    assert done.success
    rows = {
        event.asset_key.to_user_string(): event.step_materialization_data.materialization.metadata["dagster/row_count"]
        for event in done.get_asset_materialization_events()
        if event.asset_key
    }
    assert rows["traces/raw/spans"].value == 36
    assert rows["traces/conversations"].value == rows["traces/tool_calls"].value == 12
    checks = {found.check_name: found.passed for found in done.get_asset_check_evaluations()}
    # The fixture's spans carry no system prompt; its conversations are flagged for that, and the check says so.
    assert checks == {
        "acknowledged_is_landed": True, "few_orphans": True, "calls_are_linked": True,
        "conversations_are_complete": False, "few_duplicates": True, "dialects_are_known": True,
        "parts_are_understood": True, "nothing_is_lost": True,
    }  # fmt: skip


def test_an_hour_is_ingested_again_and_counted(
    definitions: dg.Definitions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition of the job `land_hours`, as a backfill runs it: nothing is doubled, what is missing is told."""
    lake = Lake.create(tmp_path / "lake")
    now = time.time_ns() - 3_600_000_000_000  # an hour that is over
    writer = journal.JournalWriter(lake.journal_path)
    with monkeypatch.context() as then:
        then.setattr(time, "time_ns", lambda: now)  # a segment is named after its beginning
        for n, at in enumerate((now, now - 2 * 3_600_000_000_000), 1):
            writer.append([journal.record("traces_json", at, json.dumps(conversation(n)).encode())])
    writer.close()
    job = definitions.resolve_job_def("land_hours")
    hour = time.strftime("%Y-%m-%d-%H:00", time.gmtime(now // 10**9))
    with dg.DagsterInstance.ephemeral() as instance:
        for new in (12, 0):
            done = job.execute_in_process(
                instance=instance, resources={"rehearsal": LoopResource(home=str(tmp_path))}, partition_key=hour
            )
            assert done.success
            (seen,) = done.asset_observations_for_node("land_hour")
            told = {name: value.value for name, value in seen.metadata.items()}
            assert told == {
                "requests": 1, "acknowledged": 6, "landed": 6, "missing": 0, "new": new, "segments": 1
            }  # fmt: skip
