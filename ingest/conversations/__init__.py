"""Spans become conversations: grouped, threaded, linked. Start with `assembly.py`."""
