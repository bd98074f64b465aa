"""Example agents and environments, for the demo and the evaluation.

Each folder is one example. `production` and `telemetry` are shared: they run an example's agent and emit its spans.
"""
