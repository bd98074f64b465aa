"""The append-only journal of raw OTLP requests. Start with `segments.py`."""
