"""Checks of the tables against the raw rows."""

from dataclasses import asdict

import dagster as dg

from dagster_project.defs.resources import LoopResource

MAX_DUPLICATES = 0.2
MAX_ORPHANS = 0.02
MAX_UNREADABLE = 0.01
MAX_UNKNOWN_PARTS = 0.01
FEWEST_LINKED = 0.95
FEWEST_COMPLETE = 0.90
SPANS = dg.AssetKey(["traces", "raw", "spans"])


@dg.asset_check(asset=SPANS, blocking=True, description="Every acknowledged row is in the lake.")
def acknowledged_is_landed(
    context: dg.AssetCheckExecutionContext, rehearsal: LoopResource
) -> dg.AssetCheckResult:
    arrived = rehearsal.open(context).arrived()
    missing = arrived.acknowledged - arrived.landed
    return dg.AssetCheckResult(passed=missing <= 0, metadata={**asdict(arrived), "missing": missing})


@dg.asset_check(
    asset=SPANS, description=f"At most {MAX_ORPHANS:.0%} of spans name a parent that is not in the lake."
)
def few_orphans(context: dg.AssetCheckExecutionContext, rehearsal: LoopResource) -> dg.AssetCheckResult:
    rate = rehearsal.open(context).raw_share(
        """SELECT avg(CASE WHEN parents.span_id IS NULL THEN 1.0 ELSE 0.0 END)
           FROM spans LEFT JOIN (SELECT DISTINCT trace_id, span_id FROM spans) AS parents
             ON spans.trace_id = parents.trace_id AND spans.parent_span_id = parents.span_id
           WHERE spans.parent_span_id <> ''"""
    )
    return dg.AssetCheckResult(
        passed=rate <= MAX_ORPHANS,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"orphan_rate": rate, "threshold": MAX_ORPHANS},
    )


@dg.asset_check(
    asset=SPANS,
    description=f"At most {MAX_DUPLICATES:.0%} of the newest rows were in the lake already. More means that an "
    "exporter sends rows twice, or that files are read twice.",
)
def few_duplicates(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    event = context.instance.get_latest_materialization_event(SPANS)
    found = event.asset_materialization.metadata if event and event.asset_materialization else {}
    new, duplicates = (int(str(found[name].value)) if name in found else 0 for name in ("new", "duplicates"))
    rate = duplicates / max(1, new + duplicates)
    return dg.AssetCheckResult(
        passed=rate <= MAX_DUPLICATES,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"duplicate_rate": rate, "new": new, "duplicates": duplicates, "threshold": MAX_DUPLICATES},
    )


@dg.asset_check(
    asset=dg.AssetKey(["traces", "conversations"]),
    description=f"At most {MAX_UNREADABLE:.0%} of spans could not be read. The metadata count spans per dialect.",
)
def dialects_are_known(context: dg.AssetCheckExecutionContext, rehearsal: LoopResource) -> dg.AssetCheckResult:
    loop = rehearsal.open(context)
    mix = {r["dialect"]: r["spans"] for r in loop.tables.query("SELECT dialect, spans FROM dialects").to_pylist()}
    rate = mix.get("unreadable", 0) / max(1, sum(mix.values()))
    return dg.AssetCheckResult(
        passed=rate <= MAX_UNREADABLE,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"unreadable_rate": rate, "threshold": MAX_UNREADABLE, "spans_by_dialect": mix},
    )


@dg.asset_check(
    asset=dg.AssetKey(["traces", "conversations"]),
    description=f"At most {MAX_UNKNOWN_PARTS:.0%} of message parts are of an unknown kind.",
)
def parts_are_understood(context: dg.AssetCheckExecutionContext, rehearsal: LoopResource) -> dg.AssetCheckResult:
    rate = rehearsal.open(context).share(
        """SELECT avg(CASE WHEN json_extract_string(part, '$.type') = 'unknown' THEN 1.0 ELSE 0.0 END)
           FROM (SELECT unnest(from_json(parts, '["json"]')) AS part FROM message_bodies)"""
    )
    return dg.AssetCheckResult(
        passed=rate <= MAX_UNKNOWN_PARTS,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"unknown_parts": rate, "threshold": MAX_UNKNOWN_PARTS},
    )


@dg.asset_check(
    asset=dg.AssetKey(["traces", "conversations"]),
    blocking=True,
    description="Every model output, tool execution and judgement of the raw rows is in exactly one conversation, or "
    "is counted as not read, with a reason.",
)
def nothing_is_lost(context: dg.AssetCheckExecutionContext, rehearsal: LoopResource) -> dg.AssetCheckResult:
    balance = rehearsal.open(context).lake.conservation(build=False)
    return dg.AssetCheckResult(passed=balance.holds, metadata={**balance.as_dict(), "told": "\n".join(balance.lines())})


@dg.asset_check(
    asset=dg.AssetKey(["traces", "tool_calls"]),
    description=f"At least {FEWEST_LINKED:.0%} of tool calls have a result.",
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
    description=f"At least {FEWEST_COMPLETE:.0%} of conversations have no flag.",
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
