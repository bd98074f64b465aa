"""Messages of any vendor in the form of the OpenTelemetry GenAI standard. Start with `normal.py`."""
