"""Asset checks only read: on changed data and settings no stage runs, nothing is fitted, nothing is promoted."""

from __future__ import annotations

import json
import time
from pathlib import Path

import dagster as dg
import pytest
from conftest import conversation_request
from loop_samples import finish, practised_home

from dagster_project.defs.resources import LoopResource
from dagster_project.loop import fits, passes
from dagster_project.loop.passes import Loop
from dagster_project.loop.settings import Settings
from ingest.journal import segments as journal
from training.policy.registry import Registry


@pytest.fixture
def changed_home(tmp_path: Path) -> Path:
    """A home with every stage finished, to which new rows and other settings were added afterwards."""
    home = tmp_path / "home"
    loop = Loop(practised_home(home))
    loop._incumbent(loop.read("candidate"))  # the first champion
    verdict = {"promoted": False, "why": "no gain", "n": 8, "gain": 0.0, "low": -0.1, "high": 0.1}
    finish(home, "gate", verdict, {"candidate": "c"})
    finish(home, "evaluation", {"gain": 0.1, "low": 0.05, "high": 0.15}, {"candidate": "c"})
    writer = journal.JournalWriter(home / "lake" / "journal")
    bodies = [json.dumps(conversation_request(k)).encode() for k in range(12, 24)]
    writer.append([journal.record("traces_json", time.time_ns(), body) for body in bodies])
    writer.close()
    assert Loop(Settings(home=home)).ingest().new > 0
    Settings(home=home, seed=7, environment="no.such.module:Environment").save()
    return home


def files(home: Path) -> dict[str, int]:
    """The files of stages and registry with their times, and the targets of the stages' links."""
    found = {str(p): p.stat().st_mtime_ns for d in ("stages", "registry") for p in (home / d).rglob("*") if p.is_file()}
    return found | {str(p.readlink()): 0 for p in home.iterdir() if p.is_symlink()}


def test_every_check_on_changed_data_runs_no_stage(changed_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster_project.definitions import defs

    monkeypatch.setattr(passes, "run_stage", lambda *given: pytest.fail("a check ran a stage"))
    monkeypatch.setattr(fits, "run_in_subprocess", lambda *given: pytest.fail("a check started a fit"))
    monkeypatch.setattr(Registry, "promote", lambda *given: pytest.fail("a check promoted"))
    definitions, before = defs(), files(changed_home)
    checks = definitions.resolve_asset_graph().asset_check_keys
    job = dg.define_asset_job("all_checks", selection=dg.AssetSelection.checks(*checks))
    only = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job]))
    with dg.DagsterInstance.ephemeral() as instance:
        done = only.resolve_job_def("all_checks").execute_in_process(
            instance=instance, resources={"rehearsal": LoopResource(home=str(changed_home))}
        )
    assert done.success and len(checks) >= 12
    assert {found.asset_check_key for found in done.get_asset_check_evaluations()} == set(checks)
    assert not done.get_asset_materialization_events()
    assert files(changed_home) == before
