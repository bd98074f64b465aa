"""Procedural tool worlds: random APIs, their failures, and conversations of users and agents. Start with `world.py`."""
