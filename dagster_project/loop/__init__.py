"""The stages of the loop and their storage. Start with `passes.py`."""
