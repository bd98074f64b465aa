"""Maintenance of a lake: retention of raw rows, and what a new mapping changes."""
