"""The Dagster code location `rehearsal`: everything under `defs/`, found by itself."""

import warnings
from pathlib import Path

from dagster import ComponentTree, Definitions, PreviewWarning, definitions

from dagster_project import defs as folder


@definitions
def defs() -> Definitions:
    """Assets, checks, jobs, schedules, sensors and resources of the loop.

    Not load_from_defs_folder: it wants a pyproject.toml above the package, and an installed wheel has none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)  # of what Dagster itself calls, as load_from_defs_folder does
        return ComponentTree.from_module(defs_module=folder, project_root=Path(__file__).parents[1]).build_defs()
