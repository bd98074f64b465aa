"""Hourly partitions by time of arrival, for backfills. The schedule `hourly_landing` ingests each hour five minutes
after it has ended.
"""

import os
from dataclasses import asdict

import dagster as dg

from dagster_project.defs.resources import LoopResource
from dagster_project.defs.runs import LAKE
from dagster_project.defs.traces.checks import SPANS

HOURS = dg.HourlyPartitionsDefinition(
    start_date=os.environ.get("REHEARSAL_SINCE", "2026-01-01-00:00"), fmt="%Y-%m-%d-%H:%M"
)
SECOND_NS = 1_000_000_000


@dg.op(
    pool=LAKE,
    description="Ingests the rows that arrived in this hour. Fails if an acknowledged row is missing from the lake.",
)
def land_hour(context: dg.OpExecutionContext, rehearsal: LoopResource) -> None:
    window = context.partition_time_window
    from_ns, to_ns = (int(t.timestamp()) * SECOND_NS for t in (window.start, window.end))
    loop = rehearsal.open(context)
    summary = loop.land_again(from_ns, to_ns)
    arrived = loop.arrived(from_ns, to_ns)
    missing = arrived.acknowledged - arrived.landed
    told = {**asdict(arrived), "missing": missing, "new": summary.new, "segments": summary.files}
    context.log_event(dg.AssetObservation(SPANS, partition=context.partition_key, metadata=told))
    if missing:
        raise dg.Failure(f"{missing} rows acknowledged in this hour are missing from the lake", metadata=told)


@dg.job(
    partitions_def=HOURS,
    description="One hour of arrival, ingested and counted. Use it for backfills; the schedule runs the last hour.",
)
def land_hours() -> None:
    land_hour()


hourly = dg.build_schedule_from_partitioned_job(land_hours, name="hourly_landing", minute_of_hour=5)
