"""Orchestration: assets, checks, schedules, sensors and the command line. They call the other rooms' functions."""
