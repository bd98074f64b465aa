"""What the receiver wrote down before it said yes. It is made outside Dagster, by `rehearsal receive`."""

import dagster as dg

journal = dg.AssetSpec(
    key=["landing", "journal"],
    group_name="landing",
    kinds={"opentelemetry", "file"},
    owners=["team:platform"],
    tags={"boundary": "external"},
    description=(
        "Append-only segments of raw OTLP requests, fsynced before the receiver answers. "
        "`rehearsal receive` writes them; the sensor `sealed_segments` starts a run for each that is sealed."
    ),
)
