"""An hour is ingested after it has ended; a pool runs one op at a time; a killed run frees its pool slots."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_project.defs.landing.hours import HOURS, hourly, land_hours
from dagster_project.defs.resources import LoopResource
from dagster_project.defs.runs import LAKE, MODELS, dead_runs, end_dead_runs
from ingest.lake import Lake

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    from dagster_project.definitions import defs

    return defs()


@pytest.fixture
def instance(tmp_path: Path) -> Any:
    """An instance with the settings that `make dev` and the demo use."""
    history = tmp_path / "dagster"
    history.mkdir()
    shutil.copy(ROOT / "dagster_project" / "dagster.yaml", history)
    with dg.DagsterInstance.from_config(str(history)) as found:
        yield found


# ----- hours


def test_the_schedule_ingests_the_last_complete_hour() -> None:
    for minute, hour in ((datetime(2026, 3, 4, 10, 5, tzinfo=UTC), "2026-03-04-09:00"),
                         (datetime(2026, 3, 5, 0, 5, tzinfo=UTC), "2026-03-04-23:00")):  # fmt: skip
        with dg.DagsterInstance.ephemeral() as instance:
            asked = hourly.evaluate_tick(dg.build_schedule_context(instance=instance, scheduled_execution_time=minute))
        assert asked.run_requests is not None
        assert [request.partition_key for request in asked.run_requests] == [hour]


def test_the_current_hour_is_not_a_partition() -> None:
    keys = HOURS.get_partition_keys(current_time=datetime(2026, 3, 4, 10, 59, tzinfo=UTC))
    assert keys[-1] == "2026-03-04-09:00"


# ----- pools


def test_ops_that_write_to_the_lake_or_train_are_in_a_pool(definitions: dg.Definitions) -> None:
    job = definitions.resolve_implicit_global_asset_job_def()
    pools = {node.name: node.definition.pool for node in job.nodes if isinstance(node.definition, dg.OpDefinition)}
    assert {name for name, pool in pools.items() if pool == LAKE} == {"traces__raw__spans", "tables"}
    models = {"world__simulator", "world__fidelity_card", "policy__judge", "policy__clone", "policy__candidate"}
    models |= {"policy__champion", "report__evaluation"}
    assert {name for name, pool in pools.items() if pool == MODELS} == models
    assert land_hours.nodes[0].definition.pool == LAKE  # type: ignore[union-attr]


def test_no_concurrency_tag_without_effect(definitions: dg.Definitions) -> None:
    for job in definitions.resolve_all_job_defs():
        assert "dagster/concurrency_key" not in {**job.tags, **job.run_tags}, job.name


RUN = """
import os, signal, sys, time
from pathlib import Path
import dagster as dg
from dagster_project.defs.landing.hours import land_hours
from dagster_project.defs.resources import LoopResource
from dagster_project.loop.passes import Loop
from ingest.lake import IngestSummary
from ingest.storage.arrivals import Arrived

history, home, hour, what = sys.argv[1:]

def note(line):
    with (Path(history) / "notes").open("a") as file:
        file.write(line + "\\n")

def land_again(self, *hours):
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    note("in")
    while not (Path(history) / "go").exists():
        time.sleep(0.1)
    note("out")
    return IngestSummary()

Loop.land_again, Loop.arrived = land_again, lambda self, *hours: Arrived(0, 0, 0)
with dg.DagsterInstance.from_config(history) as instance:
    resources = {"rehearsal": LoopResource(home=home)}
    land_hours.execute_in_process(instance=instance, partition_key=hour, resources=resources)
"""


def start(tmp_path: Path, hour: str, what: str) -> subprocess.Popen[bytes]:
    """A run in a process of its own, whose landing waits for the file `go` or kills the process."""
    command = [sys.executable, "-c", RUN, str(tmp_path / "dagster"), str(tmp_path / "home"), hour, what]
    null = subprocess.DEVNULL  # no pipe: what Dagster starts to capture output may outlive the run
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=null, stderr=null, stdin=null)


@pytest.mark.slow
def test_steps_of_two_runs_in_a_pool_do_not_overlap(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """Two runs of one job at once, whatever started them: their steps never overlap."""
    Lake.create(tmp_path / "home" / "lake")
    notes, until = tmp_path / "dagster" / "notes", time.monotonic() + 240

    def wait_for(happened: Callable[[], bool]) -> None:
        while not happened():
            assert time.monotonic() < until
            time.sleep(0.1)

    first = start(tmp_path, "2026-01-02-01:00", "land")
    wait_for(notes.exists)
    second = start(tmp_path, "2026-01-02-02:00", "land")
    storage = instance.event_log_storage
    wait_for(lambda: storage.get_concurrency_info(LAKE).pending_step_count > 0 or notes.read_text() == "in\nin\n")
    (tmp_path / "dagster" / "go").touch()
    assert [first.wait(240), second.wait(240)] == [0, 0]
    assert notes.read_text().split() == ["in", "out", "in", "out"]


# ----- runs whose process was killed


def test_a_killed_run_frees_its_pool_slot(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    home = tmp_path / "home"
    Lake.create(home / "lake")
    assert start(tmp_path, "2026-01-02-01:00", "kill").wait(240) == -signal.SIGKILL
    (run,) = instance.get_runs()
    assert run.status is dg.DagsterRunStatus.STARTED
    assert instance.event_log_storage.get_concurrency_info(LAKE).active_slot_count == 1
    assert end_dead_runs(instance, tmp_path / "another home") == []  # whose processes it cannot know
    context = dg.build_sensor_context(instance, resources={"rehearsal": LoopResource(home=str(home))})
    assert run.run_id in str(dead_runs(context).skip_message)  # type: ignore[union-attr]
    (run,) = instance.get_runs()
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert instance.event_log_storage.get_concurrency_info(LAKE).active_slot_count == 0
    assert end_dead_runs(instance, home) == []
