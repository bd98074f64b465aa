"""The receiver's journal, an external asset: `rehearsal receive` writes it, not Dagster."""

import dagster as dg

journal = dg.AssetSpec(
    key=["landing", "journal"],
    group_name="landing",
    kinds={"opentelemetry", "file"},
    owners=["team:platform"],
    tags={"boundary": "external"},
    description=(
        "Append-only segments of raw OTLP requests, fsynced before the receiver answers. "
        "`rehearsal receive` writes them. The sensor `sealed_segments` starts a run when new segments are sealed."
    ),
)
