"""The raw rows and the tables of sql/."""

from collections.abc import Iterator

import dagster as dg

from dagster_project.defs.resources import LoopResource
from dagster_project.defs.runs import LAKE
from dagster_project.loop.passes import STAGES
from dagster_project.report import show

TABLES = {
    "conversations": "One row per conversation: agent, times, tools, messages, outcomes, flags.",
    "tool_calls": "One row per tool call, linked to the span that executed it and to the message with its result.",
    "outcomes": "Judgements of conversations: evaluation events, feedback, scores.",
    "transitions": "One row per answered tool call: the state of the conversation, the call, the answer.",
    "scenarios": "Starting points of episodes: system prompt, tools, first user message, hidden goal, facts.",
    "tool_profile": "One row per tool: number of calls, errors, latency.",
}
MADE_OF = {"transitions": ("tool_calls",), "scenarios": ("conversations",), "tool_profile": ("tool_calls",)}


@dg.asset(
    key=["traces", "raw", "spans"],
    deps=[dg.AssetKey(["landing", "journal"])],
    group_name="traces",
    kinds={"opentelemetry", "parquet"},
    pool=LAKE,
    owners=["team:platform"],
    tags={"layer": "raw"},
    description="Spans and log records in Parquet, nothing dropped, partitioned by hour of arrival.",
)
def spans(context: dg.AssetExecutionContext, rehearsal: LoopResource) -> dg.MaterializeResult:
    loop = rehearsal.open(context)
    summary = loop.ingest()
    count = "SELECT (SELECT count(*) FROM spans) s, (SELECT count(*) FROM log_records) l"
    rows = loop.lake.query(count, build=False)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": rows["s"][0].as_py(),
            "log_records": rows["l"][0].as_py(),
            "new": summary.new,
            "duplicates": summary.duplicates,
            "unreadable": summary.unreadable,
            "segments": summary.files,
            "problems": "\n".join(summary.problems) or "none",
            "sample": dg.MetadataValue.md(show.table(loop.lake.query(show.SPANS, build=False))),
            "path": dg.MetadataValue.path(str(loop.lake.path / "raw")),
        }
    )


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            ["traces", name],
            deps=[dg.AssetKey(["traces", *MADE_OF.get(name, ("raw", "spans"))])],
            group_name="traces",
            kinds={"duckdb", "parquet"},
            owners=["team:platform"],
            tags={"layer": "table"},
            description=f"{text} Defined in sql/{name}.sql.",
        )
        for name, text in TABLES.items()
    ],
    name="tables",
    pool=LAKE,
)
def tables(context: dg.AssetExecutionContext, rehearsal: LoopResource) -> Iterator[dg.MaterializeResult]:
    """Fails after the tables are built if they do not suffice for the other stages of this run."""
    loop = rehearsal.open(context)
    rows = loop.data().facts["rows"]
    samples = show.samples(loop.tables)
    replaced = {"privacy": dg.MetadataValue.json(loop.lake.privacy_report())}
    for name in TABLES:
        yield dg.MaterializeResult(
            asset_key=["traces", name],
            metadata={
                "dagster/row_count": rows[name],
                "sample": dg.MetadataValue.md(samples[name]),
                "path": dg.MetadataValue.path(str(loop.lake.path / "tables" / f"{name}.parquet")),
                **(replaced if name == "conversations" else {}),
            },
        )
    selected = {key.to_user_string() for key in context.job_def.asset_layer.selected_asset_keys}
    loop.check_data([stage for stage, asset in STAGES.items() if asset in selected])
