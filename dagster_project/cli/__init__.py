"""The command `rehearsal`. Start with `main.py`."""
