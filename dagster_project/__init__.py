"""The loop: assets, checks, schedules, sensors and the command line over the other rooms' functions."""
