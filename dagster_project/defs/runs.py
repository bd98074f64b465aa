"""Runs whose process was killed: Dagster would count them as running, and their places in pools as taken, for ever."""

from pathlib import Path

import dagster as dg

from dagster_project.defs.resources import LoopResource
from dagster_project.loop.pins import is_alive

LAKE = "lake"
"""The pool of whatever writes to the lake: one at a time (dagster.yaml)."""
MODELS = "models"
"""The pool of whatever trains or plays: each takes the whole machine."""
RUNNING = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def end_dead_runs(instance: dg.DagsterInstance, home: Path) -> list[str]:
    """Mark runs of this home as failed whose process is gone, and free the places in pools of all runs that are over;
    returns the names of the runs that were marked."""
    dead = [run for run in instance.get_runs(dg.RunsFilter(statuses=RUNNING)) if is_alive(home, run.run_id) is False]
    for run in dead:
        instance.report_run_failed(run, "the process of this run ended without a word; run it again")
    storage = instance.event_log_storage
    holding = storage.get_concurrency_run_ids() if storage.supports_global_concurrency_limits else set()
    if holding:
        for run in instance.get_runs(dg.RunsFilter(run_ids=list(holding))):
            if run.is_finished:
                storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in dead]


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Marks runs as failed whose process was killed, so that what waits for them goes on.",
)
def dead_runs(context: dg.SensorEvaluationContext, rehearsal: LoopResource) -> dg.SkipReason:
    dead = end_dead_runs(context.instance, Path(rehearsal.home))
    return dg.SkipReason(f"ended: {', '.join(dead)}" if dead else "every run that is said to run has a process")
