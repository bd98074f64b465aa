"""Whether the tables say what production said."""

import dagster as dg

from dagster_project.defs.resources import LoopResource

MOST_ORPHANS = 0.02
FEWEST_LINKED = 0.95
FEWEST_COMPLETE = 0.90
SPANS = dg.AssetKey(["traces", "raw", "spans"])


@dg.asset_check(asset=SPANS, blocking=True, description="Every row that was acknowledged is in the lake.")
def acknowledged_is_landed(
    context: dg.AssetCheckExecutionContext, rehearsal: LoopResource
) -> dg.AssetCheckResult:
    acknowledged, landed = rehearsal.open(context).acknowledged_and_landed()
    missing = acknowledged - landed
    return dg.AssetCheckResult(
        passed=missing <= 0, metadata={"acknowledged": acknowledged, "landed": landed, "missing": missing}
    )


@dg.asset_check(
    asset=SPANS, description=f"At most {MOST_ORPHANS:.0%} of spans name a parent that never came."
)
def few_orphans(context: dg.AssetCheckExecutionContext, rehearsal: LoopResource) -> dg.AssetCheckResult:
    rate = rehearsal.open(context).share(
        """SELECT avg(CASE WHEN parents.span_id IS NULL THEN 1.0 ELSE 0.0 END)
           FROM spans LEFT JOIN (SELECT DISTINCT trace_id, span_id FROM spans) AS parents
             ON spans.trace_id = parents.trace_id AND spans.parent_span_id = parents.span_id
           WHERE spans.parent_span_id <> ''"""
    )
    return dg.AssetCheckResult(
        passed=rate <= MOST_ORPHANS,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"orphan_rate": rate, "threshold": MOST_ORPHANS},
    )


@dg.asset_check(
    asset=dg.AssetKey(["traces", "tool_calls"]),
    description=f"At least {FEWEST_LINKED:.0%} of tool calls have their result.",
)
def calls_are_linked(context: dg.AssetCheckExecutionContext, rehearsal: LoopResource) -> dg.AssetCheckResult:
    loop = rehearsal.open(context)
    answered = loop.share("SELECT avg(CASE WHEN content IS NULL THEN 0.0 ELSE 1.0 END) FROM tool_calls")
    executed = loop.share(
        "SELECT avg(CASE WHEN execution_span_id <> '' THEN 1.0 ELSE 0.0 END) FROM tool_calls"
    )
    return dg.AssetCheckResult(
        passed=answered >= FEWEST_LINKED,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"with_result": answered, "with_execution_span": executed, "threshold": FEWEST_LINKED},
    )


@dg.asset_check(
    asset=dg.AssetKey(["traces", "conversations"]),
    description=f"At least {FEWEST_COMPLETE:.0%} of conversations miss nothing.",
)
def conversations_are_complete(
    context: dg.AssetCheckExecutionContext, rehearsal: LoopResource
) -> dg.AssetCheckResult:
    loop = rehearsal.open(context)
    rate = loop.share("SELECT avg(CASE WHEN len(flags) = 0 THEN 1.0 ELSE 0.0 END) FROM conversations")
    return dg.AssetCheckResult(
        passed=rate >= FEWEST_COMPLETE,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"complete": rate, "threshold": FEWEST_COMPLETE},
    )
