"""One pass through the loop, a stage at a time. Start with `passes.py`."""
