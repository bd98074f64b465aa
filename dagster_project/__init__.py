"""The loop: assets, checks, schedules and sensors over the functions of the other rooms, and the command line."""
