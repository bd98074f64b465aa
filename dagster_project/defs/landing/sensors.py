"""Starts one run for all journal segments that were sealed since the last evaluation."""

import dagster as dg

from dagster_project.defs.resources import LoopResource
from dagster_project.loop.stages import fingerprint
from ingest.journal import segments as journal

ingest_job = dg.define_asset_job(
    "ingest_traces",
    selection=dg.AssetSelection.key_prefixes(["traces"]),
    description="Ingest the journal and rebuild the lake's tables.",
)


@dg.sensor(job=ingest_job, minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.STOPPED)
def sealed_segments(
    context: dg.SensorEvaluationContext, rehearsal: LoopResource
) -> dg.SensorResult | dg.SkipReason:
    """Request a run if there are sealed segments after the cursor. The cursor is a segment name; names sort by time."""
    directory = rehearsal.open().lake_path / "journal"
    seen = context.cursor or ""
    sealed = [path.stem for path in journal.segments(directory, sealed_only=True)]
    new = [name for name in sealed if name > seen]
    if not new:
        return dg.SkipReason(f"no sealed segment in {directory} after {seen or 'the beginning'}")
    run = dg.RunRequest(run_key=fingerprint(new), tags={"rehearsal/segments": str(len(new))})
    request = dg.SensorResult(run_requests=[run], cursor=new[-1])
    return request
