"""Telemetry in, clean tables out: OTLP is journalled, kept raw in Parquet, and read as conversations."""
