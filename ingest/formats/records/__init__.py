"""Conversations without telemetry, in the forms of datasets, APIs and exports (used by ``formats.trajectories``)."""
