"""Conversations that come without telemetry, in the forms that people have them in (``formats.trajectories`` asks)."""
