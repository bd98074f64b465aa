"""Log records that hold conversations without spans: events of command-line agents. Start with `sessions.py`."""
