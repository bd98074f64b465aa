"""Log records that tell conversations without spans: events of command-line agents. Start with `sessions.py`."""
