"""The Dagster code location `rehearsal`: everything under `defs/`, found by itself."""

from pathlib import Path

from dagster import Definitions, definitions, load_from_defs_folder


@definitions
def defs() -> Definitions:
    """Assets, checks, jobs, schedules, sensors and resources of the loop."""
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
