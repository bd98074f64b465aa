"""Ends runs whose process was killed. Dagster would keep them as running, and keep their pool slots occupied."""

from pathlib import Path

import dagster as dg

from dagster_project.defs.resources import LoopResource
from dagster_project.loop.pins import is_alive

LAKE = "lake"
"""The pool of ops that write to the lake: one at a time (dagster.yaml)."""
MODELS = "models"
"""The pool of ops that train or sample: one at a time, because each uses the whole machine."""
RUNNING = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def end_dead_runs(instance: dg.DagsterInstance, home: Path) -> list[str]:
    """Mark runs of this home as failed if their process is gone, and free the pool slots of all finished runs.

    Returns the ids of the runs that were marked.
    """
    dead = [run for run in instance.get_runs(dg.RunsFilter(statuses=RUNNING)) if is_alive(home, run.run_id) is False]
    for run in dead:
        instance.report_run_failed(run, "the process of this run was killed; run it again")
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
    description="Marks runs as failed whose process was killed, so that queued runs can start.",
)
def dead_runs(context: dg.SensorEvaluationContext, rehearsal: LoopResource) -> dg.SkipReason:
    dead = end_dead_runs(context.instance, Path(rehearsal.home))
    return dg.SkipReason(f"marked as failed: {', '.join(dead)}" if dead else "every running run has a live process")
